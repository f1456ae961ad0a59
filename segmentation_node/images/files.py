# SPDX-License-Identifier: Apache-2.0
"""Decoding and encoding of JPEG, PNG, TIFF and WebP data, safe for any input.

Sizes are read from the headers before anything is decoded. Truncated data is refused even if the
decoder would fill in the missing part and continue.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.errors import ImageError
from segmentation_node.images.bit_depth import Samples

#: Larger images are always refused: 8K cameras fit, and a forged header cannot exhaust memory.
MAX_PIXELS: Final = 2**26
#: Suffixes of files that `decode_file` reads, in lower case.
IMAGE_SUFFIXES: Final = ('.jpg', '.jpeg', '.png', '.tif', '.tiff', '.webp')
#: Maximum side, in pixels, of the box that images are scaled into.
MAX_SIDE: Final = 2**14
#: Tiles of a TIFF may be larger than the image, up to this size.
MAX_TILE_PIXELS: Final = 2**22


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError if an image has no pixels, or more than `max_pixels`."""
    if width < 1 or height < 1:
        raise ImageError(
            f'an image of {width} x {height} pixels; width and height must be at least 1: '
            f'check that the camera delivers frames'
        )
    if width * height > max_pixels:
        raise ImageError(
            f'an image of {width} x {height} has more than {max_pixels} pixels; '
            f'scale it down before it comes here'
        )


def decode_file(
    data: bytes,
    *,
    upright: bool = False,
    max_pixels: int = MAX_PIXELS,
    samples: Samples | None = None,
) -> UInt8Array:
    """Decode the content of a JPEG, PNG, TIFF or WebP file.

    Args:
        data: the whole file.
        upright: rotate the image as its orientation tag says, as photo viewers do. By default the
            tag is ignored, as in image_transport: a rotated image would no longer match the
            camera's calibration and its label images.
        max_pixels: larger images are refused before they are decoded.
        samples: scales 16 bits to 8; by default, all 16 bits are significant.

    Returns:
        (H, W, 3) uint8 RGB; gray is repeated, alpha is dropped.

    Raises:
        ImageError: the data is empty, of another codec, too large, corrupt, truncated, or has
            neither 8 nor 16 bits per sample.
    """
    check_size(*image_size(data), max_pixels)
    orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    bgr = decode_pixels(data, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | orientation)
    return np.asarray(cv2.cvtColor(to_bytes(bgr, samples), cv2.COLOR_BGR2RGB), np.uint8)


def to_bytes(pixels: npt.NDArray[Any], samples: Samples | None = None) -> UInt8Array:
    """Convert pixels of 8 or 16 bits per sample to uint8; raises ImageError for other types."""
    if pixels.dtype == np.uint16:
        return (samples or Samples()).to_bytes(pixels)
    if pixels.dtype != np.uint8:
        raise ImageError(
            f'an image file with samples of type {pixels.dtype}; expected 8 or 16 bits without '
            f'sign: choose the camera image, not depth or heights'
        )
    return pixels


def read_image(path: Path | str) -> UInt8Array:
    """Read an image file, (H, W, 3) uint8 RGB; raises ImageError that names the file."""
    try:
        return decode_file(Path(path).read_bytes())
    except ImageError as error:
        raise ImageError(f'{path}: {error}') from error


def visible_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files of a folder with one of the suffixes, unordered, without hidden files.

    macOS writes a hidden `._NAME` beside each file on other file systems. Broken links are
    included, so that reading them reports an error.
    """
    return [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith('.') and not path.is_dir()
    ]


def decode_pixels(data: bytes, flags: int) -> npt.NDArray[Any]:
    """Decode an image file whose size was checked, with OpenCV's imdecode and its flags."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f'compressed image cannot be decoded: {error.err}') from error
    if image is None:
        raise ImageError(
            f'compressed image of {len(data)} bytes is corrupt; check the publisher or the file'
        )
    return np.asarray(image)


def image_size(data: bytes) -> tuple[int, int]:
    """Return width and height of an image file, as stored, from its header; raises ImageError."""
    return _codec_of(data).size_wh(data)


def codec_name(data: bytes) -> str:
    """Return 'jpeg', 'png', 'tiff' or 'webp'; raises ImageError for other data."""
    return _codec_of(data).name


@dataclass(frozen=True)
class _Codec:
    name: str
    #: Checks that the data is complete and returns width and height, without decoding.
    size_wh: Callable[[bytes], tuple[int, int]]


def _codec_of(data: bytes) -> _Codec:
    for magic, codec in _CODECS.items():
        if data.startswith(magic):
            return codec
    if data.startswith(b'RIFF') and data[8:12] == b'WEBP':
        return _WEBP
    if is_heic(data):
        raise ImageError(
            'the image is HEIC, as iPhones store photographs; expected JPEG, PNG, TIFF or WebP '
            'data: export it as a JPEG'
        )
    raise ImageError(
        f'compressed image of {len(data)} bytes starts with {data[:8]!r}; '
        f'expected JPEG, PNG, TIFF or WebP data'
    )


def is_heic(data: bytes) -> bool:
    """Return whether data is that of a HEIC or HEIF photograph (ISO/IEC 23008-12)."""
    if data[4:8] != b'ftyp':
        return False
    # The size of the box limits its list of brands; AVIF lists brands of HEIF, too.
    end = min(int.from_bytes(data[:4], 'big'), 64)
    brands = {data[at : at + 4] for at in (8, *range(16, end, 4))}
    return bool(brands & _HEIC_BRANDS) and b'avif' not in brands


def _cut_short(what: str, data: bytes) -> ImageError:
    return ImageError(
        f'{what} image is cut short after {len(data)} bytes; check the network or the disk it '
        f'came from'
    )


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return the size in the frame header.

    The end marker is required: the decoder would fill the missing rest with gray and only warn.
    """
    size = None
    for marker, start, end in _jpeg_segments(data):
        # Start-of-frame markers; C4, C8 and CC are others.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and end - start >= 5:
            height, width = struct.unpack_from('>HH', data, start + 1)
            size = (width, height)
        if marker == 0xDA and size is not None:
            if data.find(b'\xff\xd9', end) < 0:
                raise _cut_short('JPEG', data)
            return size
    raise _cut_short('JPEG', data)


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment's content, up to the first scan."""
    at = 2
    while at + 4 <= len(data):
        marker, length = struct.unpack_from('>HH', data, at)
        if marker == 0xFFFF:  # a fill byte
            at += 1
            continue
        if marker < 0xFF00 or length < 2:
            raise ImageError(f'JPEG image is corrupt at byte {at}: a marker is missing')
        end = at + 2 + length
        if end > len(data):
            return
        yield marker & 0xFF, at + 4, end
        at = end


def _png_size(data: bytes) -> tuple[int, int]:
    """Return the size in the first chunk; all chunks must be present with correct checksums."""
    at, size = 8, None
    content = memoryview(data)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from('>I4s', data, at)
        if at + 12 + length > len(data):
            break
        (crc,) = struct.unpack_from('>I', data, at + 8 + length)
        if zlib.crc32(content[at + 4 : at + 8 + length]) != crc:
            raise ImageError(f'PNG image is corrupt: checksum of its chunk at byte {at} is wrong')
        if size is None:
            if kind != b'IHDR' or length != 13:
                raise ImageError(f'PNG image starts with chunk {kind!r}, expected IHDR')
            size = struct.unpack_from('>II', data, at + 8)
        if kind == b'IEND':
            return size[0], size[1]
        at += 12 + length
    raise _cut_short('PNG', data)


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return the size in the tags of the first directory."""
    order = '<' if data.startswith(b'II') else '>'
    try:
        (at,) = struct.unpack_from(order + 'I', data, 4)
        (count,) = struct.unpack_from(order + 'H', data, at)
        size: dict[int, int] = {}
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + 'HH', data, entry)
            if tag in (256, 257, 322, 323):  # width and height, of the image and of a tile
                number = order + ('I' if kind == 4 else 'H')
                (size[tag],) = struct.unpack_from(number, data, entry + 8)
        width, height = size[256], size[257]
    except (struct.error, KeyError):
        raise _cut_short('TIFF', data) from None
    # Tiles may extend beyond the image; the decoder allocates whole tiles.
    if size.get(322, 0) * size.get(323, 0) > max(width * height, MAX_TILE_PIXELS):
        raise ImageError(
            f'TIFF image of {width} x {height} is cut into tiles of {size[322]} x {size[323]}; '
            f'store it with tiles no larger than itself'
        )
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the size in the first chunk, whose type is the kind of compression."""
    try:
        length, _, kind = struct.unpack_from('<I4s4s', data, 4)
        if len(data) < length + 8:
            raise _cut_short('WebP', data)
        if kind == b'VP8X':
            word, high = struct.unpack_from('<IH', data, 24)
            return (word & 0xFFFFFF) + 1, (word >> 24 | high << 8) + 1
        if kind == b'VP8L':
            (word,) = struct.unpack_from('<I', data, 21)
            return (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1
        if kind == b'VP8 ':
            width, height = struct.unpack_from('<HH', data, 26)
            return width & 0x3FFF, height & 0x3FFF
    except struct.error:
        raise _cut_short('WebP', data) from None
    raise ImageError(f'WebP image starts with chunk {kind!r}, expected VP8, VP8L or VP8X')


_CODECS: Final = MappingProxyType(
    {
        b'\xff\xd8': _Codec('jpeg', _jpeg_size),
        b'\x89PNG\r\n\x1a\n': _Codec('png', _png_size),
        b'II*\0': _Codec('tiff', _tiff_size),
        b'MM\0*': _Codec('tiff', _tiff_size),
    }
)
_HEIC_BRANDS: Final = frozenset({b'heic', b'heix', b'heim', b'heis', b'mif1', b'msf1'})
#: Its magic number has a gap, which contains the length.
_WEBP: Final = _Codec('webp', _webp_size)


def encode_png(image: UInt8Array | UInt16Array) -> bytes:
    """Compress (H, W) labels or an (H, W, 3) RGB image, uint8, or (H, W) uint16, losslessly."""
    # Level 1: masks are hardly larger than at level 9, in a fraction of the time.
    return _encode('.png', image, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def encode_jpeg(image_rgb: UInt8Array, quality: int = 90) -> bytes:
    """Compress an (H, W, 3) uint8 RGB image; lossy, so not for labels."""
    return _encode('.jpg', image_rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(suffix: str, image: UInt8Array | UInt16Array, settings: list[int]) -> bytes:
    is_labels = image.ndim == 2
    is_rgb = image.ndim == 3 and image.shape[2] == 3
    # Ids of instances have 16 bits.
    is_ids = is_labels and image.dtype == np.uint16 and suffix == '.png'
    is_bytes = (is_labels or is_rgb) and image.dtype == np.uint8
    if image.size == 0 or not (is_ids or is_bytes):
        raise ImageError(
            f'cannot compress an image of shape {image.shape}, {image.dtype}; '
            f'expected (H, W) or (H, W, 3) uint8' + ', or (H, W) uint16' * (suffix == '.png')
        )
    try:
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if is_rgb else image
        encoded, data = cv2.imencode(suffix, bgr, settings)
    except cv2.error as error:
        raise ImageError(
            f'cannot compress an image of shape {image.shape} as {suffix}: {error.err}'
        ) from error
    if not encoded:  # for example, a JPEG wider than the format supports
        raise ImageError(
            f'cannot compress an image of shape {image.shape} as {suffix}; it is too wide or too '
            f'high for the format'
        )
    return bytes(data)
