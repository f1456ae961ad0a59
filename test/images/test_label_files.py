# SPDX-License-Identifier: Apache-2.0
"""Label images in every way that data sets store them: the ids as written, or a reason."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from png_files import GRAY, GRAY_ALPHA, PALETTE, RGB, RGBA, png

from segmentation_node.errors import ImageError
from segmentation_node.images import label_files
from segmentation_node.images.files import encode_jpeg
from segmentation_node.images.label_files import decode_label_file, decode_labels, read_labels
from segmentation_node.labels import LabelClass, LabelScheme

BLACK, RED, GREEN, BLUE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
SCHEME = LabelScheme(
    'yard',
    (
        LabelClass(0, 'other', BLACK, 'void', void=True),
        LabelClass(1, 'floor', GREEN, 'flat'),
        LabelClass(2, 'wall', RED, 'construction'),
    ),
    ignored=(255,),
)
TWINS = LabelScheme('twins', (*SCHEME.classes, LabelClass(3, 'fence', RED, 'construction')))


def ids(rows: Sequence[Sequence[int]], dtype: Any = np.uint8) -> npt.NDArray[Any]:
    return np.array(rows, dtype)


def tiff(pixels: npt.NDArray[Any]) -> bytes:
    return bytes(cv2.imencode('.tiff', pixels)[1])


def with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF in which a 16-bit tag has another value."""
    at = int.from_bytes(data[4:8], 'little') + 2
    while int.from_bytes(data[at : at + 2], 'little') != tag:
        at += 12
    return data[: at + 8] + value.to_bytes(2, 'little') + data[at + 10 :]


@given(
    depth=st.sampled_from([(1, GRAY), (2, GRAY), (4, GRAY), (8, GRAY), (16, GRAY),
                           (1, PALETTE), (2, PALETTE), (4, PALETTE), (8, PALETTE)]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    interlaced=st.booleans(),
    transparent=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_ids_are_as_written(
    depth: tuple[int, int], size: tuple[int, int], interlaced: bool, transparent: bool, seed: int
) -> None:
    bits, kind = depth
    random = np.random.default_rng(seed)
    values = random.integers(0, 2 ** min(bits, 8), size)
    palette = random.integers(0, 256, (2**bits, 3)).tolist() if kind == PALETTE else []
    extra = [(b'tRNS', b'\0' if kind == PALETTE else b'\0\1')] if transparent else []
    data = png(values, bits, kind, palette, interlaced, extra)
    assert decode_label_file(data).tolist() == values.tolist()


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_tiff_of_ids(dtype: type) -> None:
    values = ids([[0, 1], [2, 255]], dtype)
    assert decode_label_file(tiff(values)).tolist() == values.tolist()


def test_tiff_with_a_palette() -> None:
    """As ImageMagick and Pillow write it: 3 x 256 colors of 16 bits in tag 320."""
    values = ids([[0, 1, 2]])
    entries = [(256, 3, 1, 3), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 3),
               (273, 3, 1, 134), (277, 3, 1, 1), (278, 3, 1, 1), (279, 3, 1, 3),
               (320, 3, 768, 137)]  # fmt: skip
    tags = b''.join(
        tag.to_bytes(2, 'little') + kind.to_bytes(2, 'little') + n.to_bytes(4, 'little')
        + value.to_bytes(4, 'little')
        for tag, kind, n, value in entries
    )  # fmt: skip
    head = b'II*\0\x08\0\0\0' + len(entries).to_bytes(2, 'little') + tags + bytes(4)
    assert len(head) == 134
    colors = np.random.default_rng(0).integers(0, 65536, 768).astype('<u2').tobytes()
    assert decode_label_file(head + values.tobytes() + colors).tolist() == [[0, 1, 2]]


def test_alpha_that_hides_nothing_is_dropped() -> None:
    gray = np.stack([ids([[1, 2]]), ids([[255, 255]])], axis=2)
    assert decode_label_file(png(gray, kind=GRAY_ALPHA)).tolist() == [[1, 2]]
    colors = np.array([[(*RED, 255), (*BLACK, 255)]], np.uint8)
    assert decode_labels(png(colors, kind=RGBA), SCHEME).tolist() == [[2, 0]]


@pytest.mark.parametrize('store', [lambda c: png(c, kind=RGB), lambda c: tiff(c[..., ::-1])])
def test_colors_of_the_scheme_become_its_ids_and_that_is_told(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    label_files._tell_of_colors.cache_clear()
    colors = np.array([[RED, GREEN], [BLACK, RED]], np.uint8)
    with caplog.at_level(logging.WARNING):
        assert decode_labels(store(colors), SCHEME).tolist() == [[2, 1], [0, 2]]
        assert decode_labels(store(colors), SCHEME).tolist() == [[2, 1], [0, 2]]
    assert [r.getMessage() for r in caplog.records] == [
        'label images are color-coded; colors are converted to ids of label scheme yard'
    ]


def test_a_palette_of_any_colors_changes_no_id() -> None:
    assert decode_labels(png(ids([[1, 2, 0]]), 2, PALETTE, [BLUE, (9, 9, 9), RED]), SCHEME).tolist(
    ) == [[1, 2, 0]]  # fmt: skip


def test_values_that_the_scheme_ignores_are_kept() -> None:
    assert decode_labels(png(ids([[1, 255]])), SCHEME).tolist() == [[1, 255]]


@pytest.mark.parametrize(
    ('data', 'scheme', 'says'),
    [
        (png(ids([[0, 254, 254]])), SCHEME, r'yard lacks: 254 \(2 pixels\); its ids are 0, 1, 2'),
        (png(ids([[0, 255, 255]])), TWINS, r'twins lacks: 255 \(2 pixels\)'),
        (png(ids([[0, 3]]), 2, PALETTE, [BLACK] * 4), SCHEME, r'lacks: 3 \(1 pixels\)'),
        (png(ids([[0, 26001]], np.uint16), 16), SCHEME, 'values up to 26001; .*not of instances'),
        (png(np.array([[RED, BLUE]], np.uint8), kind=RGB), SCHEME,
         r'yard lacks: \(0, 0, 255\) \(1 pixels\)'),
        (png(np.array([[RED]], np.uint8), kind=RGB), TWINS, 'is the color of classes 2, 3'),
        (png(np.array([[RED]]) * 257, 16, RGB), SCHEME, '16-bit colors'),
        (png(np.array([[(*RED, 0)]], np.uint8), kind=RGBA), SCHEME, '1 transparent pixels'),
        (png(np.array([[[1, 0]]]), kind=GRAY_ALPHA), SCHEME, '1 transparent pixels'),
        (png(ids([[0, 1, 2]]), 2, PALETTE, [BLACK, RED, GREEN]), SCHEME,
         'index 1 has the color of class 2 .*as RGB'),
        (encode_jpeg(np.zeros((8, 8, 3), np.uint8)), SCHEME, 'compression may change ids'),
        (tiff(np.zeros((2, 2), np.float32)), SCHEME, '1 samples of 32 bits'),
        (with_tag(tiff(ids([[0, 1]])), 262, 0), SCHEME, 'photometric interpretation 0'),
        (b'', SCHEME, '0 bytes'),
    ],
)  # fmt: skip
def test_what_is_no_label_image_is_refused(data: bytes, scheme: LabelScheme, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_labels(data, scheme)


def test_colors_without_a_scheme_are_refused() -> None:
    with pytest.raises(ImageError, match='a label image of colors; expected'):
        decode_label_file(png(np.array([[RED]], np.uint8), kind=RGB))


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'truth.png'
    path.write_bytes(png(ids([[7]])))
    assert read_labels(path).tolist() == [[7]]
    with pytest.raises(ImageError, match=r'truth\.png: labels with values'):
        read_labels(path, SCHEME)


WHOLE = [
    png(ids([[0, 1], [2, 1]]), 2, PALETTE, [BLUE] * 4), png(ids([[0, 1], [1, 1]]), 1),
    png(np.zeros((3, 3, 3), np.uint8), kind=RGB), tiff(ids([[0, 1]])),
    tiff(np.zeros((2, 2, 3), np.uint8)),
]  # fmt: skip


@given(
    whole=st.sampled_from(WHOLE),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 10**6),
)
def test_damaged_files_are_labels_or_an_image_error(
    whole: bytes, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(whole)
    for at, value in changes:
        data[at % len(data)] = value
    with suppress(ImageError):
        assert decode_labels(bytes(data[: length % (2 * len(data))]), SCHEME).dtype == np.uint8
