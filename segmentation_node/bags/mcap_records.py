# SPDX-License-Identifier: Apache-2.0
"""Reads the records of an MCAP file (https://mcap.dev/spec) within bounds.

The mcap library believes lengths and sizes that a file claims; here each is compared with what
is there before anything is read or allocated. The library parses the few records whose fields
are needed.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, Final, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
)

from segmentation_node.bags.bounds import (
    MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    MAX_TEXT_BYTES,
)
from segmentation_node.bags.unpacking import unpack
from segmentation_node.errors import BagError

MAGIC: Final = b'\x89MCAP0\r\n'
#: What the library raises on damaged records.
UNPARSABLE: Final = (McapError, struct.error, ValueError, LookupError)

_HEAD: Final = struct.Struct('<BQ')
_MESSAGE_HEAD: Final = struct.Struct('<HIQQ')
_FOOTER_BYTES: Final = _HEAD.size + 20 + len(MAGIC)
_SKIPPED_BLOCK_BYTES: Final = 1 << 20

#: Records that are parsed, with the size from which they are damaged; others are passed over.
_PARSED: Final = {
    Opcode.SCHEMA: (Schema, MAX_TEXT_BYTES),
    Opcode.CHANNEL: (Channel, MAX_TEXT_BYTES),
    Opcode.CHUNK: (Chunk, MAX_CHUNK_BYTES + MAX_TEXT_BYTES),
    Opcode.CHUNK_INDEX: (ChunkIndex, MAX_TEXT_BYTES),
    Opcode.STATISTICS: (Statistics, MAX_METADATA_BYTES),
    Opcode.METADATA_INDEX: (MetadataIndex, MAX_TEXT_BYTES),
    Opcode.DATA_END: (DataEnd, MAX_TEXT_BYTES),
    Opcode.FOOTER: (Footer, MAX_TEXT_BYTES),
}


class Message(NamedTuple):
    """A message record."""

    channel_id: int
    stamp_ns: int
    sent_ns: int
    cdr: bytes


Record = (
    Schema
    | Channel
    | Chunk
    | ChunkIndex
    | Statistics
    | Metadata
    | MetadataIndex
    | DataEnd
    | Footer
    | Message
)


class RecordError(BagError):
    """A record is damaged, cut short, or larger than its kind may be."""


class RecordReader:
    """Records of a file or of a chunk, from where the stream is up to `end`.

    `crc` is the checksum of what comes before, to check that of the data section; None checks
    nothing.
    """

    def __init__(self, stream: BinaryIO, end: int, crc: int | None = None) -> None:
        self._stream = stream
        self._at = stream.tell()
        self._end = end
        self._crc = crc

    def records(self) -> Iterator[Record]:
        """Yield each record that matters.

        Raises:
            RecordError: a record is damaged or cut short.
        """
        while self._at < self._end:
            start = self._at
            crc = self._crc
            opcode, length = _HEAD.unpack(self._read(_HEAD.size, start))
            if length > self._end - self._at:
                raise RecordError(
                    f'the record at byte {start} claims {length} bytes, but only '
                    f'{self._end - self._at} follow'
                )
            if opcode == Opcode.MESSAGE:
                yield _message(self._content(start, length, MAX_MESSAGE_BYTES + 22), start)
            elif opcode == Opcode.METADATA and length <= MAX_METADATA_BYTES:
                yield _parsed(Metadata, self._content(start, length, length), start)
            elif opcode in _PARSED:
                kind, most = _PARSED[Opcode(opcode)]
                record = _parsed(kind, self._content(start, length, most), start)
                if isinstance(record, DataEnd) and not _fits(record, crc):
                    raise RecordError(f'the checksum of the data before byte {start} is wrong')
                yield record
            else:
                self._skip(length, start)

    def _content(self, start: int, length: int, most: int) -> bytes:
        if length > most:
            raise RecordError(
                f'the record at byte {start} has {length} bytes, more than {most >> 20} MiB'
            )
        return self._read(length, start)

    def _read(self, length: int, start: int) -> bytes:
        data = self._stream.read(length)
        if len(data) < length:
            raise RecordError(f'it ends within the record at byte {start}')
        self._at += length
        if self._crc is not None:
            self._crc = zlib.crc32(data, self._crc)
        return data

    def _skip(self, length: int, start: int) -> None:
        while length:
            length -= len(self._read(min(length, _SKIPPED_BLOCK_BYTES), start))


def _fits(end: DataEnd, crc: int | None) -> bool:
    return crc is None or end.data_section_crc in (0, crc)


class _ExactStream(ReadDataStream):
    """A stream in which a field that ends too early is an error."""

    def read(self, length: int) -> bytes:
        data: bytes = super().read(length)
        if len(data) < length:
            raise EndOfFile
        return data


def _message(content: bytes, start: int) -> Message:
    if len(content) < _MESSAGE_HEAD.size:
        raise RecordError(f'the message at byte {start} has only {len(content)} bytes')
    channel_id, _, stamp_ns, sent_ns = _MESSAGE_HEAD.unpack_from(content)
    return Message(channel_id, stamp_ns, sent_ns, content[_MESSAGE_HEAD.size :])


def _parsed(kind: type[Record], content: bytes, start: int) -> Record:
    try:
        record: Record = kind.read(_ExactStream(BytesIO(content)))  # type: ignore[union-attr]
    except UNPARSABLE as error:
        raise RecordError(
            f'the {kind.__name__} at byte {start} is damaged ({type(error).__name__}: {error})'
        ) from error
    return record


def chunk_records(chunk: Chunk) -> Iterator[Record]:
    """Decompress a chunk and yield its records.

    Raises:
        BagError: it is damaged, or larger than MAX_CHUNK_BYTES.
    """
    if chunk.uncompressed_size > MAX_CHUNK_BYTES:
        raise RecordError(
            f'a chunk claims {chunk.uncompressed_size} bytes, expected at most '
            f'{MAX_CHUNK_BYTES >> 20} MiB'
        )
    data = unpack(chunk.data, chunk.compression, 'a chunk', chunk.uncompressed_size)
    if len(data) != chunk.uncompressed_size:
        raise RecordError(f'a chunk has {len(data)} bytes, expected {chunk.uncompressed_size}')
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise RecordError('the checksum of a chunk is wrong')
    for record in RecordReader(BytesIO(data), len(data)).records():
        if isinstance(record, Chunk):
            raise RecordError('a chunk holds a chunk')
        yield record


def file_records(stream: BinaryIO, size: int) -> Iterator[Record]:
    """Yield all records of a file, those in chunks, too, without its index.

    Raises:
        RecordError: the file is damaged or cut short.
    """
    stream.seek(len(MAGIC))
    for record in RecordReader(stream, size - len(MAGIC), zlib.crc32(MAGIC)).records():
        if isinstance(record, Chunk):
            yield from chunk_records(record)
        else:
            yield record
        if isinstance(record, Footer):
            break
    else:
        raise RecordError('it ends without a footer')
    if not check_magic(stream):
        raise RecordError('it does not end like an MCAP file')


def check_magic(stream: BinaryIO) -> bool:
    """Read some bytes and return whether they are those at both ends of an MCAP file."""
    return stream.read(len(MAGIC)) == MAGIC


def summary_records(stream: BinaryIO, size: int) -> Iterator[Record]:
    """Yield the records of the summary section, none where the file has no such section.

    Raises:
        RecordError: the file is cut short, or its summary damaged.
    """
    if size < len(MAGIC) + _FOOTER_BYTES:
        raise RecordError('it is shorter than the shortest MCAP file')
    end = size - _FOOTER_BYTES
    stream.seek(end)
    footer = next(RecordReader(stream, size - len(MAGIC)).records(), None)
    if not isinstance(footer, Footer) or not check_magic(stream):
        raise RecordError('it does not end like an MCAP file')
    if footer.summary_start == 0:
        return
    if not len(MAGIC) <= footer.summary_start <= end:
        raise RecordError(f'its summary would begin at byte {footer.summary_start}')
    stream.seek(footer.summary_start)
    yield from RecordReader(stream, end).records()


def read_chunk(stream: BinaryIO, index: ChunkIndex, size: int) -> Chunk:
    """Read the chunk that an index points at; raises RecordError where there is none."""
    start, length = index.chunk_start_offset, index.chunk_length
    if start + length > size:
        raise RecordError(f'a chunk would end at byte {start + length} of {size}')
    stream.seek(start)
    for record in RecordReader(stream, start + length).records():
        if isinstance(record, Chunk):
            return record
    raise RecordError(f'there is no chunk at byte {start}')


def read_metadata(stream: BinaryIO, index: MetadataIndex, size: int) -> Metadata | None:
    """Read the metadata that an index points at, None where it is too large to matter."""
    end = index.offset + index.length
    if end > size:
        raise RecordError(f'a metadata record would end at byte {end} of {size}')
    stream.seek(index.offset)
    for record in RecordReader(stream, end).records():
        if isinstance(record, Metadata):
            return record
    return None
