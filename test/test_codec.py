# SPDX-License-Identifier: Apache-2.0
"""Every encoding on tiny literal images, and nothing but ImageError for what is none."""

from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.codec import (
    ENCODINGS,
    MAX_PIXELS,
    CompressedMessage,
    ImageMessage,
    compressed_format,
    decode_compressed,
    decode_image,
    encode_jpeg,
    encode_png,
    image_view,
)
from segmentation_node.errors import ImageError
from segmentation_node.image_files import decode_file, image_size

RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]


@dataclass
class Image:
    height: int
    width: int
    encoding: str
    step: int
    data: Any
    is_bigendian: int = 0


@dataclass
class Compressed:
    format: str
    data: Any


def image(encoding: str, rows: list[list[int]], width: int, bytes_per_row: int = 0) -> Image:
    data = bytes(value for row in rows for value in row)
    return Image(len(rows), width, encoding, bytes_per_row or len(rows[0]), data)


@pytest.mark.parametrize(
    ('encoding', 'row'),
    [
        ('rgb8', [255, 0, 0, 0, 0, 255]),
        ('bgr8', [0, 0, 255, 255, 0, 0]),
        ('rgba8', [255, 0, 0, 9, 0, 0, 255, 9]),
        ('bgra8', [0, 0, 255, 9, 255, 0, 0, 9]),
        ('8UC3', [0, 0, 255, 255, 0, 0]),
        ('8UC4', [0, 0, 255, 9, 255, 0, 0, 9]),
        ('rgb16', [255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]),
        ('bgr16', [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]),
        ('16UC3', [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0]),
        ('rgba16', [255, 255, 0, 0, 0, 0, 7, 7, 0, 0, 0, 0, 255, 255, 7, 7]),
        ('bgra16', [0, 0, 0, 0, 255, 255, 7, 7, 255, 255, 0, 0, 0, 0, 7, 7]),
        ('16UC4', [0, 0, 0, 0, 255, 255, 7, 7, 255, 255, 0, 0, 0, 0, 7, 7]),
    ],
)
def test_a_red_and_a_blue_pixel(encoding: str, row: list[int]) -> None:
    assert decode_image(image(encoding, [row], width=2)).tolist() == [[RED, BLUE]]


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_grey_is_repeated(encoding: str) -> None:
    assert decode_image(image(encoding, [[7, 200]], width=2)).tolist() == [[[7] * 3, [200] * 3]]


@pytest.mark.parametrize('encoding', ['mono16', '16UC1'])
def test_16_bits_are_scaled_by_257_and_rounded(encoding: str) -> None:
    values = np.array([0, 128, 129, 257, 65535 - 129, 65535 - 128, 65535], '<u2')
    little = Image(1, 7, encoding, 14, values.tobytes())
    big = Image(1, 7, encoding, 14, values.astype('>u2').tobytes(), is_bigendian=1)
    assert decode_image(little)[0, :, 0].tolist() == [0, 0, 1, 1, 254, 255, 255]
    assert np.array_equal(decode_image(little), decode_image(big))


def test_every_8_bit_value_survives_16_bits() -> None:
    values = np.arange(256, dtype='<u2') * 257
    wide = Image(1, 256, 'mono16', 512, values.tobytes())
    assert decode_image(wide)[0, :, 0].tolist() == list(range(256))


def test_byte_order_of_8_bit_images_means_nothing() -> None:
    msg = image('bgr8', [[0, 0, 255]], width=1)
    msg.is_bigendian = 1
    assert decode_image(msg).tolist() == [[RED]]


@pytest.mark.parametrize(
    ('pattern', 'colors'),
    [('rggb', 'RGGB'), ('bggr', 'BGGR'), ('gbrg', 'GBRG'), ('grbg', 'GRBG')],
)
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('big', [0, 1])
def test_bayer(pattern: str, colors: str, bits: int, big: int) -> None:
    """A mosaic in which only the red sensors see light is a red picture, and so on."""
    peak = 255 if bits == 8 else 65535
    dtype = np.dtype('u1') if bits == 8 else np.dtype('>u2' if big else '<u2')
    for channel, color in enumerate('RGB'):
        tile = [[peak if c == color else 0 for c in colors[i : i + 2]] for i in (0, 2)]
        mosaic = np.tile(np.array(tile, dtype), (4, 4))
        step = 8 * bits // 8
        msg = Image(8, 8, f'bayer_{pattern}{bits}', step, mosaic.tobytes(), big)
        seen = decode_image(msg)
        expected = [0, 0, 0]
        expected[channel] = 255
        assert seen[3:5, 3:5].reshape(-1, 3).tolist() == [expected] * 4, color


# Red in BT.601 with video levels: Y 81, U 90, V 240.
@pytest.mark.parametrize(
    ('encoding', 'row'),
    [
        ('uyvy', [90, 81, 240, 81]),
        ('yuv422', [90, 81, 240, 81]),
        ('yuyv', [81, 90, 81, 240]),
        ('yuv422_yuy2', [81, 90, 81, 240]),
    ],
)
def test_packed_yuv(encoding: str, row: list[int]) -> None:
    seen = decode_image(image(encoding, [row], width=2))
    assert np.abs(seen.astype(int) - RED).max() <= 2


def test_nv21_has_one_pair_of_v_and_u_for_four_pixels() -> None:
    msg = Image(2, 2, 'nv21', 2, bytes([81, 81, 81, 81, 240, 90]))
    assert np.abs(decode_image(msg).astype(int) - RED).max() <= 2


def test_nv21_with_padded_rows() -> None:
    msg = Image(2, 2, 'nv21', 3, bytes([81, 81, 9, 81, 81, 9, 240, 90, 9]))
    assert np.abs(decode_image(msg).astype(int) - RED).max() <= 2


@pytest.mark.parametrize('padding', [0, 2])
def test_nv24_has_u_and_v_for_each_pixel(padding: int) -> None:
    light = [81, 41, *[9] * padding]  # red, blue
    color = [90, 240, 240, 110, *[9] * 2 * padding]
    seen = decode_image(Image(1, 2, 'nv24', 2 + padding, bytes(light + color)))
    assert np.abs(seen.astype(int) - [[RED, BLUE]]).max() <= 2


def test_an_rgb8_image_is_not_copied() -> None:
    data = array('B', [1, 2, 3, 4, 5, 6])
    seen = decode_image(Image(1, 2, 'rgb8', 6, data))
    data[0] = 99
    assert seen.tolist() == [[[99, 2, 3], [4, 5, 6]]]


def test_labels_are_read_as_they_are() -> None:
    view = image_view(image('mono8', [[7, 255], [0, 3]], width=2))
    assert view.tolist() == [[7, 255], [0, 3]]


def test_any_kind_of_buffer_is_read() -> None:
    raw = bytes([1, 2, 3])
    for data in (raw, bytearray(raw), memoryview(raw), array('B', raw), np.frombuffer(raw, 'u1')):
        assert decode_image(Image(1, 1, 'rgb8', 3, data)).tolist() == [[[1, 2, 3]]]


def test_the_converter_is_asked_for_what_is_no_exchange_of_channels() -> None:
    asked = []

    def convert(msg: ImageMessage, pixels: Any) -> Any:
        asked.append((msg.encoding, pixels.shape, pixels.dtype.name))
        return np.zeros((*pixels.shape[:2], 3), np.uint8)

    decode_image(image('bayer_rggb16', [[1, 0, 2, 0]], width=2), convert)
    decode_image(image('uyvy', [[1, 2, 3, 4]], width=2), convert)
    decode_image(image('bgr8', [[1, 2, 3]], width=1), convert)
    assert asked == [('bayer_rggb16', (1, 2), 'uint16'), ('uyvy', (1, 2, 2), 'uint8')]


@pytest.mark.parametrize(
    ('msg', 'says'),
    [
        (Image(0, 2, 'rgb8', 6, b''), '2 x 0'),
        (Image(2, 0, 'rgb8', 0, b''), '0 x 2'),
        (Image(1, 2, 'rgb8', 5, bytes(6)), 'step is 5 bytes.*at least 6'),
        (Image(2, 2, 'rgb8', 6, bytes(11)), '11 bytes.*take 12'),
        (Image(1, 1, 'rgb8', 3, b''), '0 bytes.*take 3'),
        (Image(1, 1, 'rgb9', 3, bytes(3)), "unknown image encoding 'rgb9'.*rgb8, bgr8"),
        (Image(1, 1, '32FC1', 4, bytes(4)), 'unknown image encoding'),
        (Image(1, 3, 'uyvy', 6, bytes(6)), 'multiples of 2 and 1'),
        (Image(3, 2, 'nv21', 2, bytes(9)), 'multiples of 2 and 2'),
        (Image(2, 2, 'nv21', 2, bytes(4)), '4 bytes, but 3 rows of 2'),
        (Image(1, 2, 'nv24', 2, bytes(5)), '5 bytes, but 3 rows of 2'),
        (Image(1, MAX_PIXELS + 1, 'mono8', MAX_PIXELS + 1, b''), f'more than {MAX_PIXELS}'),
        (Image(1, 1, 'mono8', 1, None), 'NoneType'),
        (Image(1, 1, 'mono8', 1, 'a'), 'no buffer'),
    ],
)
def test_contradictions_are_named(msg: ImageMessage, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_image(msg)


@given(
    encoding=st.sampled_from(sorted(ENCODINGS)),
    half_hw=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.integers(0, 9),
    big=st.integers(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
def test_padding_changes_nothing(
    encoding: str, half_hw: tuple[int, int], padding: int, big: int, seed: int
) -> None:
    height, width = 2 * half_hw[0], 2 * half_hw[1]
    row_bytes = width * ENCODINGS[encoding].channels * ENCODINGS[encoding].bits // 8
    rows = height * ENCODINGS[encoding].rows // 2
    random = np.random.default_rng(seed)
    content = random.integers(0, 256, (rows, row_bytes), np.uint8)
    if encoding == 'nv24':  # its colour rows are of double length, and so is their padding
        light, color = content[:height], content[height:].reshape(height, 2 * row_bytes)
        padded = (
            np.pad(light, ((0, 0), (0, padding)), constant_values=99).tobytes()
            + np.pad(color, ((0, 0), (0, 2 * padding)), constant_values=99).tobytes()
        )
    else:
        padded = np.pad(content, ((0, 0), (0, padding)), constant_values=99).tobytes()
    tight = Image(height, width, encoding, row_bytes, content.tobytes(), big)
    loose = Image(height, width, encoding, row_bytes + padding, padded, big)
    seen = decode_image(loose)
    assert seen.shape == (height, width, 3)
    assert seen.dtype == np.uint8
    assert np.array_equal(seen, decode_image(tight))


@given(
    height=st.integers(0, 9),
    width=st.integers(0, 9),
    step=st.integers(0, 99),
    encoding=st.sampled_from([*sorted(ENCODINGS), '', 'mono9', '64FC4']),
    data=st.binary(max_size=300),
    big=st.integers(0, 255),
)
def test_any_fields_are_an_image_or_an_image_error(
    height: int, width: int, step: int, encoding: str, data: bytes, big: int
) -> None:
    try:
        seen = decode_image(Image(height, width, encoding, step, data, big))
    except ImageError:
        return
    assert seen.shape == (height, width, 3)


# --- Compressed


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_png_gives_back_every_pixel(height: int, width: int, seed: int) -> None:
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(decode_compressed(Compressed('png', encode_png(rgb))), rgb)
    labels = rgb[:, :, 0]
    again = decode_compressed(Compressed('mono8; png compressed ', encode_png(labels)))
    assert np.array_equal(again, np.repeat(labels[:, :, None], 3, axis=2))


def smooth(height: int = 24, width: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 5, x + y], axis=2).astype(np.uint8)


def test_jpeg_gives_back_the_colours() -> None:
    seen = decode_compressed(Compressed('bgr8; jpeg compressed bgr8', encode_jpeg(smooth(), 95)))
    assert np.abs(seen.astype(int) - smooth()).mean() < 4


def test_format_compressed_rgb_means_exchanged_channels() -> None:
    data = encode_png(np.array([[RED]], np.uint8))
    assert decode_compressed(Compressed('rgb8; png compressed rgb8', data)).tolist() == [[BLUE]]
    assert decode_compressed(Compressed('rgb8; png compressed bgr8', data)).tolist() == [[RED]]


def test_format_is_written_as_image_transport_does() -> None:
    assert compressed_format('mono8', 'png') == 'mono8; png compressed '
    assert compressed_format('rgb8', 'jpeg') == 'rgb8; jpeg compressed bgr8'


def tiff() -> bytes:
    """A grey 2 x 1 TIFF, written out by hand."""
    entries = [(256, 2), (257, 1), (258, 8), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1),
               (279, 2)]  # fmt: skip
    tags = b''.join(tag.to_bytes(2, 'little') + b'\3\0\1\0\0\0' + value.to_bytes(4, 'little')
                    for tag, value in entries)  # fmt: skip
    return b'II*\0\x08\0\0\0' + len(entries).to_bytes(2, 'little') + tags + bytes(4) + b'\x07\xc8'


def test_tiff() -> None:
    assert decode_compressed(Compressed('tiff', tiff())).tolist() == [[[7] * 3, [200] * 3]]


def webp(rgb: npt.NDArray[np.uint8], quality: int = 101) -> bytes:
    """A WebP; a quality above 100 is without loss, another kind of file."""
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    _, data = cv2.imencode('.webp', bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return bytes(data)


def extended_webp(rgb: npt.NDArray[np.uint8]) -> bytes:
    """The same in the extended format, which says the size on its own."""
    chunk = webp(rgb)[12:]
    high, wide = (int(side) - 1 for side in rgb.shape[:2])
    canvas = bytes(4) + wide.to_bytes(3, 'little') + high.to_bytes(3, 'little')
    body = b'WEBPVP8X\x0a\0\0\0' + canvas + chunk
    return b'RIFF' + len(body).to_bytes(4, 'little') + body


def test_webp_without_loss_gives_back_every_pixel() -> None:
    for data in (webp(smooth()), extended_webp(smooth())):
        assert np.array_equal(decode_file(data), smooth())


@pytest.mark.parametrize('make', [webp, extended_webp, lambda rgb: webp(rgb, 80)])
@pytest.mark.parametrize('width', [1, 300])
def test_size_of_a_webp_is_in_its_header(
    make: Callable[[npt.NDArray[np.uint8]], bytes], width: int
) -> None:
    assert image_size(make(np.zeros((700, width, 3), np.uint8))) == (width, 700)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """A JPEG with an Exif segment that says how to turn it."""
    tag = b'\x12\x01\3\0\1\0\0\0' + orientation.to_bytes(4, 'little')
    exif = b'Exif\0\0II*\0\x08\0\0\0\1\0' + tag + bytes(4)
    return jpeg[:2] + b'\xff\xe1' + (len(exif) + 2).to_bytes(2, 'big') + exif + jpeg[2:]


def test_a_picture_is_turned_only_when_asked() -> None:
    data = with_orientation(encode_jpeg(smooth()), 6)
    as_stored = decode_file(encode_jpeg(smooth()))
    assert np.array_equal(decode_file(data), as_stored)
    assert np.array_equal(decode_file(data, upright=True), np.rot90(as_stored, -1))


def test_a_small_tiff_of_large_tiles_is_refused() -> None:
    tiles = b''.join(tag + b'\4\0\1\0\0\0\0\0\1\0' for tag in (b'\x42\1', b'\x43\1'))
    count = tiff()[8] + 2
    data = tiff()[:8] + count.to_bytes(2, 'little') + tiles + tiff()[10:]
    with pytest.raises(ImageError, match='tiles of 65536 x 65536'):
        decode_file(data)


SAMPLES = [encode_jpeg(smooth()), encode_png(smooth()), tiff(), webp(smooth()),
           webp(smooth(), 80), extended_webp(smooth())]  # fmt: skip


@pytest.mark.parametrize('whole', SAMPLES)
def test_every_cut_is_noticed(whole: bytes) -> None:
    for length in range(len(whole)):
        with pytest.raises(ImageError):
            decode_compressed(Compressed('', whole[:length]))


def test_padding_behind_the_end_of_a_jpeg_is_harmless() -> None:
    data = encode_jpeg(smooth())
    padded = decode_compressed(Compressed('jpeg', data + bytes(64)))
    assert np.array_equal(padded, decode_compressed(Compressed('jpeg', data)))


def test_one_wrong_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encode_png(smooth()))
    data[60] ^= 1
    with pytest.raises(ImageError, match='corrupt: checksum'):
        decode_compressed(Compressed('png', bytes(data)))


def test_a_bomb_is_refused_by_its_header() -> None:
    """A JPEG of a few hundred bytes that claims 65,500 x 65,500 pixels."""
    data = encode_jpeg(smooth())
    at = data.index(b'\xff\xc0') + 5
    forged = data[:at] + (65500).to_bytes(2, 'big') * 2 + data[at + 4 :]
    with pytest.raises(ImageError, match='65500 x 65500 has more than'):
        decode_compressed(Compressed('jpeg', forged))


@pytest.mark.parametrize(
    ('data', 'says'),
    [
        (b'', '0 bytes'),
        (b'GIF89a', 'expected JPEG, PNG, TIFF or WebP'),
        (None, 'NoneType'),
        (b'\xff\xd8\xff\xe0\x00\x00', 'corrupt at byte 2'),
    ],
)
def test_what_is_no_image_is_named(data: Any, says: str) -> None:
    msg: CompressedMessage = Compressed('jpeg', data)
    with pytest.raises(ImageError, match=says):
        decode_compressed(msg)


MAGICS = [b'\xff\xd8', b'\x89PNG\r\n\x1a\n', b'II*\0', b'MM\0*', b'RIFF\x40\0\0\0WEBPVP8X', b'']


@given(magic=st.sampled_from(MAGICS), rest=st.binary(max_size=200))
def test_any_bytes_are_an_image_or_an_image_error(magic: bytes, rest: bytes) -> None:
    with suppress(ImageError):
        assert decode_compressed(Compressed('', magic + rest)).ndim == 3


@given(
    whole=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_damaged_files_are_an_image_or_an_image_error(
    whole: bytes, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    try:
        seen = decode_compressed(Compressed('', bytes(data)))
    except ImageError:
        return
    assert seen.dtype == np.uint8
    assert seen.shape[0] * seen.shape[1] <= MAX_PIXELS


@pytest.mark.parametrize(
    'wrong',
    [
        np.zeros((2, 2), np.uint16),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_only_labels_and_rgb_are_compressed(wrong: Any) -> None:
    with pytest.raises(ImageError, match=r'expected \(H, W\) or \(H, W, 3\) uint8'):
        encode_png(wrong)


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ImageError, match=r'\(1, 65501, 3\) as .jpg; it is too wide'):
        encode_jpeg(np.zeros((1, 65501, 3), np.uint8))
