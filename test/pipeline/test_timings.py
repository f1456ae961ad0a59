# SPDX-License-Identifier: Apache-2.0
"""Percentiles and rates of the newest values."""

import math

import pytest

from segmentation_node.pipeline.timings import Window


def test_percentiles_of_a_window() -> None:
    window = Window(4)
    for value in (100.0, 1.0, 2.0, 3.0, 4.0):
        window.add(value)
    assert window.percentiles(0, 50, 100) == [1.0, 2.5, 4.0]


def test_an_empty_window_has_no_percentiles() -> None:
    assert all(math.isnan(p) for p in Window().percentiles(50, 99))
    assert Window().rate_hz(now=3.0) == 0.0


def test_rate_counts_the_last_seconds() -> None:
    window = Window()
    for tick in range(100):
        window.add(tick / 10)
    assert window.rate_hz(now=9.95, span_s=5.0) == pytest.approx(10, abs=0.2)
    assert window.rate_hz(now=12.0, span_s=5.0) == pytest.approx(6, abs=0.2)
    assert window.rate_hz(now=100.0) == 0.0


def test_a_rate_above_what_the_window_holds_is_right() -> None:
    window = Window(100)
    for tick in range(5000):
        window.add(tick / 1000)
    assert window.rate_hz(now=5.0, span_s=5.0) == pytest.approx(1000, rel=0.02)
