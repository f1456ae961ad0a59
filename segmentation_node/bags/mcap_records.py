# SPDX-License-Identifier: Apache-2.0
"""Reads the records of an MCAP file (https://mcap.dev/spec) with the mcap library, within bounds.

The library believes what a file claims (test_bag_libraries.py): here it is given a stream that
has an end, and chunks that are decompressed already.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from typing import BinaryIO, Final

from mcap.exceptions import EndOfFile, McapError
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    Footer,
    McapRecord,
    MetadataIndex,
    Schema,
    Statistics,
)
from mcap.stream_reader import StreamReader
from mcap.summary import Summary

from segmentation_node.bags.bounds import (
    MAX_CHUNK_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_METADATA_BYTES,
    MAX_TEXT_BYTES,
)
from segmentation_node.bags.compression import decompress
from segmentation_node.errors import BagError

MAGIC: Final = b'\x89MCAP0\r\n'
#: Raised by the library on damaged records.
UNPARSABLE: Final = (McapError, struct.error, ValueError, LookupError)
_MAX_RECORD_BYTES: Final = MAX_CHUNK_BYTES + MAX_TEXT_BYTES
#: Opcode, length, three fields, and the magic at the end of the file.
_FOOTER_BYTES: Final = 9 + 20 + len(MAGIC)


class RecordError(BagError):
    """A record is damaged, cut short, or larger than its kind may be."""


class _EndError(RecordError):
    """A record was expected where the stream ends."""


class _Bounded:
    """The next `left` bytes of a stream; reading beyond them raises RecordError."""

    def __init__(self, stream: BinaryIO, left: int) -> None:
        self._stream = stream
        self._left = left

    def read(self, length: int) -> bytes:
        if not self._left and length == 1:
            return b''  # in place of the next record's opcode
        if not 0 <= length <= self._left:
            raise RecordError(
                f'a record claims {length} bytes at byte {self._stream.tell()}, but only '
                f'{self._left} follow'
            )
        data = self._stream.read(length)
        if len(data) < length:
            raise RecordError(f'it ends within a record, at byte {self._stream.tell()}')
        self._left -= length
        return data


def _records(
    stream: BinaryIO,
    left: int,
    *,
    limit: int = _MAX_RECORD_BYTES,
    skip_magic: bool = True,
) -> Iterator[McapRecord]:
    """Yield the records of the next bytes up to a footer, chunks as they are.

    Raises:
        RecordError: a record is damaged, cut short, or longer than `limit`.
    """
    reader = StreamReader(
        _Bounded(stream, left),  # type: ignore[arg-type]
        skip_magic,
        emit_chunks=True,
        validate_crcs=not skip_magic,
        record_size_limit=limit,
    )
    try:
        for record in reader.records:
            if isinstance(record, Schema) and len(record.data) > MAX_TEXT_BYTES:
                raise RecordError(f'a schema has more than {MAX_TEXT_BYTES >> 20} MiB')
            yield record
    except EndOfFile as error:
        raise _EndError('it ends without a footer') from error
    except UNPARSABLE as error:
        raise RecordError(f'a record is damaged ({type(error).__name__}: {error})') from error


def chunk_records(chunk: Chunk) -> Iterator[McapRecord]:
    """Decompress a chunk and yield its records.

    Raises:
        BagError: it is damaged, or larger than MAX_CHUNK_BYTES.
    """
    if chunk.uncompressed_size > MAX_CHUNK_BYTES:
        raise RecordError(
            f'a chunk claims {chunk.uncompressed_size} bytes, expected at most '
            f'{MAX_CHUNK_BYTES >> 20} MiB'
        )
    data = decompress(chunk.data, chunk.compression, 'a chunk', chunk.uncompressed_size)
    if len(data) != chunk.uncompressed_size:
        raise RecordError(f'a chunk has {len(data)} bytes, expected {chunk.uncompressed_size}')
    if chunk.uncompressed_crc not in (0, zlib.crc32(data)):
        raise RecordError('the checksum of a chunk is wrong')
    with suppress(_EndError):
        for record in _records(BytesIO(data), len(data), limit=MAX_MESSAGE_BYTES + 22):
            if isinstance(record, Chunk | Footer):
                raise RecordError(f'a chunk holds a {type(record).__name__.lower()}')
            yield record


def file_records(stream: BinaryIO, size: int) -> Iterator[McapRecord]:
    """Yield all records of a file, including those in chunks, without its index.

    Raises:
        RecordError: the file is damaged or cut short.
    """
    stream.seek(0)
    for record in _records(stream, size, skip_magic=False):
        if isinstance(record, Chunk):
            yield from chunk_records(record)
        else:
            yield record


def read_summary(stream: BinaryIO, size: int) -> Summary:
    """Read the summary section, empty where the file has no such section.

    Raises:
        RecordError: the file is cut short, or its summary damaged.
    """
    summary = Summary()
    end = size - _FOOTER_BYTES
    if end < len(MAGIC):
        raise RecordError('it is shorter than the shortest MCAP file')
    stream.seek(end)
    # To the end: the library checks the magic after the footer.
    footer = [*_records(stream, _FOOTER_BYTES)][-1]
    start = footer.summary_start if isinstance(footer, Footer) else 0
    if start == 0:
        return summary
    if not len(MAGIC) <= start <= end:
        raise RecordError(f'its summary would begin at byte {start}')
    stream.seek(start)
    for record in _records(stream, size - start, limit=MAX_METADATA_BYTES):
        _add(record, summary)
    return summary


def _add(record: McapRecord, summary: Summary) -> None:
    if isinstance(record, Schema):
        summary.schemas[record.id] = record
    elif isinstance(record, Channel):
        summary.channels[record.id] = record
    elif isinstance(record, ChunkIndex):
        summary.chunk_indexes.append(record)
    elif isinstance(record, MetadataIndex):
        summary.metadata_indexes.append(record)
    elif isinstance(record, Statistics):
        summary.statistics = record


def record_at(stream: BinaryIO, start: int, length: int, size: int) -> McapRecord:
    """Read the record that an index points at; raises RecordError where it is not in the file."""
    if start + length > size:
        raise RecordError(f'a record of the index would end at byte {start + length} of {size}')
    stream.seek(start)
    return next(_records(stream, length))
