# SPDX-License-Identifier: Apache-2.0
"""Tests of the fit of known images and of the frames that check it."""

import numpy as np
import pytest
from training_data import street

from segmentation_node.arrays import Float32Array
from training.domain import (
    MARGIN,
    detected,
    false_alarms,
    fit_domain,
    night,
    strange_frames,
)


def gaussian(seed: int, count: int, center: float = 0.0) -> list[Float32Array]:
    return list(np.random.default_rng(seed).normal(center, 1, (count, 24)).astype(np.float32))


def test_images_of_a_set_have_a_distance_of_about_1() -> None:
    domain = fit_domain({'a': gaussian(0, 500)}, gaussian(1, 200))
    assert np.mean([domain.distance(each) for each in gaussian(2, 200)]) == pytest.approx(1, 0.15)
    assert detected(domain, gaussian(3, 200)) == 0
    assert detected(domain, gaussian(4, 200, center=3)) == 1


def test_threshold_is_the_quantile_with_its_margin() -> None:
    known, validation = {'a': gaussian(0, 500)}, gaussian(1, 300)
    domain = fit_domain(known, validation)
    distances = [domain.distance(each) for each in validation]
    assert domain.threshold == pytest.approx(MARGIN * np.quantile(distances, 0.99), rel=1e-4)


def test_each_set_is_known() -> None:
    domain = fit_domain({'a': gaussian(0, 200), 'b': gaussian(1, 200, 50)}, gaussian(2, 100))
    assert [each.name for each in domain.sets] == ['a', 'b']
    assert detected(domain, gaussian(3, 100, 50)) == 0
    assert detected(domain, gaussian(4, 100, 25)) == 1


def test_false_alarms_are_those_of_the_other_half() -> None:
    known = {'a': gaussian(0, 500)}
    assert false_alarms(known, [gaussian(1, 50), gaussian(2, 50)]) == 0
    # The threshold of the near half rejects all of the far one, and that of the far half nothing.
    assert false_alarms(known, [gaussian(1, 50), gaussian(2, 50, 9)]) == 0.5


def test_a_feature_that_never_varies_does_not_decide_alone() -> None:
    features = [np.append(each, 1).astype(np.float32) for each in gaussian(0, 200)]
    domain = fit_domain({'a': features}, features)
    near = features[0] + np.append(np.zeros(24), 0.01).astype(np.float32)
    assert domain.distance(near) < domain.threshold


def test_strange_frames_have_the_size_of_the_image_and_night_is_dark() -> None:
    image, _ = street(0)
    frames = strange_frames(image, 3)
    assert set(frames) == {'black', 'white', 'uniform noise', 'Gaussian noise', 'night'}
    for frame in frames.values():
        assert frame.shape == image.shape
        assert frame.dtype == np.uint8
    assert frames['black'].max() == 0
    assert frames['white'].min() == 255
    dark = night(image, np.random.default_rng(0))
    assert dark.mean() < 0.5 * image.mean()
    gray = night(np.full_like(image, 128), np.random.default_rng(0))
    assert gray[:10].mean() < gray[45:60].mean()  # headlights
