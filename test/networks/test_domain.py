# SPDX-License-Identifier: Apache-2.0
"""Tests of the distance from known images."""

import numpy as np
import pytest

from segmentation_node.errors import CheckpointError
from segmentation_node.networks.domain import Domain, FeatureSet

ONE = FeatureSet('one', (0.0, 1.0), (1.0, 2.0))
OTHER = FeatureSet('other', (10.0, 10.0), (1.0, 1.0))


def test_distance_by_hand() -> None:
    domain = Domain(4.0, (ONE,))
    assert domain.distance(np.array([0, 1], np.float32)) == 0
    assert domain.distance(np.array([3, 5], np.float32)) == (9 + 4) / 2


def test_the_nearest_set_decides() -> None:
    domain = Domain(4.0, (ONE, OTHER))
    assert domain.distance(np.array([10, 12], np.float32)) == 2
    assert domain.distance(np.array([1, 1], np.float32)) == 0.5


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_features_that_overflow_are_far_from_everything(bad: float) -> None:
    distance = Domain(4.0, (ONE, OTHER)).distance(np.array([0, bad], np.float32))
    assert np.isfinite(distance)
    assert distance > 1e30


def test_features_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r'has 3 features, but out_of_domain in .* has 2'):
        Domain(4.0, (ONE,)).distance(np.zeros(3, np.float32))
