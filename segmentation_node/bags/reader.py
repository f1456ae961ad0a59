# SPDX-License-Identifier: Apache-2.0
"""Reads any rosbag2: a folder with metadata.yaml, or a single .mcap or .db3 file.

with open_bag('drive.mcap') as bag:
    for message in bag.messages({'/image'}):
        print(message.topic.name, message.stamp_ns, len(message.cdr))
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from segmentation_node.bags.bounds import (
    MAX_FILES,
    MAX_METADATA_BYTES,
    MAX_TOPICS,
    shown,
)
from segmentation_node.bags.compressed_storage import PackedFiles, PackedMessages
from segmentation_node.bags.mcap_storage import McapStorage
from segmentation_node.bags.sqlite_storage import SqliteStorage
from segmentation_node.bags.topic import METADATA_FILE, RawMessage, Storage, Topic
from segmentation_node.errors import BagError, ForeignError, quoted
from segmentation_node.foreign import read_yaml

#: Who reads what, by metadata.yaml's storage_identifier: the bag's files, and whether to salvage.
#: A database needs no salvage: sqlite takes it back to its last transaction by itself.
STORAGES: Final[Mapping[str, Callable[[list[Path], bool], Storage]]] = MappingProxyType(
    {'mcap': McapStorage, 'sqlite3': lambda paths, _: SqliteStorage(paths)}
)
SUFFIXES: Final = MappingProxyType({'.mcap': 'mcap', '.db3': 'sqlite3'})
#: How a bag may be compressed, by metadata.yaml's compression_mode; "storage" is MCAP's own.
COMPRESSION_MODES: Final = ('', 'none', 'storage', 'file', 'message')


#: Of a file's name, on most systems.
MAX_NAME_BYTES: Final = 255
#: Topics that a message names.
MAX_LISTED: Final = 30


class Bag:
    """An open bag; a context manager."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self._storage = storage

    @property
    def counts(self) -> Mapping[Topic, int]:
        """Number of messages of each topic."""
        return self._storage.counts

    @property
    def topics(self) -> list[Topic]:
        """All topics, sorted by name."""
        return sorted(self.counts, key=lambda topic: (topic.name, topic.msgtype))

    @property
    def message_count(self) -> int:
        """Number of all messages."""
        return sum(self.counts.values())

    @property
    def start_ns(self) -> int:
        """Stamp of the first message, 0 where there is none."""
        return next((message.stamp_ns for message in self.messages()), 0)

    def topic(self, name: str) -> Topic:
        """The topic of a name; raises BagError with the names that exist."""
        for topic in self.topics:
            if topic.name == name:
                return topic
        raise BagError(f'{self.path} has no topic {quoted(name)}; it has {self.listing()}')

    def messages(self, names: Collection[str] | None = None) -> Iterator[RawMessage]:
        """Messages of the named topics, of all where None, in the order of their stamps.

        An MCAP file without an index gives them in the order in which they lie in it.

        Raises:
            BagError: no topic of such a name, or the bag turns out to be damaged.
        """
        topics = self.topics
        if names is not None:
            known = {topic.name for topic in topics}
            for name in set(names) - known:
                self.topic(name)
            topics = [topic for topic in topics if topic.name in names]
        return self._storage.messages(topics)

    def first(self, name: str) -> RawMessage:
        """The first message of a topic; raises BagError where there is none."""
        for message in self.messages({name}):
            return message
        raise BagError(f'{self.path} has no message on {shown(name)}; record it again')

    def close(self) -> None:
        """Let go of the files."""
        self._storage.close()

    def __enter__(self) -> 'Bag':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listing(self) -> str:
        """Topics with their types, as text for people."""
        names = [f'{topic.shown} ({topic.shown_type})' for topic in self.topics[:MAX_LISTED]]
        more = len(self.topics) - len(names)
        return ', '.join(names) + (f' and {more} more' if more else '') or 'no topics at all'


def open_bag(path: str | Path, salvage: bool = False) -> Bag:
    """Open a bag for reading.

    Args:
        path: folder or file.
        salvage: of an MCAP file that is damaged, read what comes before the damage; of a folder
            without metadata.yaml, which a killed recording leaves, the data files in it.

    Raises:
        BagError: it is none, or damaged; says what can be saved and how.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f'{path} does not exist; give a bag folder, or a .mcap or .db3 file')
    storage = _open_folder(path, salvage) if path.is_dir() else _open_file(path, salvage)
    if len(storage.counts) > MAX_TOPICS:
        storage.close()
        raise BagError(f'{path} has {len(storage.counts)} topics, expected at most {MAX_TOPICS}')
    return Bag(path, storage)


def _open_file(path: Path, salvage: bool) -> Storage:
    storage = SUFFIXES.get(path.suffix)
    if storage is None:
        raise BagError(
            f'{path} is no bag: expected a folder with {METADATA_FILE}, or a file that ends in '
            f'{" or ".join(SUFFIXES)}' + _hint_for_metadata(path)
        )
    if not path.is_file():
        raise BagError(f'{path} is no regular file; give a bag folder, or a .mcap or .db3 file')
    if path.stat().st_size == 0:
        raise BagError(f'{path} is empty: its recording never began; record it again')
    return STORAGES[storage]([path], salvage)


def _hint_for_metadata(path: Path) -> str:
    return f': give its folder, {path.parent}' if path.name == METADATA_FILE else ''


class _Metadata(NamedTuple):
    """Return what metadata.yaml says about the files of a bag."""

    storage: str
    files: list[Path]
    compression_mode: str


def _open_folder(path: Path, salvage: bool) -> Storage:
    is_unfinished = not (path / METADATA_FILE).exists() and bool(_data_files(path))
    metadata = _guess_metadata(path) if salvage and is_unfinished else _read_metadata(path)
    missing = [shown(file.name) for file in metadata.files if not file.is_file()]
    if missing:
        raise BagError(
            f'{path} lacks {", ".join(missing[:5])}, of which {METADATA_FILE} speaks; copy the '
            f'whole folder, or give one of its files'
        )
    storage = STORAGES[metadata.storage]
    if metadata.compression_mode == 'file':
        return PackedFiles(metadata.files, lambda files: storage(files, salvage))
    opened = storage(metadata.files, salvage)
    return PackedMessages(path, opened) if metadata.compression_mode == 'message' else opened


def _read_metadata(path: Path) -> _Metadata:
    """Read metadata.yaml, whose every value is whatever its writer chose."""
    file = path / METADATA_FILE
    if not file.is_file():
        found = [p.name for p in _data_files(path)]
        remedy = (
            f'the recording was killed before its end. Give the file itself ({path / found[0]}), '
            f'allow --salvage, or let "ros2 bag reindex {path}" write it'
            if found
            else 'give the folder of a bag, or a .mcap or .db3 file'
        )
        raise BagError(f'{path} has no {METADATA_FILE}: {remedy}')
    try:
        information = _information(file)
        names = information['relative_file_paths']
        storage = information['storage_identifier']
        mode = information.get('compression_mode') or ''
        format_ = information.get('compression_format') or ''
        if not isinstance(names, list) or len(names) > MAX_FILES:
            raise ValueError(f'relative_file_paths is {quoted(names)}, expected a list of names')
        # Older versions of rosbag2 wrote them with the name of the folder before.
        files = [path / _file_name(name) for name in names]
        if len(set(files)) < len(files):
            raise ValueError(f'relative_file_paths names a file twice: {quoted(names)}')
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ForeignError) as error:
        reason = shown(' '.join(f'{type(error).__name__}: {error}'.split()), 300)
        raise BagError(
            f'{file} is no rosbag2 metadata ({reason}); "ros2 bag reindex {path}" writes it anew'
        ) from error
    if not isinstance(storage, str) or storage not in STORAGES:
        raise BagError(
            f'{path} has storage {quoted(storage)}, expected {" or ".join(STORAGES)}; '
            f'"ros2 bag convert" makes one of the other'
        )
    return _Metadata(storage, files, _compression_mode(path, mode, format_))


def _information(file: Path) -> dict[str, object]:
    information = read_yaml(file, max_bytes=MAX_METADATA_BYTES)['rosbag2_bagfile_information']
    if not isinstance(information, dict):
        raise TypeError(f'rosbag2_bagfile_information is {quoted(information)}')
    return information


def _file_name(path: object) -> str:
    name = Path(path).name if isinstance(path, str) else ''
    if name in ('', '..') or '\0' in name or len(os.fsencode(name)) > MAX_NAME_BYTES:
        raise ValueError(f'relative_file_paths has {quoted(path)}, expected names of files')
    return name


def _compression_mode(path: Path, mode: object, format_: object) -> str:
    mode = mode.lower() if isinstance(mode, str) else mode
    if mode not in COMPRESSION_MODES:
        raise BagError(
            f'{path} has compression mode {quoted(mode)}, expected one of '
            f'{", ".join(filter(None, COMPRESSION_MODES))}: "ros2 bag convert" writes it anew'
        )
    if mode in ('file', 'message') and format_ != 'zstd':
        raise BagError(
            f'{path} has compression format {quoted(format_)}, expected zstd: "ros2 bag convert" '
            f'writes it anew'
        )
    return str(mode)


def _guess_metadata(path: Path) -> _Metadata:
    """The files that a killed recording left."""
    files = _data_files(path)
    storages = {SUFFIXES[file.suffix] for file in files}
    if len(storages) != 1:
        raise BagError(
            f'{path} has no {METADATA_FILE}, and {len(files)} data files of {len(storages)} '
            f'storages; give one of the files'
        )
    return _Metadata(storages.pop(), files, '')


def _data_files(path: Path) -> list[Path]:
    """Data files in a folder in the order of their numbers."""

    def number(file: Path) -> tuple[int, str]:
        found = re.search(r'_(\d{1,9})$', file.stem)
        return int(found[1]) if found else -1, file.name

    return sorted((p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file()), key=number)
