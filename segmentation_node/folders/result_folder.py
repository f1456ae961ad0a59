# SPDX-License-Identifier: Apache-2.0
"""Folder of results: a folder for each kind of picture, and the description of the labels."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from segmentation_node import topics
from segmentation_node.errors import DatasetError
from segmentation_node.folders.image_folder import ImageFile, listed
from segmentation_node.images.files import encode_png
from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.detections import encode_json
from segmentation_node.pipeline.outputs import OUTPUTS

PICTURES: Final = (
    topics.LABEL_MASK, topics.COLOR_MASK, topics.OVERLAY, topics.CONFIDENCE, topics.INSTANCE_MASK,
    topics.DETECTIONS,
)  # fmt: skip
LABEL_INFO_FILE: Final = 'label_info.json'
_SUFFIXES: Final = MappingProxyType({'png': '.png', 'jpeg': '.jpg'})


class _Format(NamedTuple):
    suffix: str
    encode: Callable[[Any], bytes]


#: Compressed as on the topics; pictures without a compressed topic are stored as PNG, detections
#: as JSON.
_FORMATS: Final = MappingProxyType(
    {name: _Format('.png', encode_png) for name in PICTURES}
    | {topics.DETECTIONS: _Format('.json', encode_json)}
    | {o.topic: _Format(_SUFFIXES[o.codec], o.encode) for o in OUTPUTS.values() if o.encode}
)


class ResultFolder:
    """The folder with the results of images, `NAME/KEY.png` for each kind of picture.

    Files are complete, and an image has all of its pictures or none.
    """

    def __init__(self, path: Path, names: Sequence[str], images: Sequence[ImageFile]) -> None:
        """Plan the files; changes nothing.

        Args:
            path: the folder.
            names: which of PICTURES to write.
            images: images whose results are written.
        """
        self.path = path
        self._names = names
        self._info = path / LABEL_INFO_FILE
        self._planned = {self._info, *(self._file(n, i.key) for n in names for i in images)}
        #: Temporary files of a killed run.
        self._aside = {_aside(path) for path in self._planned}

    def check(self, overwrite: bool, inputs: Sequence[Path]) -> None:
        """Raise DatasetError unless results may be written; changes nothing.

        Args:
            overwrite: allow existing files, if this run writes all of them.
            inputs: images and folders that are read, and must not be written to.
        """
        output = self.path.resolve()
        for source in inputs:
            folder = source.resolve()
            if source.is_dir() and (output == folder or folder in output.parents):
                raise DatasetError(
                    f'{self.path} is in the folder that is read, {source}; choose an --output '
                    f'outside of it'
                )
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise DatasetError(f'{self.path} is not a folder; choose another --output')
        there = [path for path in sorted(self.path.rglob('*')) if not path.is_dir()]
        if there and not overwrite:
            raise DatasetError(
                f'{self.path} holds {listed(there)}; choose another --output, or allow --overwrite'
            )
        foreign = [path for path in there if path not in self._planned | self._aside]
        if foreign:
            raise DatasetError(
                f'{self.path} holds {listed(foreign)} that this run does not write; choose '
                f'another --output, or remove them'
            )

    def begin(self, scheme: LabelScheme) -> None:
        """Remove the results of an earlier run, and write the description of the labels.

        Raises:
            DatasetError: the folder cannot be written.
        """
        try:
            for path in self._planned | self._aside:
                path.unlink(missing_ok=True)
            self._write({self._info: scheme.to_json().encode()})
        except OSError as error:
            raise DatasetError(
                f'{self.path} cannot be written ({error}); choose another --output'
            ) from error

    def write(self, key: str, rendered: Rendered) -> None:
        """Write the pictures of an image.

        Raises:
            ImageError: one cannot be compressed; none is written.
            OSError: the disk is full; none is written.
        """
        self._write(
            {self._file(n, key): _FORMATS[n].encode(getattr(rendered, n)) for n in self._names}
        )

    def _file(self, name: str, key: str) -> Path:
        return self.path / name / (key + _FORMATS[name].suffix)

    def _write(self, contents: Mapping[Path, bytes]) -> None:
        with ExitStack() as undo:
            for path, content in contents.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                undo.callback(_aside(path).unlink, missing_ok=True)
                _aside(path).write_bytes(content)
            for path in contents:
                undo.callback(path.unlink, missing_ok=True)
                _aside(path).replace(path)
            undo.pop_all()


def _aside(path: Path) -> Path:
    """Return the temporary path of a file; short, since the name may have the full length."""
    return path.with_name('.segment_images.new')
