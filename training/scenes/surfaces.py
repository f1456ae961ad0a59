# SPDX-License-Identifier: Apache-2.0
"""Ground materials: tileable asphalt, paving and grass, stacked in one atlas."""

import cv2
import numpy as np

from training.scenes.layout import Layout
from training.scenes.textures import Field, Image, grain, mottle, noise, tint

TILE_PX = 1024
PX_PER_M = 80.0
TILE_M = TILE_PX / PX_PER_M

MATERIALS = ('terrain', 'sidewalk', 'parking', 'road', 'curb')


class GroundAtlas:
    """Ground tiles stacked vertically, (TILE_PX, TILE_PX, 4) each, with coarser levels."""

    def __init__(self, tiles: dict[str, Field]) -> None:
        self._tiles = [np.clip(tiles[name], 0, 255).astype(np.uint8) for name in MATERIALS]
        self._levels: dict[tuple[int, int], Image] = {}

    def level(self, halvings: tuple[int, int]) -> Image:
        """Return the atlas scaled down along and across the street by powers of two.

        Each tile has one wrapped row above and below it, so sampling never reads the next tile.
        """
        key = (min(halvings[0], 10), min(halvings[1], 10))
        if key not in self._levels:
            size = (TILE_PX >> key[0], TILE_PX >> key[1])
            small = [cv2.resize(t, size, interpolation=cv2.INTER_AREA) for t in self._tiles]
            padded = np.vstack([np.vstack([t[-1:], t, t[:1]]) for t in small])
            rgba = cv2.cvtColor(padded.astype(np.uint8), cv2.COLOR_RGB2RGBA)
            self._levels[key] = np.asarray(rgba, np.uint8)
        return self._levels[key]


def make_atlas(rng: np.random.Generator, layout: Layout) -> GroundAtlas:
    """Generate random materials for a street."""
    tone = float(rng.uniform(80, 114))
    road = _asphalt(rng, tone)
    parking = _paving(rng, 'setts') if layout.bays else road * np.float32(rng.uniform(0.86, 1.08))
    return GroundAtlas(
        {
            'terrain': _grass(rng, layout.season),
            'sidewalk': _paving(rng, layout.paving),
            'parking': parking,
            'road': road,
            'curb': _curbstone(rng),
        }
    )


def _asphalt(rng: np.random.Generator, tone: float) -> Field:
    stones = 0.07 * grain(rng, TILE_PX, TILE_PX) + 0.025 * noise(rng, TILE_PX, TILE_PX, 4)
    stains = 0.05 * mottle(rng, TILE_PX, TILE_PX)
    cast = rng.uniform(-0.02, 0.03)
    road = tint((tone * (1 + cast), tone, tone * (1 - cast)), 1.0 + stones + stains)
    for _ in range(int(rng.integers(1, 5))):
        walk = np.cumsum(rng.normal(0, 9, (90, 2)) + rng.normal(0, 4, 2), axis=0)
        points = np.clip(walk + rng.uniform(200, 800, 2), 4, TILE_PX - 5).astype(np.int32)
        cv2.polylines(road, [points], False, (tone * 0.66,) * 3, 2)
    return road


def _paving(rng: np.random.Generator, paving: str) -> Field:
    if paving == 'asphalt':
        return _asphalt(rng, float(rng.uniform(112, 140)))
    # Sizes divide the tile size, so that tiles repeat without a seam.
    size = 64 if paving == 'slabs' else 16
    count = TILE_PX // size
    base = (168.0, 161.0, 150.0) if paving == 'slabs' else (142.0, 135.0, 128.0)
    each = 1.0 + (0.05 if paving == 'slabs' else 0.12) * rng.standard_normal((count, count))
    tone = np.kron(each, np.ones((size, size))).astype(np.float32) * rng.uniform(0.88, 1.08)
    tone += 0.05 * grain(rng, TILE_PX, TILE_PX) + 0.07 * mottle(rng, TILE_PX, TILE_PX)
    sidewalk = tint(base, tone.astype(np.float32))
    joint = 2 if paving == 'slabs' else 1
    for i in range(joint):
        sidewalk[i::size] *= 0.72
        sidewalk[:, i::size] *= 0.72
    return sidewalk


def _grass(rng: np.random.Generator, season: str) -> Field:
    base = (100.0, 112.0, 62.0) if season != 'bare' else (112.0, 110.0, 76.0)
    blades = grain(rng, TILE_PX, TILE_PX)
    tone = 0.95 + 0.2 * blades + 0.12 * mottle(rng, TILE_PX, TILE_PX)
    bare = np.clip(mottle(rng, TILE_PX, TILE_PX) - 0.9, 0, 1)[..., None] * 0.7
    earth = np.array((122.0, 106.0, 84.0), np.float32) * (1.0 + 0.1 * blades[..., None])
    grass: Field = tint(base, tone) * (1 - bare) + earth * bare
    return grass


def _curbstone(rng: np.random.Generator) -> Field:
    stone = _asphalt(rng, float(rng.uniform(128, 158)))
    # Curbstones are 0.8 m long; their joints are perpendicular to the street.
    stone[:, ::64] *= 0.65
    stone[:, 1::64] *= 0.65
    return stone
