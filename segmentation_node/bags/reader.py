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
from segmentation_node.bags.camera_frames import DecodedCameras, carries_video
from segmentation_node.bags.data_files import (
    PACKED_SUFFIX,
    DataFiles,
    is_data_file,
    plain_name,
)
from segmentation_node.bags.metadata import read_metadata
from segmentation_node.bags.topic import ALL, METADATA_FILE, RawMessage, Span, Storage, Topic
from segmentation_node.errors import BagError, quoted
from segmentation_node.images.video import can_decode

#: Topics that an error message lists.
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
        """Stamp of the first message, 0 without messages."""
        return next((message.stamp_ns for message in self.messages()), 0)

    def count(self, name: str) -> int:
        """Return the number of messages of all topics of a name."""
        return sum(count for topic, count in self.counts.items() if topic.name == name)

    def topic(self, name: str) -> Topic:
        """Return the topic of a name; raises BagError with the names that exist."""
        for topic in self.topics:
            if topic.name == name:
                return topic
        raise BagError(f'{self.path} has no topic {quoted(name)}; it has {self.listing()}')

    def messages(
        self, names: Collection[str] | None = None, span: Span = ALL
    ) -> Iterator[RawMessage]:
        """Return the messages of the named topics (None: all) in the order of their stamps.

        Messages of an MCAP file without an index come in the order of the file.

        Raises:
            BagError: there is no topic of that name, or the bag is damaged.
        """
        topics = self.topics
        if names is not None:
            known = {topic.name for topic in topics}
            for name in set(names) - known:
                self.topic(name)
            topics = [topic for topic in topics if topic.name in names]
        return self._storage.messages(topics, span)

    def time_range_ns(self) -> tuple[int, int] | None:
        """Return first and last stamp; None if messages are not in the order of their stamps."""
        return self._storage.time_range_ns()

    def carries_video(self, name: str) -> bool:
        """Return whether a camera topic is compressed video."""
        return any(carries_video(self._storage, topic) for topic in self.topics
                   if topic.name == name)  # fmt: skip

    def first(self, name: str) -> RawMessage:
        """Return the first message of a topic; raises BagError if there is none."""
        for message in self.messages({name}):
            return message
        raise BagError(f'{self.path} has no message on {shown(name)}; record it again')

    def close(self) -> None:
        """Close the files."""
        self._storage.close()

    def __enter__(self) -> 'Bag':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def listing(self) -> str:
        """Return the topics with their types, for a terminal."""
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
        salvage: read a damaged MCAP file up to the damage, and all data files of a folder whose
            metadata.yaml is missing or does not match them.
        decode_video: present compressed video as sensor_msgs/Image, if PyAV is installed.
        decode_images: present sensor_msgs/CompressedImage as sensor_msgs/Image, under names
            without "/compressed".

    Raises:
        BagError: it is damaged or not a bag; says how much can be saved.
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
            f'{folder} lacks {_names(missing)}, which {METADATA_FILE} lists; copy the '
            f'whole folder, give one of its files, or allow --salvage to read the others'
        )
    if more and not salvage:
        raise BagError(
            f'{folder} holds {_names(more)}, which {METADATA_FILE} does not list: let '
            f'"ros2 bag reindex {folder}" write it anew, allow --salvage to read all data files, '
            f'or move files of other recordings elsewhere'
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
    """Return the file, or its compressed or decompressed form, whichever exists."""
    if file.is_file():
        return file
    siblings = (file.with_name(plain_name(file)), file.with_name(f'{file.name}{PACKED_SUFFIX}'))
    return next((sibling for sibling in siblings if sibling.is_file()), file)


def _check_counts(folder: Path, storage: Storage, expected: Mapping[str, int]) -> None:
    """Raise BagError if there are fewer messages than at the end of the recording."""
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
    """Return the data files of an unfinished recording, which has no metadata.yaml."""
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
    """Return the data files of a folder in the order of their numbers, each once."""

    def number(file: Path) -> tuple[int, str]:
        found = re.search(r'_(\d{1,9})$', Path(plain_name(file)).stem)
        return int(found[1]) if found else -1, file.name

    files = {plain_name(file): file for file in sorted(folder.iterdir(), reverse=True)
             if is_data_file(file)}  # fmt: skip
    return sorted(files.values(), key=number)


def _names(files: list[Path]) -> str:
    more = f' and {len(files) - 5} more' if len(files) > 5 else ''
    return ', '.join(shown(file.name) for file in files[:5]) + more
