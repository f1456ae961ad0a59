# SPDX-License-Identifier: Apache-2.0
"""Fit of the images that a network knows, and frames that it should not know."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.networks.domain import Domain, FeatureSet

#: Quantile of the distances of validation frames from which the threshold is computed, and a
#: margin for other drives. Noise and night are at 4 to 20 times the quantile.
QUANTILE: Final = 0.99
MARGIN: Final = 1.5
#: Share of the mean standard deviation that is added to that of each feature: a feature that
#: hardly varies over the frames of a fit must not decide alone.
_FLOOR: Final = 0.05

#: Features of several images, (D,) float32 each.
Features = Sequence[Float32Array]


def fit_domain(known: Mapping[str, Features], validation: Features) -> Domain:
    """Fit a Gaussian to each set of known images, and the threshold to validation images.

    Args:
        known: features of at least two images of each set, by its name.
        validation: features of images that should not be out of domain.
    """
    sets = tuple(_feature_set(name, np.stack(features)) for name, features in known.items())
    domain = Domain(1.0, sets)
    quantile = np.quantile([domain.distance(each) for each in validation], QUANTILE)
    return Domain(_rounded(MARGIN * quantile), sets)


def false_alarms(known: Mapping[str, Features], halves: Sequence[Features]) -> float:
    """Return the share of validation images above the threshold of the other half of them."""
    first, second = halves
    alarms = [
        *_alarms(fit_domain(known, first), second),
        *_alarms(fit_domain(known, second), first),
    ]
    return float(np.mean(alarms))


def detected(domain: Domain, features: Features) -> float:
    """Return the share of images that are out of domain."""
    return float(np.mean(_alarms(domain, features)))


def strange_frames(image_rgb: UInt8Array, seed: int) -> dict[str, UInt8Array]:
    """Return frames of the size of an image that a model should not know, by kind."""
    rng = np.random.default_rng(seed)
    gaussian = rng.normal(128, rng.uniform(20, 70), image_rgb.shape)
    return {
        'black': np.zeros_like(image_rgb),
        'white': np.full_like(image_rgb, 255),
        'uniform noise': rng.integers(0, 256, image_rgb.shape, np.uint8),
        'Gaussian noise': np.clip(gaussian, 0, 255).astype(np.uint8),
        'night': night(image_rgb, rng),
    }


def night(image_rgb: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Return a frame at night, (H, W, 3): little light, headlights on the road, and noise."""
    height, width = image_rgb.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    ahead = ((columns - width / 2) / (0.35 * width)) ** 2 + ((rows / height - 0.8) / 0.25) ** 2
    light = rng.uniform(0.03, 0.06) + 0.25 * np.exp(-ahead)[..., None]
    linear = (image_rgb / 255) ** 2.2 * light * (0.8, 0.9, 1.2)
    noisy = linear ** (1 / 2.2) + rng.normal(0, 0.03, image_rgb.shape)
    return np.asarray(np.clip(noisy, 0, 1) * 255, np.uint8)


def _feature_set(name: str, features: Float32Array) -> FeatureSet:
    deviations = features.astype(np.float64).std(axis=0)
    scales = np.maximum(deviations + _FLOOR * deviations.mean(), 1e-6)
    means = features.mean(axis=0, dtype=np.float64)
    return FeatureSet(name, tuple(map(_rounded, means)), tuple(map(_rounded, scales)))


def _rounded(number: float) -> float:
    """Round to 5 significant digits, which a reader of the file can compare."""
    return float(f'{number:.5g}')


def _alarms(domain: Domain, features: Features) -> list[bool]:
    return [domain.distance(each) > domain.threshold for each in features]
