# SPDX-License-Identifier: Apache-2.0
"""Reads MCAP files with the mcap library, those that were cut short as far as they go."""

import struct
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import zstandard
from mcap.exceptions import InvalidMagic, McapError
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, Schema, Statistics
from mcap.stream_reader import StreamReader
from mcap.summary import Summary

from segmentation_node.bags.qos import parse_qos
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.errors import BagError

#: What the library raises on damaged data: its own errors and those of whatever it calls.
DAMAGED: Final = (
    McapError,
    struct.error,
    ValueError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    OSError,
    RuntimeError,
    zstandard.ZstdError,
)


class McapStorage:
    """One MCAP file, or those a recording was split into; see `reader.Storage`.

    With `salvage`, what comes before a damage is read and the rest is passed over.
    """

    def __init__(self, paths: Collection[Path], salvage: bool = False) -> None:
        self.counts: dict[Topic, int] = {}
        self._files: list[_McapFile] = []
        try:
            for path in paths:
                self._files.append(_McapFile(path, salvage))
        except BagError:
            self.close()
            raise
        for file in self._files:
            for topic, count in file.counts.items():
                self.counts[topic] = self.counts.get(topic, 0) + count

    def messages(self, topics: Collection[Topic]) -> Iterator[RawMessage]:
        for file in self._files:
            yield from file.messages(set(topics))

    def close(self) -> None:
        for file in self._files:
            file.close()


class _McapFile:
    def __init__(self, path: Path, salvage: bool) -> None:
        self._path = path
        self._salvage = salvage
        self._file = path.open('rb')
        self._topics: dict[int, Topic] = {}
        self._indexed = False
        self.counts: dict[Topic, int] = {}
        try:
            self._open()
        except BagError:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self._reader = SeekingReader(
                self._file, validate_crcs=True, record_size_limit=self._path.stat().st_size
            )
            summary = self._reader.get_summary() or Summary()
        except InvalidMagic as error:
            raise BagError(
                f'{self._path} does not begin like an MCAP file; give a bag folder, or a .mcap or '
                f'.db3 file'
            ) from error
        except DAMAGED as error:
            self._scan(error)
            return
        statistics = summary.statistics
        if statistics is not None and _describes(summary, statistics.channel_message_counts):
            self._take(summary, statistics)
        else:
            self._scan(None)
        self._indexed = bool(summary.chunk_indexes) and _describes(summary, self._topics)

    def _take(self, summary: Summary, statistics: Statistics) -> None:
        for channel in summary.channels.values():
            self._declare(channel, summary.schemas.get(channel.schema_id))
        for channel_id, count in statistics.channel_message_counts.items():
            self.counts[self._topics[channel_id]] += count

    def _scan(self, known_error: Exception | None) -> None:
        """Count by reading everything; raises BagError where the file is cut and must not be."""
        error: Exception | None = None
        try:
            for message in self._stream():
                self.counts[message.topic] += 1
        except DAMAGED as found:
            error = found
        error = error or known_error
        if error is not None and not (self._salvage and self._topics):
            raise self._damaged(error, sum(self.counts.values())) from error

    def messages(self, topics: set[Topic]) -> Iterator[RawMessage]:
        read = self._indexed_messages if self._indexed else self._stream
        count = 0
        try:
            for message in read():
                count += 1
                if message.topic in topics:
                    yield message
        except DAMAGED as error:
            if not self._salvage:
                raise self._damaged(error, count) from error

    def _indexed_messages(self) -> Iterator[RawMessage]:
        for _, channel, message in self._reader.iter_messages():
            yield _raw(self._topics[channel.id], message)

    def _stream(self) -> Iterator[RawMessage]:
        """Messages in the order of the file, without its index."""
        self._file.seek(0)
        schemas: dict[int, Schema] = {}
        limit = self._path.stat().st_size
        for record in StreamReader(
            self._file, validate_crcs=True, record_size_limit=limit
        ).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in self._topics:
                self._declare(record, schemas.get(record.schema_id))
            elif isinstance(record, Message):
                yield _raw(self._topics[record.channel_id], record)

    def _declare(self, channel: Channel, schema: Schema | None) -> None:
        topic = Topic(
            channel.topic,
            schema.name if schema else '',
            schema.data.decode(errors='surrogateescape') if schema else '',
            schema.encoding if schema else '',
            channel.metadata.get('topic_type_hash', ''),
            parse_qos(channel.metadata.get('offered_qos_profiles', '')),
            channel.message_encoding,
        )
        self._topics[channel.id] = topic
        self.counts.setdefault(topic, 0)

    def _damaged(self, error: Exception, count: int) -> BagError:
        return BagError(
            f'{self._path} is damaged or cut short ({type(error).__name__}: {error}); '
            f'{count} messages before that are readable: allow --salvage to use them, or let '
            f'"mcap recover" write a whole file'
        )

    def close(self) -> None:
        self._file.close()


def _describes(summary: Summary, channel_ids: Collection[int]) -> bool:
    """Whether a summary repeats these channels and their schemas; it is free not to."""
    known = {0, *summary.schemas}  # 0 is no schema
    channels = map(summary.channels.get, channel_ids)
    return all(channel is not None and channel.schema_id in known for channel in channels)


def _raw(topic: Topic, message: Message) -> RawMessage:
    return RawMessage(topic, message.log_time, message.data, message.publish_time)
