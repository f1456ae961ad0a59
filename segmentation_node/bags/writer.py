# SPDX-License-Identifier: Apache-2.0
"""Writes a rosbag2: a folder with metadata.yaml, or a single .mcap file.

An exception, a signal or a full disk ends the bag early, but as a complete and readable bag. A
process that is killed leaves an unfinished bag, which lacks at most the last second: older
messages are with the operating system.

>>> with BagWriter('out.mcap') as bag:
...     bag.write(topic, stamp_ns, cdr)
"""

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import yaml

from segmentation_node.bags.bounds import MAX_METADATA_BYTES
from segmentation_node.bags.mcap_file import McapFile
from segmentation_node.bags.mcap_records import MAGIC
from segmentation_node.bags.qos import dump_qos
from segmentation_node.bags.sqlite_file import RESERVE_BYTES, SqliteFile
from segmentation_node.bags.topic import METADATA_FILE, METADATA_VERSION, Topic
from segmentation_node.errors import BagError, ForeignError
from segmentation_node.untrusted import read_yaml

#: Longest wait of a message until it is handed to the operating system, and period of the check.
FLUSH_AFTER_S: Final = 0.5
FLUSH_CHECK_S: Final = 0.25
NEW_METADATA_FILE: Final = f'{METADATA_FILE}.new'
#: Raised by a full, slow or vanished disk.
DISK_ERRORS: Final = (OSError, sqlite3.Error)


class StorageFile(Protocol):
    """A bag's data file; every method may raise one of DISK_ERRORS and stays usable."""

    @property
    def message_counts(self) -> Mapping[Topic, int]:
        """Messages of each topic that are safe in the file."""

    @property
    def time_range_ns(self) -> tuple[int, int]:
        """First and last stamp of the safe messages, (0, 0) without messages."""

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic before its first message."""

    def write(self, topic: Topic, stamp_ns: int, sent_ns: int, cdr: bytes) -> None:
        """Add a message."""

    def flush(self) -> None:
        """Write the added messages to the disk; those that do not fit are dropped."""

    def finish(self, metadata_yaml: str) -> None:
        """Write the end of the file; may be repeated."""

    def make_room(self) -> bool:
        """Drop the newest messages to make room for the end; False if that does not help."""

    def close(self) -> None:
        """Close the file."""


class DataFileSummary(NamedTuple):
    """Name, range of stamps, and topics with their numbers of messages, of a finished data file.

    `topics` has the form of `topics_with_message_count` in metadata.yaml.
    """

    name: str
    time_range_ns: tuple[int, int]
    topics: list[dict[str, Any]]

    @property
    def message_count(self) -> int:
        """Number of all messages."""
        return sum(topic['message_count'] for topic in self.topics)


STORAGE_FILES: Final[Mapping[str, tuple[str, Callable[[Path], StorageFile]]]] = MappingProxyType(
    {'mcap': ('.mcap', McapFile), 'sqlite3': ('.db3', SqliteFile)}
)


class BagWriter:
    """A bag being written; a context manager that always finishes it.

    Raises:
        BagError: `path` exists, or the disk is full; names the number of safe messages.
    """

    def __init__(
        self,
        path: str | Path,
        storage: str = 'mcap',
        overwrite: bool = False,
        inputs: Collection[Path] = (),
    ) -> None:
        """Open.

        Args:
            path: a new folder, or a .mcap file.
            storage: one of STORAGE_FILES.
            overwrite: replace an existing bag.
            inputs: bags that are being read, and must not be replaced.
        """
        self.path = Path(path)
        check_output(self.path, storage, overwrite, inputs)
        suffix, make = STORAGE_FILES[storage]
        self._storage = storage
        self._is_folder = self.path.suffix != suffix
        self._data_path = (
            self.path / f'{self.path.name}_0{suffix}' if self._is_folder else self.path
        )
        #: Occupies its place on the disk from the beginning; renamed when it is complete.
        self._new_metadata = self.path / NEW_METADATA_FILE
        self._written = 0
        self._topics: set[Topic] = set()
        #: Guards the state below; a thread flushes messages.
        self._lock = threading.RLock()
        self._oldest_s: float | None = None
        self._failure: BagError | None = None
        self._closed = threading.Event()
        try:
            _remove_own_files(self.path)
            self._data_path.parent.mkdir(parents=True, exist_ok=True)
            if self._is_folder:
                self._new_metadata.write_bytes(bytes(RESERVE_BYTES))
            self._file: StorageFile | None = make(self._data_path)
        except DISK_ERRORS as error:
            raise BagError(
                f'cannot create {self._data_path} ({error}); choose another --output'
            ) from error
        # A daemon, so that a writer that is never closed does not keep its process alive.
        self._flusher = threading.Thread(target=self._flush_in_time, name='flush', daemon=True)
        self._flusher.start()

    @property
    def message_counts(self) -> Mapping[Topic, int]:
        """Messages of each topic that are safe in the bag."""
        with self._lock:
            return self._counts if self._file is None else self._file.message_counts

    @property
    def summary(self) -> DataFileSummary:
        """Description of the data file; complete after `close`."""
        with self._lock:
            return self._summary if self._file is None else self._summarize(self._file)

    def add_topic(self, topic: Topic) -> None:
        """Declare a topic; `write` does it for topics with messages."""
        if topic not in self._topics:
            self._do(lambda file: file.add_topic(topic))
            self._topics.add(topic)

    def write(self, topic: Topic, stamp_ns: int, cdr: bytes, sent_ns: int | None = None) -> None:
        """Add a serialized message, recorded at `stamp_ns` and sent at `sent_ns`."""
        if not 0 <= stamp_ns < 2**63:
            raise BagError(
                f'a message on {topic.shown} has stamp {stamp_ns} ns; expected 0 to 2^63: correct '
                f'the clock or the timestamp it came from'
            )
        self.add_topic(topic)
        self._written += 1
        sent_ns = stamp_ns if sent_ns is None else sent_ns
        with self._lock:
            self._do(lambda file: file.write(topic, stamp_ns, sent_ns, cdr))
            if self._oldest_s is None:
                self._oldest_s = time.monotonic()

    def close(self) -> None:
        """Finish the bag; raises BagError with the number of saved messages if some were lost."""
        self._closed.set()
        self._flusher.join()
        with self._lock:
            if self._failure is not None:
                self._raise_failure()
            if self._file is not None:
                self._do(lambda file: file.flush())
                error = self._finish()
                if error is not None:
                    raise self._incomplete(error) from error

    def _do(self, action: Callable[[StorageFile], None]) -> None:
        with self._lock:
            if self._failure is not None:
                self._raise_failure()
            if self._file is None:
                raise BagError(f'{self.path} is finished already; open another writer')
            try:
                action(self._file)
            except DISK_ERRORS as error:
                self._finish()
                raise self._incomplete(error) from error

    def _raise_failure(self) -> None:
        """Raise the error of the flushing thread, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _flush_in_time(self) -> None:
        """Flush messages that have waited long enough, even if no further message comes."""
        while not self._closed.wait(FLUSH_CHECK_S):
            with self._lock:
                if self._file is None:
                    return
                oldest_s = self._oldest_s
                if oldest_s is None or time.monotonic() - oldest_s < FLUSH_AFTER_S:
                    continue
                self._oldest_s = None
                try:
                    self._do(lambda file: file.flush())
                except BagError as error:
                    self._failure = error

    def _incomplete(self, error: Exception) -> BagError:
        saved = sum(self._counts.values())
        return BagError(
            f'cannot write to {self.path} ({error}); {saved} of {self._written} messages are '
            f'safely in it and the bag is readable: free some space, or choose another --output'
        )

    def _finish(self) -> Exception | None:
        """Finish the bag with all safe messages; returns the error that cost the newest ones."""
        file, self._file = self._file, None
        if file is None:
            return None
        lost_to: Exception | None = None
        try:
            while True:
                self._counts, self._summary = file.message_counts, self._summarize(file)
                try:
                    self._write_metadata(file)
                except DISK_ERRORS as error:
                    lost_to = error
                    if not file.make_room():
                        raise BagError(
                            f'cannot finish {self._data_path} ({error}); free some space, then '
                            f'let "ros2 bag reindex" or "mcap recover" restore it'
                        ) from error
                else:
                    return lost_to
        finally:
            file.close()

    def _write_metadata(self, file: StorageFile) -> None:
        information = bag_information(self._storage, [self._summarize(file)])
        file.finish(yaml.safe_dump(information, sort_keys=False))
        if self._is_folder:
            whole = metadata_yaml(information)
            with self._new_metadata.open('r+b') as stream:
                stream.write(whole.encode())
                stream.truncate()
            self._new_metadata.replace(self.path / METADATA_FILE)

    def _summarize(self, file: StorageFile) -> DataFileSummary:
        topics = [
            {'topic_metadata': _topic_metadata(topic), 'message_count': count}
            for topic, count in file.message_counts.items()
        ]
        return DataFileSummary(self._data_path.name, file.time_range_ns, topics)

    def __enter__(self) -> 'BagWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bag_information(storage: str, files: Sequence[DataFileSummary]) -> dict[str, Any]:
    """Return the metadata of a bag of one or several data files, in the order of their stamps."""
    topics: list[dict[str, Any]] = []
    for topic in (topic for file in files for topic in file.topics):
        same = [t for t in topics if t['topic_metadata'] == topic['topic_metadata']]
        if same:
            same[0]['message_count'] += topic['message_count']
        else:
            topics.append(dict(topic))
    filled = [file.time_range_ns for file in files if file.message_count] or [(0, 0)]
    range_ns = min(start for start, _ in filled), max(end for _, end in filled)
    return {
        'version': METADATA_VERSION,
        'storage_identifier': storage,
        **_extent(range_ns, sum(file.message_count for file in files)),
        'topics_with_message_count': topics,
        'compression_format': '',
        'compression_mode': '',
        'relative_file_paths': [file.name for file in files],
        'files': [
            {'path': file.name, **_extent(file.time_range_ns, file.message_count)}
            for file in files
        ],
        'custom_data': None,
        'ros_distro': 'unknown',
    }


def metadata_yaml(information: Mapping[str, Any]) -> str:
    """Return the content of metadata.yaml."""
    return yaml.safe_dump({'rosbag2_bagfile_information': information}, sort_keys=False)


def _extent(range_ns: tuple[int, int], messages: int) -> dict[str, Any]:
    start_ns, end_ns = range_ns
    return {
        'starting_time': {'nanoseconds_since_epoch': start_ns},
        'duration': {'nanoseconds': end_ns - start_ns},
        'message_count': messages,
    }


def _topic_metadata(topic: Topic) -> dict[str, str]:
    return {
        'name': topic.name,
        'type': topic.msgtype,
        'serialization_format': topic.serialization_format,
        'offered_qos_profiles': dump_qos(topic.qos),
        'type_description_hash': topic.type_hash,
    }


def check_output(path: Path, storage: str, overwrite: bool, inputs: Collection[Path] = ()) -> None:
    """Raise BagError unless a bag may be written to `path`; changes nothing."""
    if storage not in STORAGE_FILES:
        raise BagError(f'unknown storage {storage!r}; there are {", ".join(STORAGE_FILES)}')
    if path.suffix == '.db3' or (path.suffix == '.mcap' and storage != 'mcap'):
        raise BagError(
            f'{path} would be a single file of storage {storage}; only .mcap files stand alone: '
            f'name a folder for the bag'
        )
    for source in inputs:
        a, b = path.resolve(), source.resolve()
        if a == b or a in b.parents or b in a.parents:
            raise BagError(f'{path} is or holds the input {source}; choose another --output')
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise BagError(f'{path} exists; choose another --output, or allow --overwrite')
    foreign = _foreign_files(path)
    if foreign:
        raise BagError(
            f'{path} is not just a bag ({", ".join(foreign[:5])}), so nothing in it is deleted; '
            f'choose another --output'
        )


def _foreign_files(path: Path) -> list[str]:
    """Return the names of all files at a path that are no part of a bag of that name."""
    if path.is_symlink():
        return ['it is a link']
    if path.is_dir() and path.suffix == '.mcap':
        return ['it is a folder']
    if path.is_file():
        with path.open('rb') as file:
            start = file.read(len(MAGIC))
        return (
            [] if start in (MAGIC, b'') and path.suffix == '.mcap' else ['it is not an MCAP file']
        )
    # Files of an unfinished recording, which has no metadata.yaml yet.
    own = re.compile(
        re.escape(path.name)
        + r'_\d+\.(mcap|db3(-wal|-shm|-journal)?)|'
        + re.escape(NEW_METADATA_FILE)
    )
    listed = _listed_files(path / METADATA_FILE)
    return sorted(
        entry.name
        for entry in path.iterdir()
        if entry.is_symlink()
        or not entry.is_file()
        or not (entry.name in listed or own.fullmatch(entry.name))
    )


def _listed_files(metadata: Path) -> set[str]:
    """Return the files that a metadata.yaml names, and itself."""
    try:
        content = read_yaml(metadata, max_bytes=MAX_METADATA_BYTES)
        names = content['rosbag2_bagfile_information']['relative_file_paths']
        return {metadata.name, *map(str, names)}
    except (ForeignError, LookupError, TypeError):
        return set()


def _remove_own_files(path: Path) -> None:
    if path.is_dir():
        for entry in path.iterdir():
            entry.unlink()
    else:
        path.unlink(missing_ok=True)
