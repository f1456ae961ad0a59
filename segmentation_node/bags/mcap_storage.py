# SPDX-License-Identifier: Apache-2.0
"""Reads MCAP files; of one that was cut short, all messages before the cut.

The readers of mcap and rosbags give no message of such a file (test_bag_libraries.py).
"""

import heapq
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from mcap.records import Channel, Chunk, ChunkIndex, McapRecord, Message, Metadata, Schema
from mcap.summary import Summary

from segmentation_node.bags.bounds import MAX_QUEUED_BYTES, MAX_TOPICS, shown
from segmentation_node.bags.mcap_records import (
    MAGIC,
    RecordError,
    chunk_records,
    file_records,
    read_summary,
    record_at,
)
from segmentation_node.bags.qos import read_qos
from segmentation_node.bags.topic import ALL, RawMessage, Span, Topic
from segmentation_node.errors import BagError

#: Raised by reading a damaged file.
DAMAGED: Final = (BagError, OSError, MemoryError)
#: Name of the record with the metadata of rosbag2, and the key of its text.
_ROSBAG2: Final = 'rosbag2'
_ROSBAG2_KEY: Final = 'serialized_metadata'


class McapData:
    """One MCAP file; see `topic.DataFile`.

    With `salvage`, messages before a damaged place are read, and the rest is skipped.
    """

    def __init__(self, path: Path, salvage: bool) -> None:
        self._path = path
        self._salvage = salvage
        self._topics: dict[int, Topic] = {}
        self._indexes: list[ChunkIndex] = []
        self._indexed = False
        self.counts: dict[Topic, int] = {}
        self.metadata = ''
        try:
            with path.open('rb') as stream:
                self._open(stream)
        except OSError as error:
            raise self._damaged(error, 0) from error

    def _open(self, stream: BinaryIO) -> None:
        self._size = self._path.stat().st_size
        if self._size >= len(MAGIC) and stream.read(len(MAGIC)) != MAGIC:
            raise BagError(
                f'{self._path} does not begin like an MCAP file; give a bag folder, or a .mcap or '
                f'.db3 file'
            )
        try:
            summary = read_summary(stream, self._size)
            _check_overlap(summary.chunk_indexes)
            self.metadata = self._rosbag2_metadata(summary, stream)
        except DAMAGED as error:
            self._scan(stream, error)
            return
        counts = summary.statistics.channel_message_counts if summary.statistics else None
        if counts is not None and _describes(summary, counts):
            self._take(summary, counts)
        else:
            self._scan(stream, None)
        self._indexes = summary.chunk_indexes
        self._indexed = _finds_all_chunks(summary) and _describes(summary, self._topics)

    def _rosbag2_metadata(self, summary: Summary, stream: BinaryIO) -> str:
        """Return the text of the last metadata record of rosbag2, '' without one."""
        for index in reversed(summary.metadata_indexes):
            if index.name == _ROSBAG2:
                return _metadata_text(record_at(stream, index.offset, index.length, self._size))
        return ''

    def _take(self, summary: Summary, counts: Mapping[int, int]) -> None:
        for channel in summary.channels.values():
            self._declare(channel, summary.schemas.get(channel.schema_id))
        for channel_id, count in counts.items():
            self.counts[self._topics[channel_id]] += count

    def _scan(self, stream: BinaryIO, known_error: Exception | None) -> None:
        """Count by reading everything; raises BagError if the file is cut, unless salvaging."""
        error: Exception | None = None
        try:
            for message in self._stream(stream):
                self.counts[message.topic] += 1
        except DAMAGED as found:
            error = found
        error = error or known_error
        if error is not None and not (self._salvage and self._topics):
            raise self._damaged(error, sum(self.counts.values())) from error

    def messages(self, topics: set[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        in_span = partial(self._indexed_messages, span=span)
        read = in_span if self._indexed else self._stream
        count = 0
        try:
            with self._path.open('rb') as stream:
                for message in read(stream):
                    count += 1
                    if message.topic in topics and span.includes(message.stamp_ns):
                        yield message
            expected = sum(self.counts.values())
            if count != expected and span == ALL:
                raise RecordError(f'{count} messages were read, but it counts {expected}')
        except DAMAGED as error:
            if not self._salvage:
                raise self._damaged(error, count) from error

    def time_range_ns(self) -> tuple[int, int] | None:
        if not self._indexed:
            return None
        filled = [index for index in self._indexes if index.message_end_time]
        first_ns = min((index.message_start_time for index in filled), default=0)
        return first_ns, max((index.message_end_time for index in filled), default=0)

    def _indexed_messages(self, stream: BinaryIO, span: Span) -> Iterator[RawMessage]:
        """Messages of the chunks that meet a span, in the order of their stamps.

        Chunks may overlap in time: a chunk is read when its first stamp is due, and what is read
        waits in a heap. Where stamps are the same, the order of the file decides.
        """
        chunks = [(index.message_start_time, index.chunk_start_offset, index)
                  for index in self._indexes
                  if span.meets(index.message_start_time, index.message_end_time)]  # fmt: skip
        chunks.sort(key=lambda chunk: chunk[:2], reverse=True)
        waiting: list[tuple[int, int, int, Message]] = []
        waiting_bytes = 0
        while chunks or waiting:
            if chunks and (not waiting or chunks[-1][:2] <= waiting[0][:2]):
                _, start, index = chunks.pop()
                for number, record in enumerate(self._records_of(index, stream)):
                    if isinstance(record, Message):
                        heapq.heappush(waiting, (record.log_time, start, number, record))
                        waiting_bytes += len(record.data)
                if waiting_bytes > MAX_QUEUED_BYTES:
                    raise RecordError(
                        f'the chunks at byte {start} and before overlap in time by more than '
                        f'{MAX_QUEUED_BYTES >> 20} MiB'
                    )
                continue
            message = heapq.heappop(waiting)[-1]
            waiting_bytes -= len(message.data)
            yield self._raw(message)

    def _records_of(self, index: ChunkIndex, stream: BinaryIO) -> Iterator[McapRecord]:
        start = index.chunk_start_offset
        chunk = record_at(stream, start, index.chunk_length, self._size)
        if not isinstance(chunk, Chunk):
            raise RecordError(f'there is no chunk at byte {start}')
        yield from chunk_records(chunk)

    def _stream(self, stream: BinaryIO) -> Iterator[RawMessage]:
        """Messages in the order of the file, without its index."""
        schemas: dict[int, Schema] = {}
        for record in file_records(stream, self._size):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in self._topics:
                self._declare(record, schemas.get(record.schema_id))
            elif isinstance(record, Metadata):
                self.metadata = self.metadata or _metadata_text(record)
            elif isinstance(record, Message):
                yield self._raw(record)

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def _raw(self, message: Message) -> RawMessage:
        topic = self._topics.get(message.channel_id)
        if topic is None:
            raise RecordError(
                f'a message is of channel {message.channel_id}, which is not declared'
            )
        return RawMessage(topic, message.log_time, message.data, message.publish_time)

    def _declare(self, channel: Channel, schema: Schema | None) -> None:
        if len(self._topics) >= MAX_TOPICS:
            raise RecordError(f'it declares more than {MAX_TOPICS} topics')
        qos, qos_is_damaged = read_qos(channel.metadata.get('offered_qos_profiles', ''))
        topic = Topic(
            channel.topic,
            _type_name(schema.name, channel.message_encoding) if schema else '',
            schema.data.decode(errors='surrogateescape') if schema else '',
            schema.encoding if schema else '',
            channel.metadata.get('topic_type_hash', ''),
            qos,
            channel.message_encoding,
            qos_is_damaged,
        )
        self._topics[channel.id] = topic
        self.counts.setdefault(topic, 0)

    def _damaged(self, error: Exception, count: int) -> BagError:
        reason = shown(str(error) or type(error).__name__, 300)
        return BagError(
            f'{self._path} is damaged or cut short ({reason}); {count} messages before that are '
            f'readable: allow --salvage to use them, or let "mcap recover" write a whole file'
        )


def _check_overlap(indexes: list[ChunkIndex]) -> None:
    """Raise RecordError where the index names a part of the file twice."""
    end = 0
    for index in sorted(indexes, key=lambda index: index.chunk_start_offset):
        if index.chunk_start_offset < end:
            raise RecordError(f'two chunks of its index share byte {index.chunk_start_offset}')
        end = index.chunk_start_offset + index.chunk_length


def _finds_all_chunks(summary: Summary) -> bool:
    """Return whether there is an index of every chunk that was counted."""
    indexes, statistics = summary.chunk_indexes, summary.statistics
    return bool(indexes) and (statistics is None or statistics.chunk_count == len(indexes))


def _describes(summary: Summary, channel_ids: Iterable[int]) -> bool:
    """Return whether the summary repeats these channels and their schemas, which is optional."""
    known = {0, *summary.schemas}  # 0 is no schema
    channels = map(summary.channels.get, channel_ids)
    return all(channel is not None and channel.schema_id in known for channel in channels)


def _type_name(name: str, encoding: str) -> str:
    """Return the full name of a type; writers other than rosbag2 leave out its middle part."""
    return re.sub(r'\A(\w+)/(\w+)\Z', r'\1/msg/\2', name) if encoding == 'cdr' else name


def _metadata_text(record: McapRecord) -> str:
    if not isinstance(record, Metadata) or record.name != _ROSBAG2:
        return ''
    return record.metadata.get(_ROSBAG2_KEY, '')
