# SPDX-License-Identifier: Apache-2.0
"""Labels as pictures, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.rendering import Rendered, colorize, overlay
from segmentation_node.labels import available_schemes, load_scheme

Image = UInt8Array
CATEGORIES = load_scheme('cityscapes8')


def test_each_label_has_its_color() -> None:
    labels = np.array([[1, 7], [0, 200]], np.uint8)
    assert colorize(labels, CATEGORIES).tolist() == [
        [[128, 64, 128], [0, 0, 142]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@pytest.mark.parametrize('name', available_schemes())
@settings(max_examples=20)
@given(labels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_colors_are_the_palette(name: str, labels: Image) -> None:
    scheme = load_scheme(name)
    painted = colorize(labels, scheme)
    assert painted.dtype == np.uint8
    assert painted.shape == (*labels.shape, 3)
    assert (painted == scheme.palette[labels]).all()


def test_views_are_painted_too() -> None:
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 8
    for view in (labels[:, ::2], labels.T, labels[::-1]):
        assert (colorize(view, CATEGORIES) == CATEGORIES.palette[view]).all()


@settings(max_examples=30)
@given(st.floats(0, 1), hnp.arrays(np.uint8, (2, 3, 4, 3)))
def test_overlay_is_a_weighted_mean(alpha: float, pictures: Image) -> None:
    picture, color = pictures
    exact = alpha * color.astype(float) + (1 - alpha) * picture
    assert np.abs(overlay(picture, color, alpha) - exact).max() <= 0.51


def test_overlay_at_its_ends_is_one_of_both() -> None:
    picture = np.full((2, 2, 3), 10, np.uint8)
    color = np.full((2, 2, 3), 200, np.uint8)
    assert (overlay(picture, color, 0.0) == 10).all()
    assert (overlay(picture, color, 1.0) == 200).all()
    assert (overlay(picture, color, 0.5) == 105).all()
    assert (picture == 10).all()
    assert (color == 200).all()


def test_pictures_are_painted_once_and_fit_together() -> None:
    picture = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[1, 7]], np.uint8)
    rendered = Rendered(picture, labels, lambda: np.full((1, 2), 255, np.uint8), CATEGORIES, 0.5)
    assert rendered.color_mask.tolist() == [[[128, 64, 128], [0, 0, 142]]]
    assert rendered.overlay.tolist() == [[[114, 82, 114], [50, 50, 121]]]
    assert rendered.color_mask is rendered.color_mask
    assert rendered.overlay is rendered.overlay


def test_pictures_are_painted_on_the_canvas() -> None:
    canvases = {topic: np.empty((1, 2, 3), np.uint8) for topic in ('color_mask', 'overlay')}

    def canvas(topic: str, size_hw: tuple[int, int]) -> Image:
        assert size_hw == (1, 2)
        return canvases[topic]

    picture = np.full((1, 2, 3), 100, np.uint8)
    labels = np.array([[1, 7]], np.uint8)
    rendered = Rendered(picture, labels, lambda: labels, CATEGORIES, 0.5, canvas)
    assert (rendered.overlay == overlay(picture, CATEGORIES.palette[labels], 0.5)).all()
    assert np.shares_memory(rendered.color_mask, canvases['color_mask'])
    assert np.shares_memory(rendered.overlay, canvases['overlay'])
