# SPDX-License-Identifier: Apache-2.0
"""Ground coordinates of each pixel."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from training.scenes.camera import Camera
from training.scenes.layout import Layout
from training.scenes.surfaces import PX_PER_M, TILE_M, TILE_PX
from training.scenes.textures import Field

# Coordinates along the street repeat after this many tiles, so that stains can exceed a tile.
REPEAT = 4

# Rows are painted in bands by distance; each has its own level of detail along and across the
# street.
_BANDS_M = (0.0, 5.5, 7.5, 10.0, 14.0, 20.0, 28.0, 40.0, 60.0, 110.0, np.inf)


@dataclass(frozen=True)
class Band:
    """Rows r0..r1 below the plane's top, with their halvings of detail along and across."""

    r0: int
    r1: int
    halvings: tuple[int, int]


class Plane:
    """Ground coordinates of the pixels from row top downward.

    along, across: (h, W) float32 in tile pixels, modulo REPEAT tiles and one tile. t: (h, W)
    float32, m left of the center line. depth: (h,) m, distance of the middle of each row.
    """

    def __init__(self, camera: Camera, layout: Layout, top: int) -> None:
        width = camera.width
        g = camera.ground_homography()
        # With x relative to the last full tile, float32 stays exact however long the drive is.
        start = np.floor(camera.center[0] / (TILE_M * REPEAT)) * TILE_M * REPEAT
        g[0] -= start * g[2]
        h = g.astype(np.float32)
        col = np.arange(width, dtype=np.float32)[None]
        row = np.arange(top, camera.height, dtype=np.float32)[:, None]
        sign = np.sign(h[2, 1])
        # Pixels at and above the horizon show no ground, so any finite place is valid for them.
        w = sign * np.maximum(sign * (h[2, 0] * col + (h[2, 1] * row + h[2, 2])), 1e-6)
        x = (h[0, 0] * col + (h[0, 1] * row + h[0, 2])) / w
        y = (h[1, 0] * col + (h[1, 1] * row + h[1, 2])) / w
        np.clip(x, -1e4, 1e4, out=x)
        np.clip(y, -1e4, 1e4, out=y)
        self.top = top
        self.t: Field = y - layout.center_of(x, float(start))
        self.along: Field = _wrapped(x * np.float32(PX_PER_M), TILE_PX * REPEAT)
        self.across: Field = _wrapped(self.t * np.float32(PX_PER_M), TILE_PX)
        middle = np.abs(x[:, width // 2].astype(np.float64) + start - camera.center[0])
        self.depth = np.clip(middle, 1.0, 4000.0)
        self.bands = self._split(camera)

    def _split(self, camera: Camera) -> list[Band]:
        k, z = camera.intrinsic, float(camera.center[2])
        bands = []
        for low, high in pairwise(_BANDS_M):
            rows = np.flatnonzero((self.depth >= low) & (self.depth < high))
            if not len(rows):
                continue
            depth = float(np.sqrt(max(low, 3.0) * min(high, 300.0)))
            across = depth / k.fx * PX_PER_M
            along = depth * depth / (k.fy * z) * PX_PER_M
            halvings = [int(max(np.floor(np.log2(v) + 0.25), 0)) for v in (along, across)]
            bands.append(Band(int(rows[0]), int(rows[-1]) + 1, (halvings[0], halvings[1])))
        return bands


def _wrapped(values: Field, period: int) -> Field:
    """Return values modulo a period; several times faster than np.mod."""
    values -= np.floor(values * np.float32(1.0 / period)) * np.float32(period)
    return values


def horizon_row(camera: Camera) -> float:
    """Return the highest row of the horizon at the left and right edges of the picture."""
    g = camera.ground_homography()[2]
    return float(min(-(g[0] * x + g[2]) / g[1] for x in (0.0, camera.width - 1.0)))
