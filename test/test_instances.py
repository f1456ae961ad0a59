# SPDX-License-Identifier: Apache-2.0
"""Tests of instances: boxes, outlines, publication in another scheme."""

import numpy as np
import pytest

from segmentation_node.errors import SettingError
from segmentation_node.instances import Box, Instances, Segment, Thresholds

IDS = np.array([[0, 1, 1, 0], [3, 3, 1, 0], [3, 3, 0, 0]], np.uint16)
FOUND = Instances(IDS, np.array([7, 6, 6], np.uint8), np.array([0.5, 0.9, 0.75], np.float32))


def test_segments_are_the_instances_with_pixels_by_score() -> None:
    assert FOUND.segments == (
        Segment(3, 6, 0.75, Box(0, 1, 2, 2)),
        Segment(1, 7, 0.5, Box(1, 0, 2, 2)),
    )


def test_no_instances() -> None:
    nothing = Instances(
        np.zeros((2, 3), np.uint16), np.empty(0, np.uint8), np.empty(0, np.float32)
    )
    assert nothing.segments == ()
    assert not nothing.outlines.any()


def test_outlines_are_the_pixels_beside_another_instance() -> None:
    ids = np.zeros((6, 7), np.uint16)
    ids[1:5, 1:5] = 1
    ids[1:5, 5] = 2
    expected = np.zeros((6, 7), np.bool_)
    expected[1:5, 1:6] = True
    expected[2:4, 2:4] = False
    found = Instances(ids, np.array([7, 7], np.uint8), np.ones(2, np.float32))
    np.testing.assert_array_equal(found.outlines, expected)


def test_publication_in_another_scheme_without_some_pixels() -> None:
    lut = np.arange(256, dtype=np.uint8)
    lut[6], lut[7] = 60, 70
    published = FOUND.published(lut, np.array([[1, 1, 0, 0]] * 3, np.bool_))
    assert published.ids.tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert published.segments == (Segment(1, 70, 0.5, Box(2, 0, 1, 2)),)
    assert FOUND.published(None, None) is FOUND
    assert FOUND.ids[0, 1] == 1


@pytest.mark.parametrize('values', [(-0.1, 0.5), (1.1, 0.5), (0.5, float('nan')), (0.5, 2)])
def test_thresholds_are_shares(values: tuple[float, float]) -> None:
    with pytest.raises(SettingError, match='expected a number from 0 to 1'):
        Thresholds(*values)
