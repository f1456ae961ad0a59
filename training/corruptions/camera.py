# SPDX-License-Identifier: Apache-2.0
"""Other cameras: resolution, focal length, pitch, aspect ratio, tone curve and white balance.

The truth follows the geometry, and no pixel is invented: frames are cropped instead of padded.
"""

import numpy as np

from training.corruptions.light import temperature_cast
from training.corruptions.sample import LabeledPixels, Pixels


def scale(sample: LabeledPixels, factor: float, _: np.random.Generator) -> LabeledPixels:
    """Take the same view with another number of pixels."""
    height, width = sample.size_hw
    return sample.resized(max(1, round(height * factor)), max(1, round(width * factor)))


def crop(sample: LabeledPixels, share: float, rng: np.random.Generator) -> LabeledPixels:
    """Enlarge a random part to the size of the frame, as a longer focal length does."""
    height, width = sample.size_hw
    rows, columns = (_within(side, share, rng) for side in (height, width))
    return sample.window(rows, columns).resized(height, width)


def horizon(sample: LabeledPixels, share: float, rng: np.random.Generator) -> LabeledPixels:
    """Cut a share of the rows at the top or at the bottom, as another pitch does."""
    height, width = sample.size_hw
    cut = min(height - 1, round(height * share))
    rows = slice(cut, height) if rng.integers(2) else slice(0, height - cut)
    return sample.window(rows, slice(0, width))


def aspect_ratio(sample: LabeledPixels, factor: float, rng: np.random.Generator) -> LabeledPixels:
    """Stretch the width or the height by a factor, and crop to the size of the frame."""
    height, width = sample.size_hw
    rows, columns = slice(0, height), slice(0, width)
    if rng.integers(2):
        columns = _within(width, 1 / factor, rng)
    else:
        rows = _within(height, 1 / factor, rng)
    return sample.window(rows, columns).resized(height, width)


def _within(side: int, share: float, rng: np.random.Generator) -> slice:
    """Return a random span with a share of a side."""
    length = max(1, round(side * share))
    start = int(rng.integers(side - length + 1))
    return slice(start, start + length)


def gamma(image: Pixels, exponent: float, rng: np.random.Generator) -> Pixels:
    """Apply a tone curve that darkens or brightens the middle tones."""
    return np.asarray(image ** np.float32(exponent if rng.integers(2) else 1 / exponent))


def color_temperature(
    image: Pixels, level: tuple[float, float], rng: np.random.Generator
) -> Pixels:
    """Tint the image warm or cold; level: the two color temperatures in kelvin."""
    return temperature_cast(image, level[int(rng.integers(2))])
