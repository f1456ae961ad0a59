# SPDX-License-Identifier: Apache-2.0
"""PNG files of every color type and depth, which no library here writes all of."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
#: First pixel and distance of the rows and columns of each pass of an interlaced PNG.
_PASSES: Final = (
    (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
    (1, 2, 0, 1),
)  # fmt: skip


def png(
    samples: npt.NDArray[Any],
    bits: int = 8,
    kind: int = GRAY,
    palette: Sequence[Sequence[int]] = (),
    interlaced: bool = False,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """A PNG of (H, W) or (H, W, C) samples, with `extra` chunks in front of its pixels."""
    height, width = samples.shape[:2]
    rows = b''.join(_rows(samples, bits, interlaced))
    chunks = [
        (b'IHDR', struct.pack('>IIBBBBB', width, height, bits, kind, 0, 0, interlaced)),
        *([(b'PLTE', bytes(value for color in palette for value in color))] if palette else []),
        *extra,
        (b'IDAT', zlib.compress(rows)),
        (b'IEND', b''),
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    )


def _rows(samples: npt.NDArray[Any], bits: int, interlaced: bool) -> Iterator[bytes]:
    passes = _PASSES if interlaced else ((0, 1, 0, 1),)
    for row, rows, column, columns in passes:
        part = samples[row::rows, column::columns]
        for line in part.reshape(len(part), -1) if part.size else []:
            if bits == 16:
                packed = line.astype('>u2').tobytes()
            else:
                each = np.unpackbits(line.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
                packed = np.packbits(each.ravel()).tobytes()
            yield b'\0' + packed
