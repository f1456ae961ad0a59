# SPDX-License-Identifier: Apache-2.0
"""Writes one MCAP file such that a failed write costs the newest chunk and nothing else.

The records are the mcap library's. Its writer cannot take back a chunk that did not fit on the
disk (test_bag_libraries.py); this one cuts it off, which makes room for the index.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Message,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

from segmentation_node.bags.compression import compress
from segmentation_node.bags.mcap_records import MAGIC
from segmentation_node.bags.qos import dump_qos
from segmentation_node.bags.topic import Topic

CHUNK_BYTES: Final = 1 << 20
LIBRARY: Final = 'segmentation_node'


class McapFile:
    """An MCAP file being written (https://mcap.dev/spec); see `writer.StorageFile`."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, since a buffer would retry data that does not fit.
        self._file = path.open('xb', buffering=0)
        self._schemas: dict[tuple[str, str, str], Schema] = {}
        self._channels: dict[Topic, Channel] = {}
        self._chunks: list[_Written] = []
        self._pending = _Pending()
        self._end = 0
        self._append(MAGIC + _record(Header('ros2', LIBRARY)))

    @property
    def message_counts(self) -> dict[Topic, int]:
        counts = self._counts_by_channel()
        return {topic: counts[channel.id] for topic, channel in self._channels.items()}

    @property
    def time_range_ns(self) -> tuple[int, int]:
        indexes = [chunk.index for chunk in self._chunks]
        if not indexes:
            return 0, 0
        return (
            min(index.message_start_time for index in indexes),
            max(index.message_end_time for index in indexes),
        )

    def add_topic(self, topic: Topic) -> None:
        # A topic copied from an older bag may have no definition, or another one.
        key = (topic.msgtype, topic.definition_format, topic.definition)
        schema = self._schemas.get(key)
        if schema is None:
            definition = topic.definition.encode(errors='surrogateescape')
            schema = Schema(
                len(self._schemas) + 1, definition, topic.definition_format, topic.msgtype
            )
            self._append(_record(schema))
            self._schemas[key] = schema
        metadata = {
            'offered_qos_profiles': dump_qos(topic.qos),
            'topic_type_hash': topic.type_hash,
        }
        channel = Channel(
            len(self._channels) + 1, topic.name, topic.serialization_format, metadata, schema.id
        )
        self._append(_record(channel))
        self._channels[topic] = channel

    def write(self, topic: Topic, stamp_ns: int, sent_ns: int, cdr: bytes) -> None:
        channel_id = self._channels[topic].id
        self._pending.add(Message(channel_id, stamp_ns, cdr, sent_ns, 0))
        if self._pending.content.count >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        pending, self._pending = self._pending, _Pending()
        if not pending.entries:
            return
        chunk = pending.chunk()
        content = RecordBuilder()
        chunk.write(content)
        index = ChunkIndex(
            chunk_length=content.count,
            chunk_start_offset=self._end,
            compression=chunk.compression,
            compressed_size=len(chunk.data),
            message_end_time=chunk.message_end_time,
            message_index_length=0,
            message_index_offsets={},
            message_start_time=chunk.message_start_time,
            uncompressed_size=chunk.uncompressed_size,
        )
        for channel_id, entries in pending.entries.items():
            index.message_index_offsets[channel_id] = self._end + content.count
            MessageIndex(channel_id, entries).write(content)
        index.message_index_length = content.count - index.chunk_length
        self._append(_taken(content))
        counts = {channel_id: len(entries) for channel_id, entries in pending.entries.items()}
        self._chunks.append(_Written(index, counts))

    def finish(self, metadata_yaml: str) -> None:
        data_end = self._end
        content = RecordBuilder()
        Metadata('rosbag2', {'serialized_metadata': metadata_yaml}).write(content)
        rosbag2 = MetadataIndex(data_end, content.count, 'rosbag2')
        DataEnd(0).write(content)
        summary = self._summary(data_end + content.count, rosbag2)
        self._append(_taken(content) + summary)
        self._file.truncate(self._end)
        self._end = data_end

    def make_room(self) -> bool:
        if not self._chunks:
            return False
        self._end = self._chunks.pop().index.chunk_start_offset
        self._file.truncate(self._end)
        return True

    def close(self) -> None:
        self._file.close()

    def _append(self, data: bytes) -> None:
        """Write at the end, all or nothing."""
        rest = memoryview(data)
        self._file.seek(self._end)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(data)

    def _summary(self, start: int, rosbag2: MetadataIndex) -> bytes:
        groups: dict[Opcode, list[McapRecord]] = {
            Opcode.SCHEMA: [*self._schemas.values()],
            Opcode.CHANNEL: [*self._channels.values()],
            Opcode.STATISTICS: [self._statistics()],
            Opcode.CHUNK_INDEX: [chunk.index for chunk in self._chunks],
            Opcode.METADATA_INDEX: [rosbag2],
        }
        content, offsets = RecordBuilder(), RecordBuilder()
        for opcode, records in groups.items():
            group_start = content.count
            for record in records:
                record.write(content)
            if records:
                length = content.count - group_start
                SummaryOffset(opcode, start + group_start, length).write(offsets)
        footer = Footer(start, start + content.count, 0)
        summary = _taken(content) + _taken(offsets)
        # The checksum covers the footer up to the checksum itself.
        footer.summary_crc = zlib.crc32(summary + _record(footer)[:-4])
        return summary + _record(footer) + MAGIC

    def _statistics(self) -> Statistics:
        counts = self._counts_by_channel()
        start_ns, end_ns = self.time_range_ns
        return Statistics(
            attachment_count=0,
            channel_count=len(self._channels),
            channel_message_counts=counts,
            chunk_count=len(self._chunks),
            message_count=sum(counts.values()),
            message_end_time=end_ns,
            message_start_time=start_ns,
            metadata_count=1,
            schema_count=len(self._schemas),
        )

    def _counts_by_channel(self) -> dict[int, int]:
        counts = {channel.id: 0 for channel in self._channels.values()}
        for chunk in self._chunks:
            for channel_id, count in chunk.counts.items():
                counts[channel_id] += count
        return counts


class _Pending:
    """Chunk that is not written yet; `entries` are (stamp, offset) of messages by channel."""

    def __init__(self) -> None:
        self.content = RecordBuilder()
        self.entries: dict[int, list[tuple[int, int]]] = {}

    def add(self, message: Message) -> None:
        entries = self.entries.setdefault(message.channel_id, [])
        entries.append((message.log_time, self.content.count))
        message.write(self.content)

    def chunk(self) -> Chunk:
        stamps_ns = [stamp_ns for entries in self.entries.values() for stamp_ns, _ in entries]
        data = _taken(self.content)
        return Chunk(
            compression='zstd',
            data=compress(data),
            message_end_time=max(stamps_ns),
            message_start_time=min(stamps_ns),
            uncompressed_crc=zlib.crc32(data),
            uncompressed_size=len(data),
        )


@dataclass(frozen=True)
class _Written:
    """A chunk in the file, with its number of messages by channel."""

    index: ChunkIndex
    counts: dict[int, int]


def _record(record: McapRecord) -> bytes:
    builder = RecordBuilder()
    record.write(builder)
    return _taken(builder)


def _taken(builder: RecordBuilder) -> bytes:
    return bytes(builder.end())  # type: ignore[no-untyped-call]
