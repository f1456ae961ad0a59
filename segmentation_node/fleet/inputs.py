# SPDX-License-Identifier: Apache-2.0
"""Bags to label, in folders, lists and object stores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from segmentation_node.bags.data_files import has_data_name, plain_name
from segmentation_node.bags.topic import METADATA_FILE
from segmentation_node.errors import BagError, quoted
from segmentation_node.fleet.store import local_path, open_filesystem, storage_errors

#: Fields of fsspec's information that change with the content of a file, the best first.
_VERSIONS: Final = ('ETag', 'etag', 'md5Hash', 'content_md5', 'mtime', 'LastModified', 'updated')
#: The longest list of bags, in bytes.
_MAX_LIST_BYTES: Final = 64 << 20


class BagFile(NamedTuple):
    """File of a bag; `version` is its ETag, or the time of its last change."""

    name: str
    size: int
    version: str


@dataclass(frozen=True)
class BagInput:
    """Bag to label.

    `name` is the path of its results in the output; it has no suffix.
    """

    uri: str
    name: str
    files: tuple[BagFile, ...]
    is_folder: bool

    def identity(self) -> dict[str, Any]:
        """Return everything that changes with the bag, for JSON."""
        files = [list(file) for file in self.files]
        return {**asdict(self), 'files': files}


def find_bags(inputs: Sequence[str]) -> list[BagInput]:
    """Find the bags of all inputs, sorted by name.

    Args:
        inputs: bags, folders that are searched recursively, both as paths or URIs, and lists of
            them in text files, as @FILE.

    Raises:
        BagError: an input does not exist or has no bag, or two bags have one name.
        SettingError: a protocol is not supported.
    """
    bags: dict[str, BagInput] = {}
    for uri in dict.fromkeys(_expanded(inputs)):
        for bag in _bags_at(uri):
            other = bags.setdefault(bag.name, bag)
            if other.uri != bag.uri:
                raise BagError(
                    f'{other.uri} and {bag.uri} would both be written to {quoted(bag.name)} in '
                    f'the output; give the folder that holds both, or label one of them into '
                    f'another --output'
                )
    return [bags[name] for name in sorted(bags)]


def _expanded(inputs: Iterable[str]) -> list[str]:
    expanded = []
    for text in inputs:
        expanded += _listed(Path(text[1:])) if text.startswith('@') else [text]
    return expanded


def _listed(path: Path) -> list[str]:
    """Return the lines of a list, without empty ones and comments."""
    try:
        with path.open('rb') as stream:
            content = stream.read(_MAX_LIST_BYTES + 1)
        lines = content.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f'{path} cannot be read ({error}); give a text file of paths') from error
    if len(content) > _MAX_LIST_BYTES:
        raise BagError(f'{path} is longer than {_MAX_LIST_BYTES >> 20} MiB; split the list')
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith('#')]


def _bags_at(uri: str) -> list[BagInput]:
    filesystem, root = open_filesystem(uri)
    with storage_errors(uri):
        filesystem.invalidate_cache()
        if not filesystem.exists(root):
            raise BagError(f'{uri} does not exist; give a bag, or a folder with bags')
        if filesystem.isfile(root):
            return [_single(filesystem, root, root.rpartition('/')[0], filesystem.info(root))]
        found: Mapping[str, Any] = filesystem.find(root, detail=True)
    bags = _grouped(filesystem, root, found)
    if not bags:
        raise BagError(f'{uri} has no bag; expected folders of rosbag2, .mcap or .db3 files')
    return bags


def _grouped(filesystem: Any, root: str, found: Mapping[str, Any]) -> list[BagInput]:
    """Return a bag for each folder with metadata.yaml, and for each other data file."""
    folders: dict[str, dict[str, Any]] = {}
    for path, info in found.items():
        folder, _, name = str(path).rpartition('/')
        if has_data_name(name) or name == METADATA_FILE:
            folders.setdefault(folder, {})[name] = info
    bags = []
    for folder, files in folders.items():
        if METADATA_FILE in files:
            within = folder.removeprefix(root).strip('/') or root.rpartition('/')[2]
            listed = tuple(_file(name, files[name]) for name in sorted(files))
            bags.append(BagInput(_uri(filesystem, folder), _safe(within), listed, True))
        else:
            bags += [_single(filesystem, f'{folder}/{name}', root, info)
                     for name, info in files.items()]  # fmt: skip
    return bags


def _single(filesystem: Any, path: str, root: str, info: Mapping[str, Any]) -> BagInput:
    """Return the bag of one data file."""
    within = PurePosixPath(path.removeprefix(root).strip('/'))
    if not has_data_name(within.name):
        raise BagError(f'{path} is not a bag; expected a folder, or a .mcap or .db3 file')
    name = within.with_name(PurePosixPath(plain_name(Path(within.name))).stem)
    return BagInput(
        _uri(filesystem, path), _safe(str(name)), (_file(within.name, info),), is_folder=False
    )


def _file(name: str, info: Mapping[str, Any]) -> BagFile:
    version = next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), '')
    return BagFile(name, int(info['size'] or 0), version.strip('"'))


def _uri(filesystem: Any, path: str) -> str:
    return str(local_path(filesystem, path) or filesystem.unstrip_protocol(path))


def _safe(name: str) -> str:
    """Return the name of an output, which must stay within the folder of the output."""
    if any(part in ('', '.', '..') or '\\' in part or '\0' in part for part in name.split('/')):
        raise BagError(f'a bag has the name {quoted(name)}; expected one without "..": rename it')
    return name


def fetch(bag: BagInput, empty_folder: Callable[[], Path]) -> Path:
    """Return the path of a bag on this machine, where one in an object store is copied to.

    Raises:
        BagError: it cannot be read, or it has changed since it was found.
    """
    filesystem, root = open_filesystem(bag.uri)
    here = local_path(filesystem, root)
    folder = here or empty_folder()
    with storage_errors(bag.uri):
        filesystem.invalidate_cache()
        for file in bag.files:
            path = f'{root}/{file.name}' if bag.is_folder else root
            if _file(file.name, filesystem.info(path)) != file:
                raise BagError(f'{path} was changed while its bag was labeled; start again')
            if here is None:
                filesystem.get_file(path, str(folder / file.name))
    if here is not None:
        return here
    return folder if bag.is_folder else folder / bag.files[0].name
