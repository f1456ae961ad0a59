# SPDX-License-Identifier: Apache-2.0
"""Data files of a bag; the first bytes of each tell its storage.

rosbags trusts metadata.yaml instead, and loses messages where it differs (test_bag_libraries.py).
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final, NamedTuple

from segmentation_node.bags.bounds import MAX_MESSAGE_BYTES
from segmentation_node.bags.compression import ZSTD_MAGIC, decompress, decompress_file
from segmentation_node.bags.mcap_records import MAGIC
from segmentation_node.bags.mcap_storage import McapData
from segmentation_node.bags.metadata import says_packed_messages
from segmentation_node.bags.sqlite_storage import SqliteData
from segmentation_node.bags.topic import (
    ALL,
    METADATA_FILE,
    DataFile,
    RawMessage,
    Span,
    Topic,
)
from segmentation_node.errors import BagError

PACKED_SUFFIX: Final = '.zstd'
_ROS1_MAGIC: Final = b'#ROSBAG'
#: CDR begins with the identifier of its representation in 2 bytes, from 0 to this.
_CDR_LAST: Final = b'\0\x0b'
_HEAD_BYTES: Final = 16


class _Storage(NamedTuple):
    magic: bytes
    open: Callable[[Path, bool], DataFile]


#: By file suffix, which decides if the first bytes are damaged.
_STORAGES: Final[Mapping[str, _Storage]] = MappingProxyType(
    {'.mcap': _Storage(MAGIC, McapData), '.db3': _Storage(b'SQLite format 3\0', SqliteData)}
)
SUFFIXES: Final = tuple(_STORAGES)


def plain_name(file: Path) -> str:
    """Return the name of a data file without the suffix of its compression."""
    return file.name.removesuffix(PACKED_SUFFIX)


def is_data_file(file: Path) -> bool:
    """Return whether a file has the name of a data file, and is not hidden."""
    return has_data_name(file.name) and file.is_file()


def has_data_name(name: str) -> bool:
    """Return whether a name is that of a data file, and not hidden."""
    return name.removesuffix(PACKED_SUFFIX).endswith(SUFFIXES) and not name.startswith('.')


class DataFiles:
    """Storage of one data file, or of those that a recording was split into; see `Storage`."""

    def __init__(
        self, paths: Sequence[Path], salvage: bool = False, messages_are_packed: bool = False
    ) -> None:
        """Open.

        Args:
            paths: files in the order of their messages.
            salvage: read the messages before a damaged place, and skip the rest.
            messages_are_packed: each message is compressed; a file may say so itself.
        """
        self._packed = messages_are_packed
        self._files: list[tuple[Path, DataFile]] = []
        self.counts: dict[Topic, int] = {}
        try:
            for path in paths:
                try:
                    file = open_data_file(path, salvage)
                except BagError:
                    # The last file of a killed recording may be empty.
                    if salvage and (self._files or path != paths[-1]):
                        continue
                    raise
                self._files.append((path, file))
                self._packed |= says_packed_messages(path, file.metadata)
                for topic, count in file.counts.items():
                    self.counts[topic] = self.counts.get(topic, 0) + count
        except BaseException:
            self.close()
            raise

    def messages(self, topics: Collection[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        for path, file in self._files:
            for message in file.messages(set(topics), span):
                yield _unpacked(path, message, self._packed)

    def time_range_ns(self) -> tuple[int, int] | None:
        ranges = [file.time_range_ns() for _, file in self._files if any(file.counts.values())]
        known = [each for each in ranges if each is not None]
        in_order = all(a[1] <= b[0] for a, b in pairwise(known))
        if not known or len(known) < len(ranges) or not in_order:
            return None
        return known[0][0], known[-1][1]

    def close(self) -> None:
        for _, file in self._files:
            file.close()


def open_data_file(path: Path, salvage: bool) -> DataFile:
    """Open one data file, compressed or not.

    Raises:
        BagError: it is damaged, or not a data file of rosbag2.
    """
    if not path.is_file():
        raise BagError(f'{path} is not a regular file; give a bag folder, or a .mcap or .db3 file')
    head = _head(path)
    if head.startswith(ZSTD_MAGIC) or path.suffix == PACKED_SUFFIX:
        return _PackedFile(path, salvage)
    return _open_plain(path, head, salvage)


def _head(path: Path) -> bytes:
    with path.open('rb') as stream:
        return stream.read(_HEAD_BYTES)


def _open_plain(path: Path, head: bytes, salvage: bool) -> DataFile:
    if head.startswith(_ROS1_MAGIC):
        raise BagError(
            f'{path} is a bag of ROS 1, expected one of ROS 2: '
            f'"rosbags-convert --src {path} --dst {path.with_suffix("")}" converts it'
        )
    for storage in _STORAGES.values():
        if head.startswith(storage.magic):
            return storage.open(path, salvage)
    if path.suffix in _STORAGES:
        if not head:
            raise BagError(f'{path} is empty: its recording never began; record it again')
        return _STORAGES[path.suffix].open(path, salvage)
    raise BagError(
        f'{path} is not a bag: expected a folder with {METADATA_FILE}, or a .mcap or .db3 file'
        + (f': give its folder, {path.parent}' if path.name == METADATA_FILE else '')
    )


class _PackedFile:
    """Compressed data file, which is decompressed into a temporary folder."""

    def __init__(self, path: Path, salvage: bool) -> None:
        # Its finalizer removes it if close() is never called.
        self._folder = TemporaryDirectory(prefix='bag_')
        try:
            plain = Path(self._folder.name, plain_name(path))
            decompress_file(path, plain)
            self._file = _open_plain(plain, _head(plain), salvage)
        except BaseException:
            self._folder.cleanup()
            raise
        self.counts, self.metadata = self._file.counts, self._file.metadata

    def messages(self, topics: set[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        return self._file.messages(topics, span)

    def time_range_ns(self) -> tuple[int, int] | None:
        return self._file.time_range_ns()

    def close(self) -> None:
        self._file.close()
        self._folder.cleanup()


def _unpacked(path: Path, message: RawMessage, packed: bool) -> RawMessage:
    """Decompress a message if its first bytes say that it is compressed."""
    is_cdr = message.topic.serialization_format == 'cdr'
    if not is_cdr or (len(message.cdr) >= 2 and message.cdr[:2] <= _CDR_LAST):
        return message
    if not packed and not message.cdr.startswith(ZSTD_MAGIC):
        return message
    what = f'{path}: a message of {message.topic.shown}'
    return message._replace(cdr=decompress(message.cdr, 'zstd', what, MAX_MESSAGE_BYTES))
