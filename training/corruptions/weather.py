# SPDX-License-Identifier: Apache-2.0
"""Snow, frost, fog and bright light."""

from typing import Final

import cv2
import numpy as np

from training.corruptions.blur import trail
from training.corruptions.sample import Pixels, filtered, gray_of, scale_of
from training.corruptions.textures import PANES, clouds, ice

#: Color of white ice, RGB.
ICE: Final = np.array([0.88, 0.94, 1.0], np.float32)


def snow(
    image: Pixels, level: tuple[float, float, float, float, float, float, float],
    rng: np.random.Generator,
) -> Pixels:  # fmt: skip
    """Add falling flakes and whiten the scene.

    The level has mean, standard deviation, size and threshold of the flakes, radius and sigma of
    their trails, and the share of the original colors.
    """
    mean, deviation, size, threshold, radius, sigma, colors = level
    scale = scale_of(image)
    height, width = image.shape[:2]
    cells = round(height / (size * scale)) + 1, round(width / (size * scale)) + 1
    seeds = rng.normal(mean, deviation, cells).astype(np.float32)
    layer = np.asarray(cv2.resize(seeds, (width, height)), np.float32)
    layer[layer < threshold] = 0
    fall = trail(radius * scale, sigma * scale, float(rng.uniform(45, 135)))
    layer = filtered(np.clip(layer, 0, 1), fall)
    whitened = np.maximum(image, (1.5 * gray_of(image) + 0.5)[..., None])
    mixed = colors * image + (1 - colors) * whitened
    return np.asarray(mixed + (layer + layer[::-1, ::-1])[..., None], np.float32)


def frost(image: Pixels, level: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Look through a frozen pane; level: weights of the image and of the ice."""
    height, width = image.shape[:2]
    pane = ice((height, width), int(rng.integers(PANES)))
    rows, columns = (int(step) for step in rng.choice([-1, 1], 2))
    white = pane[::rows, ::columns, None] * ICE
    return np.asarray(level[0] * image + level[1] * white, np.float32)


def fog(image: Pixels, level: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Add fog in clouds; level: amount of fog, and decay of its detail."""
    amount, decay = level
    cloud = clouds((image.shape[0], image.shape[1]), decay, rng)
    brightest = image.max()
    foggy = image + np.float32(amount) * cloud[..., None]
    return np.asarray(foggy * brightest / (brightest + amount), np.float32)


def brightness(image: Pixels, added: float, _: np.random.Generator) -> Pixels:
    """Raise the value of each color in HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32)
