# SPDX-License-Identifier: Apache-2.0
"""Label images: PNG and TIFF files whose pixels are class ids, or the colors of a scheme.

Image decoders change ids: they scale 1, 2 and 4 bits to 8, and replace palette indices by colors.
Files are therefore passed to the decoder as grayscale.
"""

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, counted
from segmentation_node.images.files import check_size, codec_name, decode_pixels, image_size
from segmentation_node.labels import LabelScheme

#: Color types of PNG.
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGBA = 0, 2, 3, 4, 6
#: Tags of TIFF: bits per sample, photometric interpretation, samples per pixel.
_BITS_TAG, _MEANING_TAG, _SAMPLES_TAG = 258, 262, 277
_TIFF_MEANINGS: Final = {1: _GRAY, 2: _RGB, 3: _PALETTE}
_EXPECTED: Final = (
    'expected a PNG or TIFF of one channel with a class id of 0 to 255 per pixel, or the exact '
    'colors of the label scheme'
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredLabels:
    """Content of a label file: ids, (H, W) uint8 as stored, or colors, (H, W, 3) uint8 RGB.

    `palette` is the palette of the file, (N, 3) uint8 RGB, if it has one.
    """

    pixels: UInt8Array
    palette: UInt8Array | None = None

    @property
    def is_colored(self) -> bool:
        """Return whether pixels are colors."""
        return self.pixels.ndim == 3


def decode_label_file(data: bytes) -> UInt8Array:
    """Decode a label image of ids, (H, W) uint8 as stored; palette indices are ids.

    Raises:
        ImageError: the data is empty, neither PNG nor TIFF, damaged, or not a single channel of
            values up to 255.
    """
    stored = read_stored(data)
    if stored.is_colored:
        raise ImageError(f'a label image of colors; {_EXPECTED}: convert it to one channel of ids')
    return stored.pixels


def decode_labels(data: bytes, scheme: LabelScheme) -> UInt8Array:
    """Decode a label image of ids, or of a scheme's colors, to ids of the scheme, (H, W) uint8.

    Reading colors is logged once per scheme.

    Raises:
        ImageError: as `decode_label_file`; or the scheme lacks a value or a color, or has several
            classes of that color.
    """
    stored = read_stored(data)
    if stored.is_colored:
        ids = _ids_of_colors(stored.pixels, scheme)
        _tell_of_colors(scheme.name)
        return ids
    scheme.check_ids(stored.pixels)
    if stored.palette is not None:
        _check_palette(stored.pixels, stored.palette, scheme)
    return stored.pixels


def read_labels(path: Path, scheme: LabelScheme | None = None) -> UInt8Array:
    """Read a label file, (H, W) uint8 ids; raises ImageError that names the file.

    Without a scheme, the ids are returned as stored.
    """
    try:
        data = path.read_bytes()
        return decode_label_file(data) if scheme is None else decode_labels(data, scheme)
    except ImageError as error:
        raise ImageError(f'{path}: {error}') from error


def read_stored(data: bytes) -> StoredLabels:
    """Decode ids or colors of a label file; raises ImageError as `decode_label_file`."""
    codec = codec_name(data)
    if codec not in ('png', 'tiff'):
        raise ImageError(
            f'a label image in {codec.upper()}, whose compression may change ids; {_EXPECTED}'
        )
    check_size(*image_size(data))
    return _png(data) if codec == 'png' else _tiff(data)


def _png(data: bytes) -> StoredLabels:
    bits, kind = data[24], data[25]
    if kind in (_GRAY, _PALETTE):
        pixels = decode_pixels(_as_gray_png(data), cv2.IMREAD_UNCHANGED)
        if bits < 8:
            pixels = pixels // np.uint8(255 // (2**bits - 1))  # undo the scaling of the decoder
        palette = _palette(data) if kind == _PALETTE else None
        return StoredLabels(_bytes_of(pixels), palette=palette)
    if kind not in (_RGB, _GRAY_ALPHA, _RGBA):
        raise ImageError(f'PNG image is corrupt: color type {kind} does not exist')
    pixels = decode_pixels(data, cv2.IMREAD_UNCHANGED)
    if kind == _GRAY_ALPHA:
        return StoredLabels(_bytes_of(_opaque(pixels)[..., 0]))
    return StoredLabels(_rgb(_opaque(pixels)))


def _as_gray_png(data: bytes) -> bytes:
    """Return a gray or palette PNG as plain grayscale, so that its samples are not converted."""
    chunks = [data[:8]]
    for kind, content in _png_chunks(data):
        if kind == b'IHDR':
            content = content[:9] + bytes([_GRAY]) + content[10:]
        if kind in (b'IHDR', b'IDAT', b'IEND'):
            chunks.append(struct.pack('>I', len(content)) + kind + content)
            chunks.append(struct.pack('>I', zlib.crc32(kind + content)))
    return b''.join(chunks)


def _palette(data: bytes) -> UInt8Array:
    content = next((content for kind, content in _png_chunks(data) if kind == b'PLTE'), b'')
    return np.frombuffer(content[: len(content) // 3 * 3], np.uint8).reshape(-1, 3)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG that `image_size` found complete."""
    at, kind = 8, b''
    while kind != b'IEND':
        length, kind = struct.unpack_from('>I4s', data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _tiff(data: bytes) -> StoredLabels:
    try:
        tags = dict(_tiff_tags(data))
    except struct.error as error:
        raise ImageError('TIFF image is cut short: its list of tags ends early') from error
    bits, meaning, samples = (
        tags.get(tag, (0, default))[1]
        for tag, default in ((_BITS_TAG, 1), (_MEANING_TAG, -1), (_SAMPLES_TAG, 1))
    )
    kind = _TIFF_MEANINGS.get(meaning)
    if kind is None or (kind != _RGB and (samples != 1 or bits not in (8, 16))):
        raise ImageError(
            f'a label image in TIFF of {samples} samples of {bits} bits and photometric '
            f'interpretation {meaning}; {_EXPECTED}: save it as PNG'
        )
    if kind == _PALETTE:  # decode its indices as gray
        at = tags[_MEANING_TAG][0]
        data = data[:at] + struct.pack(_order(data) + 'H', 1) + data[at + 2 :]
    pixels = decode_pixels(data, cv2.IMREAD_UNCHANGED)
    if kind == _RGB:
        return StoredLabels(_rgb(_opaque(pixels)))
    return StoredLabels(_bytes_of(pixels))


def _tiff_tags(data: bytes) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield offset and first value of the 16-bit tags of a TIFF that `image_size` accepted."""
    order = _order(data)
    (at,) = struct.unpack_from(order + 'I', data, 4)
    (count,) = struct.unpack_from(order + 'H', data, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind, length = struct.unpack_from(order + 'HHI', data, entry)
        place = entry + 8
        if kind == 3 and length > 2:  # too long for the entry, which contains their offset
            (place,) = struct.unpack_from(order + 'I', data, place)
        if kind == 3 and place + 2 <= len(data):
            yield tag, (place, struct.unpack_from(order + 'H', data, place)[0])


def _order(data: bytes) -> str:
    return '<' if data.startswith(b'II') else '>'


def _bytes_of(pixels: UInt8Array) -> UInt8Array:
    """Convert one channel of 8 or 16 bits to (H, W) uint8; raises ImageError above 255."""
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'a label image of shape {pixels.shape}, {pixels.dtype}; {_EXPECTED}')
    if (largest := int(pixels.max())) > 255:
        raise ImageError(
            f'a label image with values up to {largest}; {_EXPECTED}: choose the file of class '
            f'ids, not of instances'
        )
    return pixels.astype(np.uint8, copy=False)


def _opaque(pixels: UInt8Array) -> UInt8Array:
    """Return pixels without the alpha channel; raises ImageError if some are transparent."""
    if pixels.ndim != 3 or pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f'a label image of shape {pixels.shape}, {pixels.dtype}; {_EXPECTED}')
    if pixels.shape[2] == 4:
        hidden = int(np.count_nonzero(pixels[..., 3] != np.iinfo(pixels.dtype).max))
        if hidden:
            raise ImageError(
                f'a label image with {hidden} transparent pixels; {_EXPECTED}: save it '
                f'without an alpha channel'
            )
    return pixels[..., :3]


def _rgb(bgr: UInt8Array) -> UInt8Array:
    if bgr.dtype != np.uint8:
        raise ImageError(f'a label image with 16-bit colors; {_EXPECTED}: save it with 8 bits')
    return np.ascontiguousarray(bgr[..., ::-1])


def _ids_of_colors(colors: UInt8Array, scheme: LabelScheme) -> UInt8Array:
    codes = _codes(colors)
    ids = np.zeros(codes.shape, np.uint8)
    known = np.zeros(codes.shape, bool)
    for code, classes in _ids_by_code(scheme).items():
        here = codes == code
        if len(classes) > 1 and here.any():
            raise ImageError(
                f'a label image with color {_color(code)}, which is the color of classes '
                f'{", ".join(map(str, classes))} of label scheme {scheme.name}; '
                f'choose label images of ids'
            )
        ids[here] = classes[0]
        known |= here
    if not known.all():
        values, counts = np.unique(codes[~known], return_counts=True)
        strange = {_color(int(v)): int(n) for v, n in zip(values, counts, strict=True)}
        raise ImageError(
            f'a label image with colors that label scheme {scheme.name} lacks: '
            f'{counted(strange)}; {_EXPECTED}: convert it to ids, or correct the '
            f'colors of the scheme'
        )
    return ids


def _check_palette(ids: UInt8Array, palette: UInt8Array, scheme: LabelScheme) -> None:
    """Raise ImageError if the colors of the palette contradict its indices."""
    used = np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[: len(palette)]).tolist()
    code_of = {index: int(_codes(palette[index])) for index in used}
    classes_of_code = _ids_by_code(scheme)
    is_color_code = len(set(code_of.values())) == len(used) > 1
    if not is_color_code or not set(code_of.values()) <= set(classes_of_code):
        return  # the colors are only for display
    for index, code in code_of.items():
        classes = classes_of_code[code]
        if index in classes:
            continue
        raise ImageError(
            f'a label image with a palette in which index {index} has the color of class '
            f'{classes[0]} of label scheme {scheme.name}; expected indices that are ids: save it '
            f'as RGB where its colors are right, as grayscale where its indices are'
        )


def _codes(colors: UInt8Array) -> npt.NDArray[np.int32]:
    """Return (..., 3) uint8 RGB as one number per pixel, (...) int32."""
    wide = colors.astype(np.int32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2], np.int32)


def _ids_by_code(scheme: LabelScheme) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for c in scheme.classes:
        found.setdefault(int(_codes(np.array(c.color, np.uint8))), []).append(c.id)
    return found


def _color(code: int) -> str:
    return f'({code >> 16}, {code >> 8 & 255}, {code & 255})'


@cache
def _tell_of_colors(scheme: str) -> None:
    _log.warning(
        'label images are color-coded; colors are converted to ids of label scheme %s', scheme
    )
