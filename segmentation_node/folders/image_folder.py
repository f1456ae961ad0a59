# SPDX-License-Identifier: Apache-2.0
"""Image files in folders and below, and the names of their results."""

import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from segmentation_node.bags.bounds import tell
from segmentation_node.bags.sources import natural_key
from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.images.files import IMAGE_SUFFIXES

#: Image formats that are not supported; their files are reported, not skipped.
OTHER_IMAGE_SUFFIXES: Final = (
    '.avif', '.bmp', '.cr2', '.dng', '.exr', '.gif', '.heic', '.heif', '.jp2', '.jxl', '.nef',
    '.pbm', '.pgm', '.pnm', '.ppm', '.raw', '.svg', '.tga',
)  # fmt: skip
#: Size of the largest supported image, uncompressed and of 16 bits.
MAX_FILE_BYTES: Final = 512 << 20
MAX_FILES: Final = 1_000_000
#: Files that a message lists.
MAX_LISTED: Final = 5


@dataclass(frozen=True)
class ImageFile:
    """An image file, and the path of its results without suffix, below a folder of results."""

    path: Path
    key: str


@dataclass
class FoundFiles:
    """Files in the order of their names; `hidden` and `others` are left out."""

    images: list[ImageFile] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)

    def tell_left_out(self, program: str, kind: str) -> None:
        """List on stderr the files of a folder that are left out."""
        for what, paths in (('hidden', self.hidden), (f'not {kind}', self.others)):
            if paths:
                tell(program, f'left out {listed(paths)}: {what}')


def find_images(
    inputs: Sequence[Path], suffixes: Collection[str] = IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES
) -> FoundFiles:
    """Find image files.

    Args:
        inputs: files of any name, and folders, which are searched recursively.
        suffixes: endings of the names, in lower case, that are taken from a folder.

    Raises:
        DatasetError: an input does not exist, a folder cannot be read, there is no image, or two
            images would have results of one name.
    """
    found = FoundFiles()
    for given in inputs:
        if given.is_dir():
            for path in _files_below(given, found.hidden):
                if path.suffix.lower() in suffixes:
                    key = path.relative_to(given).with_suffix('').as_posix()
                    found.images.append(ImageFile(path, key))
                else:
                    found.others.append(path)
        elif given.exists():
            found.images.append(ImageFile(given, given.stem))
        else:
            raise DatasetError(f'{given} does not exist; give image files, or a folder of them')
    if not found.images:
        left_out = found.others + found.hidden
        there_are = f'; there are {listed(left_out)}' if left_out else ''
        raise DatasetError(
            f'{_names(inputs)}: no image found, expected files that end in '
            f'{", ".join(s for s in IMAGE_SUFFIXES if s in suffixes)}{there_are}'
        )
    _check_keys(found.images)
    return found


def _files_below(folder: Path, hidden: list[Path]) -> Iterator[Path]:
    """Files in a folder and below, each folder once, in natural order."""
    waiting, seen, count = [folder], set(), 0
    while waiting:
        folder = waiting.pop()
        place, entries = _listing(folder)
        if place in seen:
            continue  # a link that leads back
        seen.add(place)
        count += len(entries)
        if count > MAX_FILES:
            raise DatasetError(
                f'{folder}: more than {MAX_FILES} files; give fewer folders at once'
            )
        visible = [path for path in entries if not path.name.startswith('.')]
        hidden += [path for path in entries if path.name.startswith('.')]
        yield from (path for path in visible if not path.is_dir())
        waiting += [path for path in reversed(visible) if path.is_dir()]


def _listing(folder: Path) -> tuple[tuple[int, int], list[Path]]:
    """Return the identity of a folder, the same through all links, and its entries."""
    try:
        status = folder.stat()
        return (status.st_dev, status.st_ino), sorted(folder.iterdir(), key=natural_key)
    except OSError as error:
        raise DatasetError(
            f'{folder} cannot be read ({error}); give it read permission'
        ) from error


def _check_keys(images: Iterable[ImageFile]) -> None:
    taken: dict[str, Path] = {}
    for image in images:
        other = taken.setdefault(image.key, image.path)
        if other is not image.path:
            raise DatasetError(
                f'{other} and {image.path} would have results of the same name, {image.key}; '
                f'give files of one format, for example {image.path.parent}/*{image.path.suffix}, '
                f'or rename one of them'
            )


def read_bounded(path: Path) -> bytes:
    """Read a file; raises ImageError if it is not a regular file, or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ImageError('it is not a regular file; give an image file')
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(
            f'it has {status.st_size} bytes, expected at most {MAX_FILE_BYTES}; scale it down'
        )
    return path.read_bytes()


def listed(paths: Sequence[Path]) -> str:
    """Return the number of files and the names of the first."""
    return f'{len(paths)} file{"s" if len(paths) != 1 else ""} ({_names(paths)})'


def _names(paths: Sequence[Path]) -> str:
    more = len(paths) - MAX_LISTED
    names = ', '.join(map(str, paths[:MAX_LISTED]))
    return names + (f' and {more} more' if more > 0 else '')
