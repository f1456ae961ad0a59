# SPDX-License-Identifier: Apache-2.0
"""Every encoding on tiny literal images, and nothing but ImageError for what is none."""

from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_bytes import extended_webp, tiff, webp, with_orientation

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, SettingError
from segmentation_node.images.bit_depth import EXAMINED, Samples
from segmentation_node.images.encodings import (
    DEPTH,
    ENCODINGS,
    LABELS,
    MAX_PIXELS,
    CompressedMessage,
    ImageMessage,
    compressed_format,
    decode_compressed,
    decode_image,
    encode_jpeg,
    encode_png,
    image_view,
    values_view,
)
from segmentation_node.images.files import decode_file, decode_pixels, image_size

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


@pytest.mark.parametrize(('encoding', 'color'), [('nv12', [90, 240]), ('nv21', [240, 90])])
@pytest.mark.parametrize('padding', [[], [9]])
def test_nv12_and_nv21_have_one_pair_of_u_and_v_for_four_pixels(
    encoding: str, color: list[int], padding: list[int]
) -> None:
    rows = [[81, 81, *padding], [81, 81, *padding], [*color, *padding]]
    msg = Image(2, 2, encoding, 2 + len(padding), bytes(value for row in rows for value in row))
    assert np.abs(decode_image(msg).astype(int) - RED).max() <= 2


@pytest.mark.parametrize('padding', [0, 2])
def test_nv24_has_u_and_v_for_each_pixel(padding: int) -> None:
    light = [81, 41, *[9] * padding]  # red, blue
    color = [90, 240, 240, 110, *[9] * 2 * padding]
    seen = decode_image(Image(1, 2, 'nv24', 2 + padding, bytes(light + color)))
    assert np.abs(seen.astype(int) - [[RED, BLUE]]).max() <= 2


# All of image_encodings.hpp of sensor_msgs 5.5.1 and of its branch rolling in 2025.
SENSOR_MSGS = [
    'rgb8', 'rgba8', 'rgb16', 'rgba16', 'bgr8', 'bgra8', 'bgr16', 'bgra16', 'mono8', 'mono16',
    *(f'{kind}C{channels}' for kind in ('8U', '8S', '16U', '16S', '32S', '32F', '64F')
      for channels in (1, 2, 3, 4)),
    *(f'bayer_{name}{bits}' for name in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)),
    'uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21', 'nv24',
]  # fmt: skip
#: BT.601 with video levels.
RED_YUV, WHITE_YUV = (81, 90, 240), (235, 128, 128)


def uniform(encoding: str, rgb: tuple[int, int, int], yuv: tuple[int, int, int]) -> Image:
    """A 2 x 2 image of one color by the definition of its encoding; 4 x 4 of a mosaic."""
    wide = encoding.endswith('16') or encoding.startswith('16U')
    number = np.dtype('<u2' if wide else 'u1')
    y, u, v = yuv
    red, green, blue = rgb
    if encoding in ('nv12', 'nv21', 'nv24'):
        pair = [v, u] if encoding == 'nv21' else [u, v]
        data = bytes([y] * 4 + pair * (4 if encoding == 'nv24' else 1))
        return Image(2, 2, encoding, 2, data)
    if encoding in ('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2'):
        pair = [u, y, v, y] if encoding in ('uyvy', 'yuv422') else [y, u, y, v]
        return Image(2, 2, encoding, 4, bytes(2 * pair))
    if encoding.startswith('bayer'):
        of = {'r': red, 'g': green, 'b': blue}
        tile = [[of[letter] for letter in encoding[at : at + 2]] for at in (6, 8)]
        samples = np.tile(tile, (2, 2)).ravel().tolist()
    else:
        # What has no order of its own has that of OpenCV.
        is_rgb = encoding.startswith('rgb')
        order = [red, green, blue] if is_rgb else [blue, green, red]
        channels = {'a': 4, 'o': 1}.get(encoding[3], 3)
        if 'UC' in encoding:
            channels = int(encoding[-1])
        samples = 4 * ([*order, 7] if channels == 4 else order if channels == 3 else [red])
    packed = (np.array(samples) * (257 if wide else 1)).astype(number)
    side = 4 if encoding.startswith('bayer') else 2
    return Image(side, side, encoding, packed.nbytes // side, packed.tobytes())


@pytest.mark.parametrize('encoding', SENSOR_MSGS)
def test_every_encoding_of_sensor_msgs_gives_its_colors_or_a_reason(encoding: str) -> None:
    white = uniform(encoding, (255, 255, 255), WHITE_YUV)
    if encoding not in ENCODINGS:
        with pytest.raises(ImageError, match=f"'{encoding}' contains no colors.*choose"):
            decode_image(white)
        return
    assert decode_image(white).min() == 255
    red = decode_image(uniform(encoding, (255, 0, 0), RED_YUV))
    gray = encoding.startswith('mono') or encoding.endswith('UC1')
    assert np.abs(red.astype(int) - ([255, 255, 255] if gray else RED)).max() <= 2


@pytest.mark.parametrize('encoding', ['mono16', '16UC1', 'rgb16', 'bgra16', 'bayer_grbg16'])
def test_12_bits_in_16_are_scaled_where_that_is_said(encoding: str) -> None:
    channels = ENCODINGS[encoding].channels
    values = np.full((8, 8 * channels), 4095, '<u2')
    values[:4] = 0
    msg = Image(8, 8, encoding, values[0].nbytes, values.tobytes())
    seen = decode_image(msg, samples=Samples(12))
    assert (seen[:3] == 0).all()
    assert (seen[5:] == 255).all()
    assert (decode_image(msg)[5:] == 16).all()
    values[4:6] = 4096
    msg.data = values.tobytes()
    with pytest.raises(ImageError, match=r'value 4096, .*bits_per_sample is 12.*to 13 or'):
        decode_image(msg, samples=Samples(12))


def test_bits_of_8_bit_images_mean_nothing() -> None:
    assert decode_image(image('mono8', [[255]], width=1), samples=Samples(12)).max() == 255


@pytest.mark.parametrize('bits', [7, 17])
def test_bits_are_8_to_16(bits: int) -> None:
    with pytest.raises(SettingError, match=f'are {bits}; expected 8 to 16'):
        Samples(bits)


def deep(largest: int) -> Image:
    return Image(1, 2, 'mono16', 4, np.array([0, largest], '<u2').tobytes())


def test_small_values_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    samples = Samples()
    for _ in range(EXAMINED - 1):
        decode_image(deep(4000), samples=samples)
    assert not caplog.records
    for _ in range(3):
        decode_image(deep(4000), samples=samples)
    samples.end()
    [record] = caplog.records
    assert 'no value above 4000 so far: if the camera uses 12 bits' in record.getMessage()


def test_small_values_are_told_of_at_the_end_of_few_images(
    caplog: pytest.LogCaptureFixture,
) -> None:
    samples = Samples()
    decode_image(deep(1000), samples=samples)
    samples.end()
    samples.end()
    [record] = caplog.records
    assert 'no value above 1000 so far: if the camera uses 10 bits' in record.getMessage()


@pytest.mark.parametrize('bits', [12, 16])
def test_nothing_is_told_of_large_or_explained_values(
    bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    samples = Samples(bits)
    for largest in [100] * EXAMINED:
        decode_image(deep(largest if bits == 12 else 50000), samples=samples)
    samples.end()
    assert not caplog.records


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

    decode_image(image('bayer_rggb8', [[1, 2, 3]] * 4, width=3), convert)
    decode_image(image('uyvy', [[1, 2, 3, 4]], width=2), convert)
    decode_image(image('bgr8', [[1, 2, 3]], width=1), convert)
    assert asked == [('bayer_rggb8', (4, 3), 'uint8'), ('uyvy', (1, 2, 2), 'uint8')]


@pytest.mark.parametrize(
    ('msg', 'says'),
    [
        (Image(0, 2, 'rgb8', 6, b''), '2 x 0'),
        (Image(2, 0, 'rgb8', 0, b''), '0 x 2'),
        (Image(1, 2, 'rgb8', 5, bytes(6)), 'step is 5 bytes.*at least 6'),
        (Image(2, 2, 'rgb8', 6, bytes(11)), '11 bytes.*take 12'),
        (Image(1, 1, 'rgb8', 3, b''), '0 bytes.*take 3'),
        (Image(1, 1, 'rgb9', 3, bytes(3)), "unknown image encoding 'rgb9'.*rgb8, bgr8"),
        (Image(1, 1, 'RGB8', 3, bytes(3)), "unknown image encoding 'RGB8'; did you mean rgb8"),
        (
            Image(1, 1, '32FC1', 4, bytes(4)),
            "'32FC1' contains no colors.*rgb8.*choose the color topic",
        ),
        (Image(2, 9, 'bayer_rggb8', 9, bytes(18)), 'Bayer image of 9 x 2.*3 x 3 pixels or more'),
        (Image(1, 3, 'uyvy', 6, bytes(6)), 'multiples of 2 and 1'),
        (Image(3, 2, 'nv21', 2, bytes(9)), 'multiples of 2 and 2'),
        (Image(2, 2, 'nv21', 2, bytes(4)), '4 bytes, but 3 rows of 2'),
        (Image(1, 2, 'nv24', 2, bytes(5)), '5 bytes, but 3 rows of 2'),
        (Image(1, MAX_PIXELS + 1, 'mono8', MAX_PIXELS + 1, b''), f'more than {MAX_PIXELS}'),
        (Image(1, 1, 'mono8', 1, None), 'NoneType'),
        (Image(1, 1, 'mono8', 1, 'a'), 'not a buffer'),
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
    height, width = 2 * half_hw[0] + 2, 2 * half_hw[1] + 2
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


@pytest.mark.parametrize(
    ('format_', 'swapped'),
    [
        ('rgb8; tiff compressed ', True),  # the encoder was handed RGB as it was
        ('bgr8; tiff compressed ', False),
        ('tiff', False),
    ],
)
def test_a_tiff_has_the_order_of_the_raw_image(format_: str, swapped: bool) -> None:
    data = bytes(cv2.imencode('.tiff', np.array([[BLUE]], np.uint8))[1])  # red, as OpenCV reads
    assert decode_compressed(Compressed(format_, data)).tolist() == [[BLUE if swapped else RED]]


MOSAIC: UInt8Array = np.tile(np.array([[255, 0], [0, 0]], np.uint8), (4, 4))


@pytest.mark.parametrize(
    ('suffix', 'format_'),
    [
        ('.png', 'bayer_rggb8; png compressed '),
        ('.tiff', 'bayer_rggb8; tiff compressed '),
        ('.jpg', 'bayer_rggb8; jpeg compressed '),
    ],
)
def test_a_compressed_mosaic_is_debayered(suffix: str, format_: str) -> None:
    """As Humble's image_transport compresses a Bayer camera; its PNG is a mosaic in all."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, 100] if suffix == '.jpg' else []
    data = bytes(cv2.imencode(suffix, MOSAIC, settings)[1])
    seen = decode_compressed(Compressed(format_, data))[3:5, 3:5]
    assert np.abs(seen.astype(int) - RED).max() <= 6


def test_a_compressed_mosaic_of_12_bits() -> None:
    data = bytes(cv2.imencode('.png', MOSAIC.astype(np.uint16) * 16)[1])  # up to 4080
    msg = Compressed('bayer_rggb16; png compressed ', data)
    seen = decode_compressed(msg, samples=Samples(12))[3:5, 3:5]
    assert np.abs(seen.astype(int) - RED).max() <= 1


def test_a_bayer_image_that_was_made_gray_or_colored_first_is_taken_as_it_is() -> None:
    gray = encode_png(MOSAIC)
    seen = decode_compressed(Compressed('bayer_rggb8; jpeg compressed mono8', gray))
    assert np.array_equal(seen, np.repeat(MOSAIC[:, :, None], 3, axis=2))
    red = encode_png(np.array([[RED]], np.uint8))
    for format_ in ('bayer_rggb8; jpeg compressed bgr8', 'bayer_rggb8; png compressed '):
        assert decode_compressed(Compressed(format_, red)).tolist() == [[RED]]


def test_an_unknown_mosaic_is_refused() -> None:
    msg = Compressed('bayer_rggb12p; png compressed ', encode_png(MOSAIC))
    with pytest.raises(ImageError, match="'bayer_rggb12p'; expected one of bayer_rggb8"):
        decode_compressed(msg)


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
def test_files_of_16_bits_are_scaled_as_raw_images(suffix: str) -> None:
    values = np.array([[0, 2048, 4095]], np.uint16)
    data = bytes(cv2.imencode(suffix, values)[1])
    assert decode_file(data, samples=Samples(12))[0, :, 1].tolist() == [0, 128, 255]
    assert decode_file(data)[0, :, 1].tolist() == [0, 8, 16]
    with pytest.raises(ImageError, match='value 4095'):
        decode_file(data, samples=Samples(10))


def test_a_file_of_other_numbers_is_refused() -> None:
    heights = bytes(cv2.imencode('.tiff', np.zeros((2, 2, 3), np.float32))[1])
    with pytest.raises(ImageError, match='samples of type float32; expected 8 or 16 bits'):
        decode_file(heights)


def test_format_is_written_as_image_transport_does() -> None:
    assert compressed_format('mono8', 'png') == 'mono8; png compressed '
    assert compressed_format('rgb8', 'jpeg') == 'rgb8; jpeg compressed bgr8'


def test_tiff() -> None:
    assert decode_compressed(Compressed('tiff', tiff())).tolist() == [[[7] * 3, [200] * 3]]


def test_webp_without_loss_gives_back_every_pixel() -> None:
    for data in (webp(smooth()), extended_webp(smooth())):
        assert np.array_equal(decode_file(data), smooth())


@pytest.mark.parametrize('make', [webp, extended_webp, lambda rgb: webp(rgb, 80)])
@pytest.mark.parametrize('width', [1, 300])
def test_size_of_a_webp_is_in_its_header(make: Callable[[UInt8Array], bytes], width: int) -> None:
    assert image_size(make(np.zeros((700, width, 3), np.uint8))) == (width, 700)


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
        np.zeros((2, 2, 3), np.uint16),
        np.zeros((2, 2), np.int16),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 2), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_only_labels_and_rgb_are_compressed(wrong: Any) -> None:
    with pytest.raises(ImageError, match=r'expected \(H, W\) or \(H, W, 3\) uint8, or'):
        encode_png(wrong)


def test_only_a_png_has_16_bits() -> None:
    ids: Any = np.array([[0, 65535]], np.uint16)
    assert (decode_pixels(encode_png(ids), cv2.IMREAD_UNCHANGED) == ids).all()
    with pytest.raises(ImageError, match=r'uint16; expected \(H, W\) or \(H, W, 3\) uint8$'):
        encode_jpeg(ids)


def test_what_a_format_cannot_hold_is_refused() -> None:
    with pytest.raises(ImageError, match=r'\(1, 65501, 3\) as .jpg; it is too wide'):
        encode_jpeg(np.zeros((1, 65501, 3), np.uint8))


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('encoding', ['16UC1', 'mono16', '32FC1'])
def test_depth_is_read_in_either_byte_order(encoding: str, order: str) -> None:
    kind = 'f4' if encoding == '32FC1' else 'u2'
    values = np.array([[1, 2], [300, 4000]], f'{order}{kind}')
    rows = [[*row.tobytes(), 9, 9, 9, 9] for row in values]  # padded
    message = image(encoding, rows, width=2)
    message.is_bigendian = int(order == '>')
    view = values_view(message, DEPTH)
    assert view.dtype == np.dtype(kind)
    assert view.tolist() == values.tolist()


def test_values_of_another_encoding_are_refused() -> None:
    with pytest.raises(ImageError, match=r"encoding '32FC1'; expected mono8 or 8UC1: choose"):
        values_view(image('32FC1', [[0, 0, 0, 0]], width=1), LABELS)
    with pytest.raises(ImageError, match='data has 4 bytes, but'):
        values_view(image('32FC1', [[0, 0, 0, 0]], width=2, bytes_per_row=8), DEPTH)
