# SPDX-License-Identifier: Apache-2.0
"""Reads any rosbag2: a folder with metadata.yaml, or a single .mcap or .db3 file.

with open_bag('drive.mcap') as bag:
    for message in bag.messages({'/image'}):
        print(message.topic.name, message.stamp_ns, len(message.cdr))
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from segmentation_node.bags.bounds import MAX_TOPICS, shown
from segmentation_node.bags.camera_frames import DecodedCameras
from segmentation_node.bags.data_files import (
    PACKED_SUFFIX,
    DataFiles,
    is_data_file,
    plain_name,
)
from segmentation_node.bags.metadata import read_metadata
from segmentation_node.bags.topic import METADATA_FILE, RawMessage, Storage, Topic
from segmentation_node.errors import BagError, quoted
from segmentation_node.images.video import can_decode

#: Topics that a message names.
MAX_LISTED: Final = 30


class Bag:
    """An open bag; a context manager."""

    def __init__(
        self, path: Path, storage: Storage, decoded: DecodedCameras | None = None
    ) -> None:
        self.path = path
        self._storage = storage if decoded is None else decoded
        #: Messages of cameras that could not be decoded when they were last read, by reason.
        self.lost: Mapping[str, int] = {} if decoded is None else decoded.lost

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

    def count(self, name: str) -> int:
        """Number of messages under a name, of all its topics."""
        return sum(count for topic, count in self.counts.items() if topic.name == name)

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


def open_bag(
    path: str | Path,
    salvage: bool = False,
    decode_video: bool = False,
    decode_images: bool = False,
) -> Bag:
    """Open a bag for reading.

    Args:
        path: folder or file.
        salvage: of an MCAP file that is damaged, read what comes before the damage; of a folder
            whose metadata.yaml is missing, as after a killed recording, or does not fit its data
            files, read all data files.
        decode_video: show topics of compressed video as topics of sensor_msgs/Image, if PyAV is
            installed.
        decode_images: show topics of sensor_msgs/CompressedImage as topics of sensor_msgs/Image,
            under their names without "/compressed".

    Raises:
        BagError: it is none, or damaged; says what can be saved and how.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f'{path} does not exist; give a bag folder, or a .mcap or .db3 file')
    storage = _open_folder(path, salvage) if path.is_dir() else DataFiles([path], salvage)
    if len(storage.counts) > MAX_TOPICS:
        storage.close()
        raise BagError(f'{path} has {len(storage.counts)} topics, expected at most {MAX_TOPICS}')
    decode_video = decode_video and can_decode()
    if not (decode_video or decode_images):
        return Bag(path, storage)
    return Bag(path, storage, DecodedCameras(storage, video=decode_video, images=decode_images))


def _open_folder(folder: Path, salvage: bool) -> Storage:
    there = _data_files(folder)
    if not (folder / METADATA_FILE).is_file():
        return DataFiles(_unlisted_files(folder, there, salvage), salvage)
    metadata = read_metadata(folder)
    listed = [_present(folder / name) for name in metadata.files]
    names = {plain_name(file) for file in listed}
    missing = [file for file in listed if not file.is_file()]
    more = [file for file in there if plain_name(file) not in names]
    if not there and not listed:
        raise BagError(f'{folder} has no data file, expected .mcap or .db3 files; copy it again')
    if missing and not (salvage and there):
        raise BagError(
            f'{folder} lacks {_names(missing)}, of which {METADATA_FILE} speaks; copy the '
            f'whole folder, give one of its files, or allow --salvage to read what is there'
        )
    if more and not salvage:
        raise BagError(
            f'{folder} holds {_names(more)}, of which {METADATA_FILE} does not speak: let '
            f'"ros2 bag reindex {folder}" write it anew, allow --salvage to read all data files, '
            f'or move what is no part of the recording elsewhere'
        )
    files = there if missing or more else listed
    storage = DataFiles(files, salvage, metadata.messages_are_packed)
    if not salvage:
        try:
            _check_counts(folder, storage, metadata.counts)
        except BagError:
            storage.close()
            raise
    return storage


def _present(file: Path) -> Path:
    """The file, or the one that it became when it was compressed or decompressed."""
    if file.is_file():
        return file
    siblings = (file.with_name(plain_name(file)), file.with_name(f'{file.name}{PACKED_SUFFIX}'))
    return next((sibling for sibling in siblings if sibling.is_file()), file)


def _check_counts(folder: Path, storage: Storage, expected: Mapping[str, int]) -> None:
    """Raise BagError where there are fewer messages than when the recording ended."""
    counts: dict[str, int] = {}
    for topic, count in storage.counts.items():
        counts[topic.name] = counts.get(topic.name, 0) + count
    for name, count in expected.items():
        if counts.get(name, 0) < count:
            raise BagError(
                f'{folder} has {counts.get(name, 0)} messages of {shown(name)}, but its '
                f'{METADATA_FILE} counted {quoted(count)}: copy the whole folder again, or allow '
                f'--salvage to read what is there'
            )


def _unlisted_files(folder: Path, there: list[Path], salvage: bool) -> list[Path]:
    """Data files of a folder without metadata.yaml, which a killed recording leaves."""
    if not there:
        raise BagError(
            f'{folder} has no {METADATA_FILE}: give the folder of a bag, or a .mcap or .db3 file'
        )
    if not salvage:
        raise BagError(
            f'{folder} has no {METADATA_FILE}: the recording was killed before its end. Give the '
            f'file itself ({there[0]}), allow --salvage, or let "ros2 bag reindex {folder}" '
            f'write it'
        )
    suffixes = {Path(plain_name(file)).suffix for file in there}
    if len(suffixes) != 1:
        raise BagError(
            f'{folder} has no {METADATA_FILE}, and {len(there)} data files of {len(suffixes)} '
            f'storages; give one of the files'
        )
    return there


def _data_files(folder: Path) -> list[Path]:
    """Data files in a folder in the order of their numbers, each once, compressed or not."""

    def number(file: Path) -> tuple[int, str]:
        found = re.search(r'_(\d{1,9})$', Path(plain_name(file)).stem)
        return int(found[1]) if found else -1, file.name

    files = {plain_name(file): file for file in sorted(folder.iterdir(), reverse=True)
             if is_data_file(file)}  # fmt: skip
    return sorted(files.values(), key=number)


def _names(files: list[Path]) -> str:
    more = f' and {len(files) - 5} more' if len(files) > 5 else ''
    return ', '.join(shown(file.name) for file in files[:5]) + more
