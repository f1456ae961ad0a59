# SPDX-License-Identifier: Apache-2.0
"""Reads any rosbag2: a folder with metadata.yaml, or a single .mcap or .db3 file.

with open_bag('drive.mcap') as bag:
    for message in bag.messages({'/image'}):
        print(message.topic.name, message.stamp_ns, len(message.cdr))
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import yaml

from segmentation_node.bags.mcap_storage import McapStorage
from segmentation_node.bags.rosbags_storage import RosbagsStorage
from segmentation_node.bags.topic import METADATA_FILE, RawMessage, Topic
from segmentation_node.errors import BagError


class Storage(Protocol):
    """A readable bag; every method raises BagError where the bag is damaged."""

    counts: dict[Topic, int]

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        """All messages of some topics in the order in which they were recorded."""

    def close(self) -> None:
        """Let go of the files."""


#: Who reads what, by metadata.yaml's storage_identifier: the bag's files, and whether to salvage.
#: A database needs no salvage: sqlite takes it back to its last transaction by itself.
STORAGES: Final[Mapping[str, Callable[[list[Path], bool], Storage]]] = MappingProxyType(
    {'mcap': McapStorage, 'sqlite3': lambda paths, _: RosbagsStorage(paths[0])}
)
SUFFIXES: Final = MappingProxyType({'.mcap': 'mcap', '.db3': 'sqlite3'})


class Bag:
    """An open bag; a context manager."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self._storage = storage

    @property
    def counts(self) -> dict[Topic, int]:
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
        raise BagError(f'{self.path} has no topic {name!r}; it has {self.listing()}')

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
        raise BagError(f'{self.path} has no message on {name}; record it again')

    def close(self) -> None:
        """Let go of the files."""
        self._storage.close()

    def __enter__(self) -> 'Bag':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listing(self) -> str:
        """All topics with their types, as text for people."""
        names = [f'{topic.name} ({topic.msgtype})' for topic in self.topics]
        return ', '.join(names) or 'no topics at all'


def open_bag(path: str | Path, salvage: bool = False) -> Bag:
    """Open a bag for reading.

    Args:
        path: folder or file.
        salvage: of an MCAP file that is damaged, read what comes before the damage.

    Raises:
        BagError: it is none, or damaged; says what can be saved and how.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f'{path} does not exist; give a bag folder, or a .mcap or .db3 file')
    if path.is_dir():
        return Bag(path, _open_folder(path, salvage))
    storage = SUFFIXES.get(path.suffix)
    if storage is None:
        raise BagError(
            f'{path} is no bag: expected a folder with {METADATA_FILE}, or a file that ends in '
            f'{" or ".join(SUFFIXES)}' + _hint_for_metadata(path)
        )
    if path.stat().st_size == 0:
        raise BagError(f'{path} is empty: its recording never began; record it again')
    return Bag(path, STORAGES[storage]([path], salvage))


def _hint_for_metadata(path: Path) -> str:
    return f': give its folder, {path.parent}' if path.name == METADATA_FILE else ''


def _open_folder(path: Path, salvage: bool) -> Storage:
    information = _read_metadata(path)
    try:
        identifier = information['storage_identifier']
        files = [path / Path(name).name for name in information['relative_file_paths']]
        mode = str(information.get('compression_mode') or '').lower()
    except (KeyError, TypeError, AttributeError) as error:
        raise BagError(
            f'{path / METADATA_FILE} is no rosbag2 metadata ({error!r}); '
            f'"ros2 bag reindex {path}" writes it anew'
        ) from error
    if identifier not in STORAGES:
        raise BagError(
            f'{path} has storage {identifier!r}, expected {" or ".join(STORAGES)}; '
            f'"ros2 bag convert" makes one of the other'
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise BagError(
            f'{path} lacks {", ".join(missing)}, of which {METADATA_FILE} speaks; copy the whole '
            f'folder, or give one of its files'
        )
    if mode not in ('', 'none') or identifier == 'sqlite3':
        return RosbagsStorage(path)  # it unpacks compressed bags, too
    return STORAGES[identifier](files, salvage)


def _read_metadata(path: Path) -> dict[str, Any]:
    file = path / METADATA_FILE
    if not file.is_file():
        found = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
        remedy = (
            f'the recording was killed before its end. Give the file itself ({path / found[0]}), '
            f'or let "ros2 bag reindex {path}" write it'
            if found
            else 'give the folder of a bag, or a .mcap or .db3 file'
        )
        raise BagError(f'{path} has no {METADATA_FILE}: {remedy}')
    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
        information: dict[str, Any] = content['rosbag2_bagfile_information']
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = ' '.join(str(error).split())
        raise BagError(
            f'{file} is no rosbag2 metadata ({reason}); "ros2 bag reindex {path}" writes it anew'
        ) from error
    return information
