# SPDX-License-Identifier: Apache-2.0
"""Distance of an image from the images that a network was trained on."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from segmentation_node.arrays import Float32Array, Float64Array
from segmentation_node.errors import CheckpointError

#: Maximum number of features and of sets in a checkpoint.
MAX_FEATURES: Final = 4096
MAX_SETS: Final = 16
#: Maximum of all its numbers, so that nothing overflows.
MAX_FEATURE: Final = 1e9


@dataclass(frozen=True)
class FeatureSet:
    """Mean and standard deviation of each feature over the images of one data set."""

    name: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Domain:
    """Images that a network knows, and the distance above which an image is out of domain.

    Each data set is a Gaussian with a diagonal covariance in the network's features, which are the
    encoder's second-deepest maps averaged over the image. This is a simple form of Lee et al., "A
    Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks",
    NeurIPS 2018. With the full covariance of the deepest features, night frames were told apart
    less clearly.
    """

    threshold: float
    sets: tuple[FeatureSet, ...]

    @property
    def size(self) -> int:
        """Number of features."""
        return len(self.sets[0].mean)

    def distance(self, features: Float32Array) -> float:
        """Return the distance of an image from the nearest set.

        It is the mean squared deviation of the features, (D,) float32, in units of the set's
        variance, so that an image of the set has a distance of about 1.

        Raises:
            CheckpointError: the network has another number of features.
        """
        if features.shape != (self.size,):
            raise CheckpointError(
                f'the network has {features.size} features, but out_of_domain in '
                f'segmentation.yaml has {self.size}; fit it again with training.calibrate, or '
                f'remove it'
            )
        means, scales = self._arrays
        distance = float(((features - means) ** 2 / scales**2).mean(axis=1).min())
        # Features may overflow in half precision; such an image is nothing that was learned.
        return distance if np.isfinite(distance) else float(np.finfo(np.float32).max)

    @cached_property
    def _arrays(self) -> tuple[Float64Array, Float64Array]:
        return np.array([s.mean for s in self.sets]), np.array([s.scale for s in self.sets])
