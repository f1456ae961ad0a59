# SPDX-License-Identifier: Apache-2.0
"""Decode, scale and convert the images of an experiment once, into a cache.

    python -m training.prepare training/configs/deeplabv3plus_camvid8.yaml

Training does the same if the cache is missing or the files have changed, and then maps the cache
into memory. Every file is checked, so an invalid one is reported before training begins.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, SegmentationError, SettingError, one_line
from segmentation_node.labels import LabelScheme, load_scheme
from training.config import Experiment, Use, load_experiment
from training.datasets import LabeledFiles, open_files
from training.segments import Segments, classes_of, countable_channels, pack

#: Version of the cache's format; a change makes older caches invalid.
FORMAT: Final = 2
LABELS_FILE: Final = 'channels.bin'


@dataclass(frozen=True)
class PreparedImages:
    """Images and labels of one label scheme, mapped from a cache folder.

    Labels are channels, uint8, or for a task with instances, segments of channels, int32.
    `fingerprint` is the SHA-256 of all pixels and labels; unannotated pixels are IGNORE.
    """

    names: tuple[str, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...]  # in pixels
    fingerprint: str
    source: str
    _images: UInt8Array
    _labels: UInt8Array | Segments

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (3, H, W) uint8 RGB and (H, W) labels, views of the mapped files."""
        image_rgb, labels = self.arrays(index)
        return torch.from_numpy(image_rgb).permute(2, 0, 1), torch.from_numpy(labels)

    def arrays(self, index: int) -> tuple[UInt8Array, UInt8Array | Segments]:
        """Return (H, W, 3) uint8 RGB and (H, W) labels."""
        height, width = self.sizes_hw[index]
        pixels = slice(self.offsets[index], self.offsets[index] + height * width)
        image_rgb = self._images[pixels].reshape(height, width, 3)
        return image_rgb, self._labels[pixels].reshape(height, width)

    def channel_counts(self) -> npt.NDArray[np.int64]:
        """Return the number of pixels by channel in the whole set, (256,) int64."""
        return self._channel_counts

    @cached_property
    def _channel_counts(self) -> npt.NDArray[np.int64]:  # reads all labels from disk
        labels = (self.arrays(i)[1].ravel() for i in range(len(self)))
        counts = (np.bincount(classes_of(each), minlength=256) for each in labels)
        return np.asarray(np.sum(list(counts), axis=0), np.int64)


def prepared(experiment: Experiment, use: Use, target: LabelScheme) -> PreparedImages:
    """Return the images of one use of a data set from the cache, which is filled if necessary.

    Raises:
        DatasetError: a file is unpaired, unreadable, of the wrong size, or has unknown ids; or
            the cache cannot be written.
        SettingError, SchemeError: the data set or its scheme is unknown, or the task requires a
            class with instances, which the target lacks.
    """
    if experiment.has_instances and not countable_channels(target).any():
        raise SettingError(
            f'task {experiment.task} requires a class with instances, but label scheme '
            f'{target.name} has none; mark such classes with "countable: true"'
        )
    files = open_files(experiment, use, instances=experiment.has_instances)
    folder = Path(experiment.cache) / f'{use.set}-{use.split}-{_key(files, target, experiment)}'
    if not folder.exists():
        _fill(folder, files, target, experiment)
    return _map(folder, files.source, np.int32 if experiment.has_instances else np.uint8)


def _key(files: LabeledFiles, target: LabelScheme, experiment: Experiment) -> str:
    """Return a short digest of everything that the content of a cache folder depends on."""
    stats = [
        (str(p.resolve()), p.stat()) for pair in files.pairs for p in (pair.image, pair.labels)
    ]
    content = {
        'format': FORMAT,
        'files': [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats],
        'schemes': [_rows(files.scheme), _rows(target)],
        'fit_hw': experiment.fit_hw,
    } | ({'task': experiment.task} if experiment.has_instances else {})
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _rows(scheme: LabelScheme) -> list[Any]:
    """Return the rows and the ignored ids of a scheme as plain values."""
    return [*(asdict(c) for c in scheme.classes), scheme.ignored]


def _fill(folder: Path, files: LabeledFiles, target: LabelScheme, experiment: Experiment) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Written elsewhere and renamed, so that a folder with this name is always complete.
        with tempfile.TemporaryDirectory(prefix=f'{folder.name}.', dir=folder.parent) as name:
            aside = Path(name, 'whole')
            aside.mkdir()
            with (
                (aside / 'images.bin').open('wb') as images,
                (aside / LABELS_FILE).open('wb') as labels,
            ):
                index = _write(files, target, experiment, images, labels)
            (aside / 'index.json').write_text(json.dumps(index), encoding='utf-8')
            try:
                aside.rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another process has just created it
                    raise
    except OSError as error:
        raise DatasetError(
            f'the prepared images cannot be written to {folder}: {error}; free disk space there, '
            f'or set "cache" to another folder'
        ) from error


def _write(
    files: LabeledFiles,
    target: LabelScheme,
    experiment: Experiment,
    images: BinaryIO,
    labels: BinaryIO,
) -> dict[str, Any]:
    channel_of_id = target.channels_from(files.scheme)
    countable = countable_channels(target)
    digest = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    what = f'preparing {files.pairs[0].image.parent}'
    for pair in tqdm(files.pairs, what, unit='image', disable=None):
        image_rgb, ids, instances = files.read_instances(pair)
        channels = channel_of_id[ids]
        segments = pack(channels, instances, countable) if experiment.has_instances else channels
        image_rgb, targets = _fitted(image_rgb, segments, experiment.fit_hw)
        for stream, array in ((images, image_rgb), (labels, targets)):
            data = np.ascontiguousarray(array).tobytes()
            digest.update(data)
            stream.write(data)
        sizes.append((image_rgb.shape[0], image_rgb.shape[1]))
    names = [pair.name for pair in files.pairs]
    return {'names': names, 'sizes_hw': sizes, 'fingerprint': digest.hexdigest()}


def _fitted(
    image_rgb: UInt8Array, labels: npt.NDArray[Any], fit_hw: tuple[int, int] | None
) -> tuple[UInt8Array, npt.NDArray[Any]]:
    """Scale image and labels down to fit into a box, keeping the aspect ratio."""
    if fit_hw is None:
        return image_rgb, labels
    height, width = labels.shape
    scale = min(1.0, fit_hw[0] / height, fit_hw[1] / width)
    if scale == 1:
        return image_rgb, labels
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return (
        np.asarray(cv2.resize(image_rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8),
        # Plain "nearest" would shift the labels by half a pixel relative to the image.
        np.asarray(
            cv2.resize(labels, size_wh, interpolation=cv2.INTER_NEAREST_EXACT), labels.dtype
        ),
    )


def _map(folder: Path, source: str, dtype: npt.DTypeLike) -> PreparedImages:
    try:
        index = json.loads((folder / 'index.json').read_text(encoding='utf-8'))
        sizes = tuple((int(h), int(w)) for h, w in index['sizes_hw'])
        ends = np.cumsum([h * w for h, w in sizes]).tolist()
        return PreparedImages(
            tuple(index['names']), sizes, (0, *ends[:-1]), index['fingerprint'], source,
            _mapped(folder / 'images.bin', 3 * ends[-1], np.uint8).reshape(-1, 3),
            _mapped(folder / LABELS_FILE, ends[-1], dtype),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f'the prepared images in {folder} are damaged ({one_line(error)}); remove the folder '
            f'and repeat the command'
        ) from error


def _mapped(path: Path, size: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    # Copy on write, because torch warns of read-only memory.
    mapped: npt.NDArray[Any] = np.memmap(path, dtype, 'c')
    if mapped.size != size:
        raise ValueError(f'{path.name} has {mapped.size} values, expected {size}')
    return mapped


def prepare_all(experiment: Experiment) -> Iterator[tuple[str, PreparedImages]]:
    """Yield all data sets of an experiment with their names."""
    target = load_scheme(experiment.label_scheme)
    for use in experiment.train:
        yield f'{use.set} {use.split}', prepared(experiment, use, target)
    for name, val in experiment.val.items():
        yield name, prepared(experiment, val, target)


def main(argv: list[str] | None = None) -> int:
    """Run the command line: prepare the data sets and list them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='override a field')
    arguments = parser.parse_args(argv)
    try:
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        for name, images in prepare_all(experiment):
            print(f'{name}: {len(images)} images, fingerprint {images.fingerprint[:12]}')
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
