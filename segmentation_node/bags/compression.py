# SPDX-License-Identifier: Apache-2.0
"""Compression of bags; decompression is bounded in memory, whatever size the data claims.

The libraries of bags allocate what the data claims: test_bag_libraries.py.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

import lz4.frame  # type: ignore[import-untyped]
import zstandard

from segmentation_node.errors import BagError

#: Label masks shrink a hundredfold at the fastest level, camera images hardly at any.
COMPRESSION_LEVEL: Final = 1
ZSTD_MAGIC: Final = b'\x28\xb5\x2f\xfd'
#: Raised on damaged data.
DAMAGED: Final = (zstandard.ZstdError, RuntimeError, EOFError)
#: Of a whole compressed file: more than any recording shrinks, less than a bomb grows.
MAX_FILE_RATIO: Final = 1000
_FREE_FILE_BYTES: Final = 1 << 30
#: A block of zstd is 4 bytes at least and 128 KiB at most when decompressed.
_PACKED_BLOCK_BYTES: Final = 4 << 10
#: Window that a frame may ask for; the default limit of the zstd program.
_MAX_WINDOW_BYTES: Final = 1 << 27


def compress(data: bytes) -> bytes:
    """Compress data with zstd."""
    return zstandard.ZstdCompressor(level=COMPRESSION_LEVEL).compress(data)


def decompress(data: bytes, compression: str, what: str, max_bytes: int) -> bytes:
    """Decompress zstd or lz4 data; '' is no compression.

    Raises:
        BagError: it is damaged, or larger than `max_bytes`, or the compression is unknown.
    """
    if compression not in _UNPACKERS:
        raise BagError(
            f'{what} has compression {compression[:20]!r}; expected one of '
            f'{", ".join(map(repr, _UNPACKERS))}: "ros2 bag convert" rewrites it'
        )
    try:
        unpacked = _UNPACKERS[compression](data, max_bytes)
    except DAMAGED as error:
        raise BagError(
            f'{what} is damaged or not compressed ({error}); copy the bag again'
        ) from error
    if unpacked is None:
        raise BagError(
            f'{what} is larger than {max_bytes} bytes when decompressed, the most that is '
            f'expected; it is damaged, or let "ros2 bag convert" write it anew in smaller parts'
        )
    return unpacked


def _plain(data: bytes, max_bytes: int) -> bytes | None:
    return data if len(data) <= max_bytes else None


def _zstd(data: bytes, max_bytes: int) -> bytes | None:
    claimed = zstandard.frame_content_size(data)
    if claimed > max_bytes:
        return None
    if claimed >= 0:
        return zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompress(data)
    # A frame that does not tell its size.
    unpacked = bytearray()
    for block in _zstd_blocks(BytesIO(data)):
        unpacked += block
        if len(unpacked) > max_bytes:
            return None
    return bytes(unpacked)


def _zstd_blocks(packed: BinaryIO) -> Iterator[bytes]:
    """Decompress frame after frame, each block from few bytes, so that none is large."""
    unpacker = None
    while data := packed.read(_PACKED_BLOCK_BYTES):
        while data:
            if unpacker is None:
                unpacker = zstandard.ZstdDecompressor(
                    max_window_size=_MAX_WINDOW_BYTES
                ).decompressobj()
            yield unpacker.decompress(data)
            data = unpacker.unused_data if unpacker.eof else b''
            if unpacker.eof:
                unpacker = None
    if unpacker is not None:
        raise EOFError('the data ends before the frame does')


def _lz4(data: bytes, max_bytes: int) -> bytes | None:
    unpacker = lz4.frame.LZ4FrameDecompressor()
    unpacked: bytes = unpacker.decompress(data, max_length=max_bytes + 1)
    if len(unpacked) > max_bytes:
        return None
    if not unpacker.eof:
        raise EOFError('the data ends before the frame does')
    return unpacked


_UNPACKERS: Final = {'': _plain, 'zstd': _zstd, 'lz4': _lz4}


def decompress_file(source: Path, target: Path) -> None:
    """Decompress a zstd file.

    Raises:
        BagError: it is damaged, or grows more than a recording does, or the disk is full.
    """
    limit = max(_FREE_FILE_BYTES, MAX_FILE_RATIO * source.stat().st_size)
    size = 0
    try:
        with source.open('rb') as packed, target.open('wb') as unpacked:
            for block in _zstd_blocks(packed):
                size += len(block)
                if size > limit:
                    raise BagError(
                        f'{source} is larger than {limit >> 20} MiB when decompressed, more than '
                        f'a recording; decompress it with "zstd -d" if you trust it'
                    )
                unpacked.write(block)
    except (*DAMAGED, OSError) as error:
        raise BagError(
            f'{source} is damaged or cannot be decompressed into {target.parent} ({error}); copy '
            f'it again, or free some space'
        ) from error
