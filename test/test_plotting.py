# SPDX-License-Identifier: Apache-2.0
"""The charts: what is drawn where, and that nothing else changes."""

from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_node.images.files import decode_file
from segmentation_node.plotting import (
    COLORS,
    Series,
    draw_curve,
    new_figure,
    set_ticks,
    to_png,
    to_svg,
)

RISING = [(2.0, 5.0), (0.0, 0.0), (1.0, 2.0)]


def picture(name: str = 'a', scale: float = 0) -> bytes:
    with new_figure(200, 100) as figure:
        axes = figure.subplots()
        line = draw_curve(axes, RISING, Series(0))
        if scale:
            return to_png(figure, scale)
        axes.legend([line], [name])
        return to_svg(figure).encode()


def test_line_rises_where_values_do() -> None:
    pixels = decode_file(picture(scale=2))
    assert pixels.shape == (200, 400, 3)
    blue = tuple(bytes.fromhex(COLORS['blue'][1:]))
    rows, columns = np.nonzero((pixels[:, 60:] == blue).all(axis=2))
    assert rows[columns.argmin()] > rows[columns.argmax()] + 50


def test_same_chart_is_the_same_file() -> None:
    assert picture() == picture()
    assert picture(scale=1) == picture(scale=1)
    assert b'date' not in picture().lower()


def test_charts_may_be_drawn_in_several_threads() -> None:
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: picture(), range(8))) == {picture()}


def test_settings_of_matplotlib_are_left_alone() -> None:
    before = dict(mpl.rcParams)
    picture()
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize('name', ['$a$', r'$\frac', '<b>&amp;', '_underscore'])
def test_name_is_text_and_no_formula(name: str) -> None:
    texts = [text.text for text in ET.fromstring(picture(name)).iter()]  # noqa: S314
    assert name in texts


def test_series_differ_and_say_how() -> None:
    looks = {(s.color, str(s.dash), s.marker) for s in map(Series, range(210))}
    assert len(looks) == len({Series(index).description for index in range(210)}) == 210
    assert Series(1).description == 'vermilion, dashed, with squares'


@settings(max_examples=30)
@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.booleans())
def test_ticks_are_few_and_within_the_axis(low: float, more: float, whole: bool) -> None:
    with new_figure(200, 100) as figure:
        axes = figure.subplots()
        axes.set_xlim(low - 1, low + more + 1)
        set_ticks(axes.xaxis, whole=whole)
        ticks = axes.get_xticks()
        assert 1 <= len(ticks) <= 9
        labels = [text.get_text() for text in axes.get_xticklabels()]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    if whole:
        assert not any(tick % 1 for tick in ticks)
