# SPDX-License-Identifier: Apache-2.0
"""Poor light: a dark frame, warm light, and night made from day."""

from dataclasses import replace
from functools import lru_cache
from typing import Final

import numpy as np

from training.corruptions.sample import LabeledPixels, Pixels, blurred, scale_of
from training.corruptions.textures import clouds

#: Approximate exponent between the values of an sRGB image and light.
ENCODING: Final = np.float32(2.2)
#: Color temperature to which cameras balance daylight, in kelvin.
DAYLIGHT_K: Final = 6500.0
#: Color temperatures of street lamps, from high-pressure sodium to white LED, in kelvin.
LAMPS_K: Final = (2100.0, 3500.0)
#: Color of the night sky above a town, in light, relative to its brightness.
NIGHT_SKY: Final = np.array([1.1, 0.95, 1.0], np.float32)


def dark(image: Pixels, exposure: float, _: np.random.Generator) -> Pixels:
    """Expose shorter: a share of the light."""
    return image * np.float32(exposure) ** (1 / ENCODING)


def warm_light(image: Pixels, kelvin: float, _: np.random.Generator) -> Pixels:
    """Light the scene by a warm lamp, with a camera balanced for daylight."""
    return temperature_cast(image, kelvin)


def night(
    sample: LabeledPixels, level: tuple[float, float, float], rng: np.random.Generator
) -> LabeledPixels:
    """Make night from day; level: light of the ground, light of the sky, and sensor noise.

    Lamps light the ground unevenly, in their own color; the sky, known from the truth, loses
    more light than the rest. The noise is that of a high gain: photons and readout.
    """
    ground, sky, noise = level
    lamps = clouds(sample.size_hw, 2.5, rng)[..., None]
    color = _gains(float(rng.uniform(*LAMPS_K)))
    is_sky = np.isin(sample.truth, sample.sky).astype(np.float32)
    above = blurred(is_sky, scale_of(sample.image))[..., None]
    gain = (1 - above) * (ground * (0.3 + 1.4 * lamps) * color) + above * (sky * NIGHT_SKY)
    light = sample.image**ENCODING * gain
    deviation = np.sqrt(noise * light + (noise / 2) ** 2)
    light = light + deviation * rng.standard_normal(light.shape, np.float32)
    image = np.clip(light, 0, 1) ** (1 / ENCODING)
    return replace(sample, image=np.asarray(image, np.float32))


def temperature_cast(image: Pixels, kelvin: float) -> Pixels:
    """Return an image of a scene lit at a color temperature instead of daylight."""
    light = image**ENCODING * _gains(kelvin)
    return np.asarray(np.clip(light, 0, 1) ** (1 / ENCODING), np.float32)


@lru_cache(maxsize=256)
def _gains(kelvin: float) -> Pixels:
    """Return the light of a black body relative to daylight, (3,) RGB, at equal luminance."""
    gains = _black_body(kelvin) / _black_body(DAYLIGHT_K)
    return np.asarray(gains / (gains @ [0.2126, 0.7152, 0.0722]), np.float32)


def _black_body(kelvin: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the linear sRGB color of a black body from 1667 K to 25000 K.

    The chromaticity is the cubic approximation of Kim et al., US patent 7024034, 2006.
    """
    powers = (1e3 / kelvin) ** np.arange(3, -1, -1)
    x_terms = (
        (-0.2661239, -0.2343589, 0.8776956, 0.179910)
        if kelvin <= 4000
        else (-3.0258469, 2.1070379, 0.2226347, 0.240390)
    )
    x = float(powers @ x_terms)
    if kelvin <= 2222:
        y_terms = (-1.1063814, -1.34811020, 2.18555832, -0.20219683)
    elif kelvin <= 4000:
        y_terms = (-0.9549476, -1.37418593, 2.09137015, -0.16748867)
    else:
        y_terms = (3.0817580, -5.87338670, 3.75112997, -0.37001483)
    y = float(np.polyval(y_terms, x))
    xyz = np.array([x / y, 1, (1 - x - y) / y])
    rgb_of_xyz = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    return np.asarray(np.maximum(np.array(rgb_of_xyz) @ xyz, 1e-3), np.float64)
