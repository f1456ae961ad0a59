# SPDX-License-Identifier: Apache-2.0
"""Daylight of a street: sun, sky light, haze, exposure, and shadows on the ground."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from training.scenes.camera import FloatArray
from training.scenes.geometry import Rgb, Thing
from training.scenes.layout import Layout

_CROWN_POINTS = 22


@dataclass(frozen=True)
class Light:
    """Light of sun and sky; gains are factors of surface colors, colors are RGB in 0..255.

    to_sun: unit vector (3,). haze_m: distance at which haze replaces 63% of a surface's color.
    """

    to_sun: FloatArray
    sun: Rgb
    ambient: Rgb
    haze_rgb: Rgb
    haze_m: float
    zenith_rgb: Rgb
    horizon_rgb: Rgb
    cloud_cover: float
    cloud_rgb: Rgb

    @property
    def sunny(self) -> bool:
        """True if the sun casts visible shadows."""
        return max(self.sun) > 0.15

    @property
    def shade(self) -> Rgb:
        """Share of the light that remains on level ground in shadow."""
        lit = self.gain(np.array([0.0, 0.0, 1.0]))
        r, g, b = (a / total for a, total in zip(self.ambient, lit, strict=True))
        return (r, g, b)

    def gain(self, normal: FloatArray) -> Rgb:
        """Return the light on a surface with unit normal (3,), one factor per color channel."""
        facing = max(float(normal @ self.to_sun), 0.0)
        # Upright surfaces receive light from a smaller part of the sky.
        open_sky = 0.86 + 0.14 * float(normal[2])
        r, g, b = (a * open_sky + s * facing for a, s in zip(self.ambient, self.sun, strict=True))
        return (r, g, b)

    def haze(self, distance_m: float) -> float:
        """Return the share of haze in the color of a surface at the given distance."""
        return float(1.0 - np.exp(-max(distance_m, 0.0) / self.haze_m))


def draw_light(rng: np.random.Generator) -> Light:
    """Generate a random time of day and weather."""
    weather = rng.choice(['sunny', 'bright', 'overcast', 'gloomy'], p=[0.38, 0.24, 0.26, 0.12])
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(22.0, 58.0))
    to_sun = np.array(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ]
    )
    warmth = rng.uniform(-0.03, 0.05)
    exposure = rng.uniform(0.9, 1.12)
    strength, sky_light, cover = {
        'sunny': (rng.uniform(0.8, 1.05), 0.64, rng.uniform(0.05, 0.4)),
        'bright': (rng.uniform(0.35, 0.55), 0.82, rng.uniform(0.4, 0.75)),
        'overcast': (0.0, 1.06, 1.0),
        'gloomy': (0.0, 0.66, 1.0),
    }[weather]
    warm = np.array([1.0 + warmth, 1.0, 1.0 - 1.3 * warmth]) * exposure
    blue = np.array([0.95, 1.0, 1.08]) if strength > 0.6 else np.array([1.0, 1.0, 1.02])
    low_sun = np.array([1.08, 1.0, 0.88 - 0.1 * (elevation < 0.55)])
    white = 255.0 if strength > 0 else {'overcast': 244.0, 'gloomy': 178.0}[weather]
    horizon = np.clip(np.array([white - 8, white - 3, white]) * (0.93 + 0.07 * exposure), 0, 255)
    zenith = np.array([112.0, 158.0, 218.0]) * rng.uniform(0.9, 1.2)
    haze = horizon * 0.62 + np.array([60.0, 66.0, 72.0]) * (0.5 + 0.5 * sky_light)
    return Light(
        to_sun=to_sun,
        sun=_rgb(warm * low_sun * strength),
        ambient=_rgb(warm * blue * sky_light),
        haze_rgb=_rgb(np.clip(haze, 0, 245)),
        haze_m=float(rng.choice([260.0, 450.0, 900.0], p=[0.25, 0.4, 0.35])),
        zenith_rgb=_rgb(np.clip(zenith, 0, 255)),
        horizon_rgb=_rgb(horizon),
        cloud_cover=float(cover),
        cloud_rgb=_rgb(np.clip(horizon * 1.02, 0, 255)),
    )


def _rgb(values: FloatArray) -> Rgb:
    r, g, b = (float(v) for v in values)
    return (r, g, b)


def cast_shadows(things: Iterable[Thing], layout: Layout, light: Light) -> Iterator[FloatArray]:
    """Yield the outlines (N, 3) of shadows on the ground."""
    if not light.sunny:
        return
    throw = -light.to_sun[:2] / light.to_sun[2]
    for thing in things:
        if thing.height <= 0.0:
            continue
        if thing.crown > 0.0:
            yield _crown(thing, layout, throw)
            yield _box(thing, layout, throw, thing.height * 0.6, 0.35)
        else:
            yield _box(thing, layout, throw, thing.height, thing.shadow)


def _box(
    thing: Thing, layout: Layout, throw: FloatArray, height: float, width: float
) -> FloatArray:
    """Return the shadow of a footprint extruded to a height, or of a post of a given width."""
    f = thing.footprint
    x0, x1, t0, t1 = f.x0, f.x1, f.t0, f.t1
    if width > 0.0:
        x, t = (x0 + x1) / 2, (t0 + t1) / 2
        x0, x1, t0, t1 = x - width / 2, x + width / 2, t - width / 2, t + width / 2
    base = layout.rectangle(x0, x1, t0, t1)[:, :2]
    points = np.vstack([base, base + throw * height]).astype(np.float32)
    hull = cv2.convexHull(points).reshape(-1, 2).astype(np.float64)
    return np.column_stack([hull, np.zeros(len(hull))])


def _crown(thing: Thing, layout: Layout, throw: FloatArray) -> FloatArray:
    """Return the shadow of a tree's crown, with an irregular outline."""
    f = thing.footprint
    x, t = (f.x0 + f.x1) / 2, (f.t0 + f.t1) / 2
    middle = layout.world(x, t)[:2] + throw * thing.height * 0.62
    turn = np.linspace(0, 2 * np.pi, _CROWN_POINTS, False)
    # The outline depends only on the place, so it is the same in every frame.
    rough = 1.0 + 0.16 * np.sin(5 * turn + 7.3 * x) + 0.1 * np.sin(9 * turn + 3.1 * t)
    stretch = np.linalg.norm(throw) * 0.5
    radial = thing.crown * rough[:, None] * np.column_stack([np.cos(turn), np.sin(turn)])
    along = throw / max(float(np.linalg.norm(throw)), 1e-6)
    radial += stretch * (radial @ along)[:, None] * along
    outline = middle + radial
    return np.column_stack([outline, np.zeros(len(outline))])


def contact_shadows(things: Iterable[Thing], layout: Layout) -> Iterator[FloatArray]:
    """Yield the ground areas (4, 3) directly below vehicles and people, which are dark."""
    for thing in things:
        f = thing.footprint
        yield layout.rectangle(f.x0, f.x1, f.t0, f.t1, thing.base)
