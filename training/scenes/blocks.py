# SPDX-License-Identifier: Apache-2.0
"""Static objects along the street, block by block."""

from dataclasses import dataclass

import numpy as np

from training.scenes import furniture
from training.scenes.camera import FloatArray
from training.scenes.furniture import Spot
from training.scenes.geometry import Footprint, Thing
from training.scenes.layout import BLOCK_M, CURB_M, SIDES, Layout
from training.scenes.light import Light, cast_shadows
from training.scenes.lots import LotBuilder
from training.scenes.vehicles import Garage, Vehicle

CROSSING_M = 9.0
#: Number of cached blocks: more than one picture shows, because building a block is slow.
BLOCKS_KEPT = 12


@dataclass(frozen=True, eq=False)
class Block:
    """Section of street from x0 to x0 + BLOCK_M; crossing: a side street joins at x0."""

    x0: float
    crossing: bool
    zebra: bool
    things: tuple[Thing, ...]
    shadows: tuple[FloatArray, ...]
    parked: tuple[Vehicle, ...]
    patches: tuple[Footprint, ...]
    covers: tuple[tuple[float, float], ...]
    arrow: float | None

    @property
    def begin(self) -> float:
        """Start of houses and sidewalks in x, after the side street."""
        return self.x0 + CROSSING_M * self.crossing


class BlockBuilder:
    """Builder of the blocks of one street; the same seed and index give the same block."""

    def __init__(self, seed: int, layout: Layout, light: Light, garage: Garage) -> None:
        self.seed, self.layout, self.light, self.garage = seed, layout, light, garage
        self.lots = LotBuilder(seed, layout, light)

    def build(self, index: int) -> Block:
        """Build the block with a given index, which starts at x = index * BLOCK_M."""
        rng = np.random.default_rng([self.seed, 2, index + 1000])
        x0 = index * BLOCK_M
        crossing = bool(rng.random() < 0.35) and index > 0
        zebra = crossing and bool(rng.random() < 0.5)
        begin = x0 + CROSSING_M * crossing
        things: list[Thing] = []
        parked: list[Vehicle] = []
        for side in SIDES:
            things += self.lots.line(rng, begin, x0 + BLOCK_M, side)
            things += self._furnish(rng, begin, x0 + BLOCK_M, side, crossing)
            parked += self._park(rng, begin, x0 + BLOCK_M, side, index)
        arrow = float(x0 + rng.uniform(10, 30)) if rng.random() < 0.25 else None
        return Block(
            x0,
            crossing,
            zebra,
            tuple(things),
            tuple(cast_shadows(things, self.layout, self.light)),
            tuple(parked),
            self._patches(rng, x0),
            self._covers(rng, x0),
            arrow,
        )

    def _covers(self, rng: np.random.Generator, x0: float) -> tuple[tuple[float, float], ...]:
        """Return the places (x, t) of manhole covers."""
        count = int(rng.integers(1, 5))
        places = rng.uniform((x0, -2.6), (x0 + BLOCK_M, 2.6), (count, 2))
        return tuple((float(x), float(t)) for x, t in places)

    def _patches(self, rng: np.random.Generator, x0: float) -> tuple[Footprint, ...]:
        """Return the footprints of road repairs."""
        places = rng.uniform((x0, -3.0), (x0 + BLOCK_M, 2.2), (int(rng.integers(0, 5)), 2))
        return tuple(
            Footprint(x, x + float(rng.uniform(0.6, 9.0)), t, t + float(rng.uniform(0.5, 1.4)))
            for x, t in places
        )

    def _spot(self, x: float, t: float) -> Spot:
        return Spot(self.layout.world(x, t, CURB_M), x, t, self.light)

    def _furnish(
        self, rng: np.random.Generator, begin: float, end: float, side: int, crossing: bool
    ) -> list[Thing]:
        curb = self.layout.curb(side)
        things = [
            furniture.lamp(self._spot(x, side * (curb + 0.45)), rng, -side)
            for x in np.arange(begin + rng.uniform(2, 16), end - 2, rng.uniform(22, 34))
        ]
        toward_us = side == self.layout.drive_side or rng.random() < 0.4
        for _ in range(int(rng.integers(0, 4))):
            if toward_us:
                x = float(rng.uniform(begin + 1, end))
                things.append(furniture.sign(self._spot(x, side * (curb + 0.5)), rng))
        if crossing and rng.random() < 0.7:
            things.append(
                furniture.traffic_light(
                    self._spot(begin - CROSSING_M - 0.8, side * (curb + 0.5)), rng
                )
            )
        if rng.random() < 0.3:
            first = float(rng.uniform(begin, end - 8))
            row = np.arange(first, first + rng.uniform(4, 8), 1.6)
            spots = [self._spot(float(x), side * (curb + 0.35)) for x in row]
            things += [furniture.bollard(spot, rng) for spot in spots]
        if rng.random() < 0.45:
            x = float(rng.uniform(begin + 1, end - 1))
            things.append(furniture.litter_bin(self._spot(x, side * (curb + 0.7)), rng))
        if rng.random() < self.layout.greenery:
            wide = self.layout.verge[side < 0] + self.layout.sidewalk[side < 0]
            for x in np.arange(begin + rng.uniform(2, 10), end - 1, rng.uniform(7, 15)):
                size = float(rng.uniform(4.5, 8.5))
                things.append(
                    self.lots.tree(rng, float(x), side * (curb + min(0.9, wide / 3)), size)
                )
        return things

    def _park(
        self, rng: np.random.Generator, begin: float, end: float, side: int, index: int
    ) -> list[Vehicle]:
        if self.layout.parking[side < 0] == 0.0:
            return []
        full = float(rng.uniform(0.3, 0.95))
        parked: list[Vehicle] = []
        x = begin + 1.5
        while x < end - 4:
            body = self.garage.take(rng, (0.9, 0.08, 0.02, 0.0))
            if x + body.length > end - 1:
                break
            if rng.random() < full:
                t = side * (
                    self.layout.half_road
                    + self.layout.parking[side < 0] / 2
                    + float(rng.uniform(-0.06, 0.12))
                )
                along = side == self.layout.drive_side or rng.random() < 0.25
                # Blocks far apart may share numbers, because no picture shows both.
                number = (index * 20 + len(parked) * 2 + (side > 0)) % 500
                parked.append(Vehicle(body, x + body.length / 2, t, 1 if along else -1, number))
            x += body.length + float(rng.uniform(0.7, 1.4))
        return parked
