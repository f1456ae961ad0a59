# SPDX-License-Identifier: Apache-2.0
"""Decoding of image messages to RGB arrays, without ROS.

The functions read message fields only, so they accept messages of rclpy and messages read from a
bag. For any input, the result is an image or an ImageError.
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, quoted, suggestion
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.files import (
    MAX_PIXELS,
    check_size,
    codec_name,
    decode_file,
    decode_pixels,
    encode_jpeg,
    encode_png,
    image_size,
    to_bytes,
)

__all__ = [
    'DEPTH',
    'ENCODINGS',
    'INSTANCES',
    'LABELS',
    'MAX_PIXELS',
    'CompressedMessage',
    'Convert',
    'ImageMessage',
    'compressed_format',
    'convert_with_opencv',
    'decode_compressed',
    'decode_image',
    'encode_jpeg',
    'encode_png',
    'image_view',
    'label_view',
    'values_view',
]

Pixels: TypeAlias = UInt8Array | npt.NDArray[np.uint16]


class ImageMessage(Protocol):
    """Fields of sensor_msgs/Image that describe its pixels."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """Fields of sensor_msgs/CompressedImage that describe its pixels."""

    format: str
    data: Any


#: Converts a validated message and its pixels, (H, W) or (H, W, C) in native byte order, to RGB.
Convert: TypeAlias = Callable[[ImageMessage, Pixels], UInt8Array]


@dataclass(frozen=True)
class Encoding:
    """Memory layout of one encoding, and the OpenCV code that converts it to RGB.

    `rows` is the number of data rows of `step` bytes per two image rows: 2 except for formats
    with a separate chroma plane. Width and height must be multiples of `even_wh`.
    """

    channels: int
    bits: int = 8
    to_rgb: int | None = None
    rows: int = 2
    even_wh: tuple[int, int] = (1, 1)


def _bayer(bits: int) -> dict[str, Encoding]:
    # OpenCV names a pattern after its second row and column, ROS after its first.
    codes = {
        'rggb': cv2.COLOR_BayerBG2RGB,
        'bggr': cv2.COLOR_BayerRG2RGB,
        'gbrg': cv2.COLOR_BayerGR2RGB,
        'grbg': cv2.COLOR_BayerGB2RGB,
    }
    return {f'bayer_{name}{bits}': Encoding(1, bits, code) for name, code in codes.items()}


_GRAY = cv2.COLOR_GRAY2RGB
_BGR = cv2.COLOR_BGR2RGB
_RGBA = cv2.COLOR_RGBA2RGB
_BGRA = cv2.COLOR_BGRA2RGB
_UYVY = Encoding(2, 8, cv2.COLOR_YUV2RGB_UYVY, even_wh=(2, 1))
_YUYV = Encoding(2, 8, cv2.COLOR_YUV2RGB_YUY2, even_wh=(2, 1))

#: Converted in a single pass over the message's memory; rgb8 is not even copied.
DIRECT: Final = MappingProxyType(
    {
        'rgb8': Encoding(3),
        'bgr8': Encoding(3, 8, _BGR),
        'rgba8': Encoding(4, 8, _RGBA),
        'bgra8': Encoding(4, 8, _BGRA),
        'mono8': Encoding(1, 8, _GRAY),
    }
)
#: Converted by cv_bridge or OpenCV; names and meaning from sensor_msgs/image_encodings.hpp. Types
#: without a color order (8UC3, 16UC3, ...) come from OpenCV programs and are in BGR order.
CONVERTED: Final = MappingProxyType(
    {
        '8UC1': Encoding(1, 8, _GRAY),
        '8UC3': Encoding(3, 8, _BGR),
        '8UC4': Encoding(4, 8, _BGRA),
        'mono16': Encoding(1, 16, _GRAY),
        '16UC1': Encoding(1, 16, _GRAY),
        'rgb16': Encoding(3, 16),
        'bgr16': Encoding(3, 16, _BGR),
        '16UC3': Encoding(3, 16, _BGR),
        'rgba16': Encoding(4, 16, _RGBA),
        'bgra16': Encoding(4, 16, _BGRA),
        '16UC4': Encoding(4, 16, _BGRA),
        **_bayer(8),
        **_bayer(16),
        'uyvy': _UYVY,
        'yuv422': _UYVY,
        'yuyv': _YUYV,
        'yuv422_yuy2': _YUYV,
        'nv12': Encoding(1, 8, cv2.COLOR_YUV2RGB_NV12, rows=3, even_wh=(2, 2)),
        'nv21': Encoding(1, 8, cv2.COLOR_YUV2RGB_NV21, rows=3, even_wh=(2, 2)),
        'nv24': Encoding(1, 8, cv2.COLOR_YUV2RGB_NV12, rows=6),
    }
)
ENCODINGS: Final = MappingProxyType({**DIRECT, **CONVERTED})

#: Encodings of label ids and confidence, of instance ids, and of depth: one value per pixel.
LABELS: Final = ('mono8', '8UC1')
INSTANCES: Final = ('16UC1', 'mono16')
#: Millimeters in 16 bits, meters in 32 bits (REP 118).
DEPTH: Final = ('16UC1', 'mono16', '32FC1')
_VALUES: Final = MappingProxyType({**ENCODINGS, '32FC1': Encoding(1, 32)})
_DTYPES: Final[Mapping[int, Any]] = MappingProxyType({16: np.uint16, 32: np.float32})
#: Encodings of values other than color: depth, disparity, flow, heights.
_NUMBERS: Final = re.compile(r'(8|16|32|64)[USF]C[0-9]*')
#: The `format` of a CompressedImage as image_transport writes it: the encoding of the raw image,
#: the codec, and the encoding that the image was converted to before compression, if any.
_FORMAT: Final = re.compile(r'\s*(\w+)\s*;\s*\w+ compressed\s*(\w*)')
_MOSAIC: Final = 'bayer_'
#: Minimum side in pixels; OpenCV leaves smaller mosaics black.
MIN_MOSAIC: Final = 3


def convert_with_opencv(msg: ImageMessage, pixels: Pixels) -> UInt8Array:
    """Convert the pixels of a message to RGB, as cv_bridge does.

    Args:
        msg: message with an 8-bit encoding of ENCODINGS.
        pixels: result of `image_view`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if msg.encoding == 'nv24':
        return _nv24_to_rgb(pixels, msg.height)
    return np.asarray(_to_rgb(pixels, ENCODINGS[msg.encoding]), np.uint8)


def _to_rgb(pixels: Pixels, encoding: Encoding) -> npt.NDArray[Any]:
    return pixels if encoding.to_rgb is None else cv2.cvtColor(pixels, encoding.to_rgb)


def _nv24_to_rgb(pixels: Pixels, height: int) -> UInt8Array:
    """Convert NV24 as NV12 of twice the size, of which every 2nd pixel is kept.

    OpenCV does not support NV24; this way, its own arithmetic is used.
    """
    width = pixels.shape[1]
    luma = np.repeat(np.repeat(pixels[:height], 2, axis=0), 2, axis=1)
    doubled = np.concatenate([luma, pixels[height:].reshape(height, 2 * width)])
    rgb = cv2.cvtColor(doubled, cv2.COLOR_YUV2RGB_NV12)
    return np.ascontiguousarray(rgb[::2, ::2], np.uint8)


def image_view(msg: ImageMessage, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return a view of a message's pixels without the padding of rows; nothing is copied.

    Images of more than `max_pixels` are refused.

    Returns:
        (H, W) or (H, W, C) uint8 or native uint16; for nv12, nv21 and nv24 the planes, (rows, W).

    Raises:
        ImageError: the fields contradict each other or the encoding is unknown.
    """
    pixels: Pixels = _view(msg, _known_encoding(msg), max_pixels)
    return pixels


def values_view(
    msg: ImageMessage, encodings: Collection[str], max_pixels: int = MAX_PIXELS
) -> npt.NDArray[Any]:
    """Return a view of the values of a message with one value per pixel; nothing is copied.

    Args:
        msg: object with the fields of sensor_msgs/Image.
        encodings: accepted encodings, such as LABELS, INSTANCES or DEPTH.
        max_pixels: larger images are refused.

    Returns:
        (H, W) uint8, uint16 or float32 in native byte order.

    Raises:
        ImageError: the fields contradict each other or the encoding is another one.
    """
    if msg.encoding not in encodings:
        raise ImageError(
            f'image encoding {quoted(msg.encoding)}; expected {" or ".join(encodings)}: choose '
            f'another topic'
        )
    return _view(msg, _VALUES[msg.encoding], max_pixels)


def _view(msg: ImageMessage, encoding: Encoding, max_pixels: int) -> npt.NDArray[Any]:
    width, height, step = int(msg.width), int(msg.height), int(msg.step)
    check_size(width, height, max_pixels)
    if width % encoding.even_wh[0] or height % encoding.even_wh[1]:
        raise ImageError(
            f'a {msg.encoding} image of {width} x {height}: width and height must be multiples '
            f'of {encoding.even_wh[0]} and {encoding.even_wh[1]}; correct the camera driver'
        )
    if msg.encoding.startswith(_MOSAIC):
        _check_mosaic(width, height)
    row_bytes = width * encoding.channels * encoding.bits // 8
    if step < row_bytes:
        raise ImageError(
            f'step is {step} bytes, but a row of {width} {msg.encoding} pixels takes at least '
            f'{row_bytes}; the publisher must set step to width * bytes per pixel'
        )
    rows = height * encoding.rows // 2
    data = _as_bytes(msg.data)
    if data.size < rows * step:
        raise ImageError(
            f'data has {data.size} bytes, but {rows} rows of {step} bytes take {rows * step}; '
            f'the message was cut short or its height or step is wrong'
        )
    if msg.encoding == 'nv24':
        return _nv24_planes(data, width, height, step)
    pixels: npt.NDArray[Any] = data[: rows * step].reshape(rows, step)[:, :row_bytes]
    if encoding.bits > 8:
        pixels = _as_native(pixels, np.dtype(_DTYPES[encoding.bits]), bool(msg.is_bigendian))
    if encoding.channels == 1:
        return pixels
    return pixels.reshape(rows, width, encoding.channels)


def label_view(msg: ImageMessage, max_pixels: int = MAX_PIXELS) -> UInt8Array:
    """Return a view of the label ids in a message, (H, W) uint8; raises ImageError if not mono8.

    Images of more than `max_pixels` are refused.
    """
    if msg.encoding not in ('mono8', '8UC1'):
        raise ImageError(
            f'a label image has encoding {quoted(msg.encoding)}; expected mono8: choose the topic '
            f'of the label mask, not of its colors'
        )
    return np.asarray(image_view(msg, max_pixels), np.uint8)


def _check_mosaic(width: int, height: int) -> None:
    if min(width, height) < MIN_MOSAIC:
        raise ImageError(
            f'a Bayer image of {width} x {height}; colors can be made of {MIN_MOSAIC} x '
            f'{MIN_MOSAIC} pixels or more: check that the camera delivers frames'
        )


def _nv24_planes(data: UInt8Array, width: int, height: int, step: int) -> Pixels:
    """Return the luma plane and the chroma plane, whose step is twice as long, (3 * height, W)."""
    luma = data[: height * step].reshape(height, step)[:, :width]
    chroma = data[height * step : 3 * height * step].reshape(height, 2 * step)[:, : 2 * width]
    return np.concatenate([luma, chroma.reshape(2 * height, width)])


def _as_native(rows: UInt8Array, dtype: np.dtype[Any], is_bigendian: bool) -> npt.NDArray[Any]:
    words = np.ascontiguousarray(rows).view(dtype)
    return words.byteswap() if is_bigendian != (sys.byteorder == 'big') else words


def decode_image(
    msg: ImageMessage,
    convert: Convert = convert_with_opencv,
    *,
    max_pixels: int = MAX_PIXELS,
    samples: Samples | None = None,
) -> UInt8Array:
    """Decode an image message.

    Args:
        msg: object with the fields of sensor_msgs/Image; `data` may be any buffer.
        convert: converts the 8-bit encodings of CONVERTED to RGB.
        max_pixels: larger images are refused before anything is converted.
        samples: scales 16 bits to 8; by default, all 16 bits are significant.

    Returns:
        (H, W, 3) uint8 RGB. For rgb8 this is a view of the message's memory: valid as long as the
        message, read-only, and not contiguous if rows are padded.

    Raises:
        ImageError: the message is not a valid image.
    """
    pixels = image_view(msg, max_pixels)
    encoding = ENCODINGS[msg.encoding]
    try:
        if encoding.bits == 16:
            return to_bytes(_to_rgb(pixels, encoding), samples)
        if msg.encoding not in DIRECT:
            return convert(msg, pixels)
        rgb = _to_rgb(pixels, encoding)
    except cv2.error as error:
        raise ImageError(
            f'cannot convert a {msg.width} x {msg.height} {msg.encoding} image to RGB '
            f'({error.err}); publish rgb8, bgr8 or mono8'
        ) from error
    return np.asarray(rgb, np.uint8)


def _known_encoding(msg: ImageMessage) -> Encoding:
    if msg.encoding in ENCODINGS:
        return ENCODINGS[msg.encoding]
    if _NUMBERS.fullmatch(msg.encoding):
        raise ImageError(
            f'image encoding {quoted(msg.encoding)} contains no colors, but e.g. depth; '
            f'expected one of {", ".join(ENCODINGS)}: choose the color topic of the camera'
        )
    there_are = f'there are {", ".join(ENCODINGS)}'
    hint = suggestion(msg.encoding.lower(), ENCODINGS, there_are)
    raise ImageError(
        f'unknown image encoding {quoted(msg.encoding)}; {hint}: publish one of these (image_proc '
        f'converts camera formats)'
    )


def _as_bytes(data: Any) -> UInt8Array:
    try:
        # frombuffer accepts bytes, array, memoryview and ndarray, but not an empty buffer.
        return np.frombuffer(data, np.uint8) if len(data) else np.empty(0, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ImageError(
            f'image data is a {type(data).__name__}, which is not a buffer of bytes ({error}); '
            f'pass bytes, array("B") or a contiguous uint8 array'
        ) from error


def decode_compressed(
    msg: CompressedMessage, *, max_pixels: int = MAX_PIXELS, samples: Samples | None = None
) -> UInt8Array:
    """Decode a compressed image message: JPEG, PNG, TIFF or WebP, independent of its `format`.

    `format` only tells which pixels the publisher passed to its encoder, which expects BGR or
    gray: RGB is decoded with red and blue swapped, and a Bayer mosaic is decoded as gray. Images
    of more than `max_pixels` are refused before they are decoded; `samples` scales 16 bits to 8.

    Returns:
        (H, W, 3) uint8 RGB, as `decode_file`.

    Raises:
        ImageError: the data is empty, of another codec, too large, corrupt, or truncated.
    """
    data = bytes(_as_bytes(msg.data))
    encoded = _encoded_as(msg.format, data)
    if encoded.startswith(_MOSAIC):
        return _decode_mosaic(data, encoded, max_pixels, samples)
    rgb = decode_file(data, max_pixels=max_pixels, samples=samples)
    if not encoded.startswith('rgb'):
        return rgb
    return np.asarray(cv2.cvtColor(rgb, _BGR), np.uint8)


def _encoded_as(format_: str, data: bytes) -> str:
    """Return the encoding of the pixels passed to the encoder; empty if unknown."""
    found = _FORMAT.match(format_)
    if not found:
        return ''
    raw, converted = found.groups()
    # TIFF stores every encoding, and mosaics are stored as gray; colors are always converted.
    unconverted = raw.startswith(_MOSAIC) or codec_name(data) == 'tiff'
    return converted or (raw if unconverted else '')


def _decode_mosaic(
    data: bytes, encoding: str, max_pixels: int, samples: Samples | None
) -> UInt8Array:
    if encoding not in ENCODINGS:
        known = ', '.join(name for name in ENCODINGS if name.startswith(_MOSAIC))
        raise ImageError(
            f'a compressed image of unknown encoding {quoted(encoding)}; expected one of {known}, '
            f'or colors: publish the debayered image (image_proc)'
        )
    check_size(*image_size(data), max_pixels)
    pixels = decode_pixels(data, cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels.ndim == 3:  # the data contains colors although its format says Bayer
        return decode_file(data, max_pixels=max_pixels, samples=samples)
    _check_mosaic(pixels.shape[1], pixels.shape[0])
    try:
        return to_bytes(_to_rgb(pixels, ENCODINGS[encoding]), samples)
    except cv2.error as error:
        raise ImageError(
            f'a compressed {encoding} image cannot be debayered ({error.err}); publish the '
            f'debayered image (image_proc)'
        ) from error


def compressed_format(encoding: str, codec: str) -> str:
    """Return the `format` of a CompressedImage as image_transport writes it.

    Args:
        encoding: encoding of the raw image: 'mono8', '16UC1', 'rgb8' or 'bgr8'.
        codec: 'jpeg', 'png' or 'tiff'.
    """
    return f'{encoding}; {codec} compressed ' + ('' if encoding in ('mono8', '16UC1') else 'bgr8')
