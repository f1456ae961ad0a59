# SPDX-License-Identifier: Apache-2.0
"""Tests of trends."""

from segmentation_node.pipeline.trend import Trend


def test_a_trend_compares_the_halves_of_the_window() -> None:
    series = Trend(4)
    assert series.summary() == {'newest': None, 'mean': None, 'trend': None, 'frames': 0}
    series.add(9.0)
    assert series.summary()['trend'] is None
    for value in (1.0, 2.0, 5.0, 8.0):
        series.add(value)
    assert series.summary() == {'newest': 8.0, 'mean': 4.0, 'trend': 5.0, 'frames': 4}
