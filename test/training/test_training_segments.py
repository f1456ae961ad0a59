# SPDX-License-Identifier: Apache-2.0
"""Tests of segments: packing, groups, and overlaps."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.labels import IGNORE, load_scheme
from training.segments import (
    classes_of,
    countable_channels,
    instances_of,
    of_another_image,
    overlaps,
    pack,
    without_groups,
)

CATEGORIES = load_scheme('cityscapes8')
COUNTABLE = countable_channels(CATEGORIES)
FLAT, HUMAN, VEHICLE = (CATEGORIES.id_of(name) for name in ('flat', 'human', 'vehicle'))


def test_only_countable_channels_have_instances() -> None:
    assert np.flatnonzero(COUNTABLE).tolist() == [HUMAN, VEHICLE]
    channels = np.array([[FLAT, VEHICLE, VEHICLE, IGNORE]], np.uint8)
    segments = pack(channels, np.array([[9, 0, 65535, 9]], np.uint16), COUNTABLE)
    assert segments.tolist() == [[FLAT, VEHICLE, 2**24 - 256 + VEHICLE, IGNORE]]
    assert (classes_of(segments) == channels).all()
    assert instances_of(segments).tolist() == [[0, 0, 65535, 0]]


def test_groups_are_ignored() -> None:
    segments = torch.tensor([[FLAT, VEHICLE, 256 + VEHICLE, IGNORE]])
    countable = torch.from_numpy(np.flatnonzero(COUNTABLE))
    expected = [[FLAT, IGNORE, 256 + VEHICLE, IGNORE]]
    assert without_groups(segments, countable).tolist() == expected


def test_another_image_has_other_instances_and_the_same_stuff() -> None:
    segments = torch.tensor([FLAT, VEHICLE, 256 + VEHICLE, 2**24 - 256 + VEHICLE, IGNORE])
    found = of_another_image(segments)
    assert (classes_of(found) == classes_of(segments)).all()
    assert (found == segments).tolist() == [True, True, False, False, True]
    assert found.min() >= 0
    assert found[instances_of(found) > 0].min() >= 2**24


def test_overlaps_of_a_literal_picture() -> None:
    true = np.array([[-2, -1, 5, 5, 2**24 - 1]], np.int32)
    found = overlaps(true, np.array([[7, -1, -1, 7, 7]], np.int32))
    assert found.true.tolist() == [-2, -1, 5, 2**24 - 1]
    assert sorted(found.predicted.tolist()) == [-1, 7]
    columns = found.pixels[:, np.argsort(found.predicted)]
    assert columns.tolist() == [[0, 1], [1, 0], [1, 1], [0, 1]]


@given(st.integers(0, 2**32 - 1))
def test_overlaps_hold_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true, predicted = rng.integers(-2, 4, (2, 6, 7)).astype(np.int32)
    found = overlaps(true, predicted)
    for row, t in enumerate(found.true):
        for column, p in enumerate(found.predicted):
            assert found.pixels[row, column] == ((true == t) & (predicted == p)).sum()
    assert found.pixels.sum() == true.size
