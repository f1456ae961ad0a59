# SPDX-License-Identifier: Apache-2.0
"""Dimensions of cars, vans, trucks and buses."""

from dataclasses import dataclass

import numpy as np

VEHICLE_KINDS = ('car', 'van', 'truck', 'bus')


@dataclass(frozen=True)
class Shape:
    """Dimensions of a vehicle in m: x forward from the middle, z up.

    cabin: x of the bottom and top of the rear window, and of the top and bottom of the windshield.
    cut: size of the beveled corners. roof: width of the roof relative to that of the body.
    """

    label: str
    length: float
    width: float
    height: float
    belt: float
    nose: float
    tail: float
    sill: float
    cabin: tuple[float, float, float, float]
    roof: float
    cut: float
    wheel: float

    @property
    def half(self) -> float:
        """Half the length."""
        return self.length / 2

    @property
    def axles(self) -> tuple[float, float]:
        """Positions in x of the rear and front axles."""
        return -0.31 * self.length, 0.31 * self.length

    def shoulder(self, x: float) -> float:
        """Return the height of the upper edge of the lower body at x."""
        stations = [
            -self.half,
            -self.half + 0.12,
            self.cabin[0] + 0.2,
            self.cabin[3],
            self.half - 0.18,
            self.half,
        ]
        edges = [
            self.tail - 0.05,
            self.tail,
            self.belt,
            self.belt,
            self.nose + 0.02,
            self.nose - 0.04,
        ]
        return float(np.interp(x, np.maximum.accumulate(stations), edges))


def draw_shape(rng: np.random.Generator, kind: str) -> Shape:
    """Generate the dimensions of a random vehicle of one of VEHICLE_KINDS."""
    return _car_shape(rng) if kind == 'car' else _BOXY[kind]


def _car_shape(rng: np.random.Generator) -> Shape:
    style = str(rng.choice(['hatch', 'sedan', 'wagon', 'tall']))
    length = {'hatch': 3.9, 'sedan': 4.6, 'wagon': 4.65, 'tall': 4.35}[style]
    length *= float(rng.uniform(0.96, 1.05))
    height = {'hatch': 1.46, 'sedan': 1.42, 'wagon': 1.47, 'tall': 1.66}[style]
    trunk = {'hatch': 0.1, 'sedan': 0.75, 'wagon': 0.08, 'tall': 0.08}[style]
    rake = {'hatch': 0.42, 'sedan': 0.62, 'wagon': 0.36, 'tall': 0.26}[style]
    half = length / 2
    belt = 0.92 + 0.12 * (style == 'tall')
    return Shape(
        'car',
        length,
        float(rng.uniform(1.7, 1.84)),
        height * float(rng.uniform(0.98, 1.03)),
        belt,
        belt - 0.16,
        belt + 0.02,
        0.24,
        (-half + trunk, -half + trunk + rake, half - 1.8, half - 1.0),
        0.74,
        0.24,
        0.31,
    )


# Cityscapes labels vans as cars.
_BOXY = {
    'van': Shape(
        label='car',
        length=5.0,
        width=1.92,
        height=2.15,
        belt=1.2,
        nose=0.98,
        tail=1.2,
        sill=0.28,
        cabin=(-2.49, -2.42, 1.1, 1.75),
        roof=0.88,
        cut=0.14,
        wheel=0.34,
    ),
    'truck': Shape(
        label='truck',
        length=7.4,
        width=2.3,
        height=2.5,
        belt=1.15,
        nose=1.15,
        tail=0.95,
        sill=0.35,
        cabin=(2.0, 2.05, 3.45, 3.68),
        roof=0.93,
        cut=0.1,
        wheel=0.46,
    ),
    'bus': Shape(
        label='bus',
        length=11.2,
        width=2.5,
        height=3.05,
        belt=1.15,
        nose=1.15,
        tail=1.15,
        sill=0.3,
        cabin=(-5.58, -5.5, 5.35, 5.58),
        roof=0.95,
        cut=0.12,
        wheel=0.48,
    ),
}
