# SPDX-License-Identifier: Apache-2.0
"""Sources of frames for a new bag: a Cityscapes tree or a folder of images."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final, TypeVar

from segmentation_node.bags.bounds import shown
from segmentation_node.bags.messages import SECOND_NS, Intrinsics
from segmentation_node.errors import BagError, ForeignError
from segmentation_node.images import cityscapes
from segmentation_node.images.cityscapes import PICTURE_FOLDERS
from segmentation_node.images.files import IMAGE_SUFFIXES, visible_files
from segmentation_node.untrusted import read_json

LABEL_SUFFIXES: Final = ('.png', '.tif', '.tiff')
PICTURE_ENDING: Final = cityscapes.ending(cityscapes.PICTURE)

_Place = TypeVar('_Place')


@dataclass(frozen=True)
class SourceFrame:
    """Files of one frame; `time_ns` counts from the first frame."""

    image: Path
    time_ns: int
    label: Path | None = None
    camera: Path | None = None


@dataclass(frozen=True)
class Source:
    """Frames in the order of their times; `unpaired` are label files without an image."""

    frames: Sequence[SourceFrame]
    unpaired: Sequence[Path] = ()
    #: A frame without a label file is reported.
    labels_expected: bool = False


def natural_key(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame_9 comes before frame_10."""
    parts = re.split(r'(\d+)', path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def folder_source(images: Path, labels: Path | None, rate_hz: float) -> Source:
    """Return the images of a folder in natural order, with label images of the same names.

    Raises:
        BagError: a folder is missing, or there is no image in it.
    """
    pictures = _files(images, IMAGE_SUFFIXES)
    if not pictures:
        raise BagError(f'{images} holds no image; expected {", ".join(IMAGE_SUFFIXES)} files')
    label_of = {} if labels is None else _by_stem(_files(labels, LABEL_SUFFIXES))
    frames = [
        SourceFrame(picture, round(index * SECOND_NS / rate_hz), label_of.pop(picture.stem, None))
        for index, picture in enumerate(pictures)
    ]
    return Source(frames, sorted(label_of.values(), key=natural_key), labels is not None)


def _files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    if not folder.is_dir():
        raise BagError(f'{folder} is not a folder; give the folder with the image files')
    return sorted(visible_files(folder, suffixes), key=natural_key)


def _by_stem(files: Sequence[Path]) -> dict[str, Path]:
    """Map names without suffix to files; raises BagError where two files share a name."""
    found: dict[str, Path] = {}
    for path in files:
        if (other := found.setdefault(path.stem, path)) != path:
            raise BagError(
                f'{other} and {path.name} are both the labels of {path.stem}; remove one of them'
            )
    return found


def cityscapes_source(
    root: Path,
    rate_hz: float,
    splits: Collection[str] = (),
    cities: Collection[str] = (),
    sequence: bool = False,
) -> Source:
    """Return the frames of a Cityscapes tree; an empty selection means all.

    A recorded sequence keeps its timestamps if all of its frames have one. It starts one period
    after the end of the sequence before it.

    Raises:
        BagError: no such tree, split or city, or a damaged timestamp.
    """
    tree = _Tree(root, _picture_folder(root, sequence))
    cities_dirs = tree.cities(splits, cities)
    pictures = sorted(p for folder in cities_dirs for p in folder.glob(f'[!.]*{PICTURE_ENDING}'))
    if not pictures:
        raise BagError(f'{tree.pictures} holds no *{PICTURE_ENDING} in what was selected')
    period_ns = round(SECOND_NS / rate_hz)
    frames: list[SourceFrame] = []
    start_ns = 0
    for _, group in groupby(pictures, key=tree.sequence_of):
        members = list(group)
        for picture, time_ns in zip(members, tree.times_ns(members, period_ns), strict=True):
            files = (
                cityscapes.companion(root, picture, kind) for kind in (cityscapes.LABELS, 'camera')
            )
            label, camera = (file if file.is_file() else None for file in files)
            frames.append(SourceFrame(picture, start_ns + time_ns, label, camera))
        start_ns = frames[-1].time_ns + period_ns
    return Source(frames, tree.unpaired(cities_dirs))


def _picture_folder(root: Path, sequence: bool) -> str:
    wanted = PICTURE_FOLDERS[1:] if sequence else PICTURE_FOLDERS
    for name in wanted:
        if (root / name).is_dir():
            return name
    raise BagError(
        f'{root} is not a Cityscapes tree: it has no folder {" or ".join(wanted)}; give the '
        f'folder above it, or take --images for a plain folder'
    )


@dataclass(frozen=True)
class _Tree:
    root: Path
    picture_folder: str

    @property
    def pictures(self) -> Path:
        return self.root / self.picture_folder

    def cities(self, splits: Collection[str], cities: Collection[str]) -> list[Path]:
        """Folders of the selected cities; raises BagError with the names that exist."""
        all_splits = {p.name: p for p in _folders(self.pictures)}
        chosen = _choose('split', all_splits, splits, self.pictures)
        all_cities: dict[str, list[Path]] = {}
        for split in chosen:
            for folder in _folders(split):
                all_cities.setdefault(folder.name, []).append(folder)
        return [
            folder
            for folders in _choose('city', all_cities, cities, self.pictures)
            for folder in folders
        ]

    def sequence_of(self, picture: Path) -> tuple[str, str, str]:
        """Split, city and number of the recorded sequence, from the file name."""
        return picture.parts[-3], picture.parts[-2], picture.name.rsplit('_', 2)[0]

    def times_ns(self, pictures: list[Path], period_ns: int) -> list[int]:
        """Times of one sequence's frames from its first on."""
        files = [cityscapes.companion(self.root, picture, 'timestamp') for picture in pictures]
        if not all(file.is_file() for file in files):
            return [index * period_ns for index in range(len(files))]
        stamps_ns = [_read_timestamp(file) for file in files]
        for file, earlier, later in zip(files[1:], stamps_ns, stamps_ns[1:], strict=False):
            if later <= earlier:
                raise BagError(
                    f'{file} holds {later} ns, which is not after its predecessor ({earlier} ns); '
                    f'remove timestamp_sequence to go by --rate-hz'
                )
        return [stamp_ns - stamps_ns[0] for stamp_ns in stamps_ns]

    def unpaired(self, cities: list[Path]) -> list[Path]:
        """Label files of the selected cities that belong to no picture."""
        if self.picture_folder != PICTURE_FOLDERS[0]:
            return []  # sequences are often incomplete: a label without a frame is no mistake
        unpaired = []
        for city in cities:
            labels = cityscapes.folder(self.root, cityscapes.LABELS) / city.parent.name / city.name
            ending = cityscapes.ending(cityscapes.LABELS)
            for label in sorted(labels.glob(f'[!.]*{ending}')):
                picture = city / (label.name.removesuffix(ending) + PICTURE_ENDING)
                if not picture.is_file():
                    unpaired.append(label)
        return unpaired


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith('.'))


def _choose(
    what: str, there: Mapping[str, _Place], wanted: Collection[str], at: Path
) -> list[_Place]:
    unknown = sorted(set(wanted) - set(there))
    if unknown:
        raise BagError(f'{at} has no {what} {", ".join(unknown)}; there are {", ".join(there)}')
    return [value for name, value in there.items() if not wanted or name in wanted]


def _read_timestamp(file: Path) -> int:
    with file.open('rb') as stream:
        text = stream.read(100)
    try:
        stamp_ns = int(text.decode('ascii'))
        if not 0 <= stamp_ns < 2**63:
            raise ValueError(f'{stamp_ns} is not from 0 to 2^63')
    except ValueError as error:
        raise BagError(
            f'{file} holds no timestamp; expected nanoseconds: {shown(str(error))}'
        ) from error
    return stamp_ns


def read_intrinsics(camera: Path) -> Intrinsics:
    """Read a Cityscapes camera file; raises BagError if it is invalid."""
    try:
        content = read_json(camera)['intrinsic']
        return Intrinsics(*(float(content[key]) for key in ('fx', 'fy', 'u0', 'v0')))
    except (ForeignError, ValueError, LookupError, TypeError, OverflowError) as error:
        reason = shown(f'{type(error).__name__}: {error}')
        raise BagError(
            f'{camera} is not a camera file ({reason}); expected JSON with intrinsic fx, fy, u0, '
            f'v0'
        ) from error
