# SPDX-License-Identifier: Apache-2.0
"""Bags that rosbag2 compressed with zstd, whole files or message by message."""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from segmentation_node.bags.bounds import MAX_MESSAGE_BYTES
from segmentation_node.bags.topic import RawMessage, Storage, Topic
from segmentation_node.bags.unpacking import unpack, unpack_file


class PackedFiles:
    """A bag whose files are compressed; they are decompressed into a temporary folder."""

    def __init__(self, files: list[Path], open_files: Callable[[list[Path]], Storage]) -> None:
        # Its finalizer removes it where close() is not reached.
        self._folder = TemporaryDirectory(prefix='bag_')
        unpacked = [Path(self._folder.name, f'{i}_{file.stem}') for i, file in enumerate(files)]
        try:
            for source, target in zip(files, unpacked, strict=True):
                unpack_file(source, target)
            self._storage = open_files(unpacked)
        except BaseException:
            self._folder.cleanup()
            raise

    @property
    def counts(self) -> Mapping[Topic, int]:
        return self._storage.counts

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        return self._storage.messages(topics)

    def close(self) -> None:
        self._storage.close()
        self._folder.cleanup()


class PackedMessages:
    """A bag whose messages are compressed one by one."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self._path = path
        self._storage = storage

    @property
    def counts(self) -> Mapping[Topic, int]:
        return self._storage.counts

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        for message in self._storage.messages(topics):
            what = f'{self._path}: a message of {message.topic.shown}'
            cdr = unpack(message.cdr, 'zstd', what, MAX_MESSAGE_BYTES)
            yield message._replace(cdr=cdr)

    def close(self) -> None:
        self._storage.close()
