# SPDX-License-Identifier: Apache-2.0
"""Noise of each pixel and color; its grain is one pixel in images of any size."""

import numpy as np

from training.corruptions.sample import Pixels


def gaussian_noise(image: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Add Gaussian noise of a standard deviation."""
    return image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32)


def shot_noise(image: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Count photons, `photons` on average where the image is white."""
    return np.asarray(rng.poisson(image * photons) / photons, np.float32)


def impulse_noise(image: Pixels, share: float, rng: np.random.Generator) -> Pixels:
    """Replace a share of the values by black or white, half each."""
    drawn = rng.random(image.shape, np.float32)
    noisy = image.copy()
    noisy[drawn < share / 2] = 0
    noisy[drawn > 1 - share / 2] = 1
    return noisy
