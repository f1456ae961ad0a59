# SPDX-License-Identifier: Apache-2.0
"""Random textures: clouds and crystals of ice."""

from functools import lru_cache
from typing import Final

import cv2
import numpy as np

from training.corruptions.sample import PAPER_PX, Pixels, blurred

#: Number of different panes of ice for each size of image.
PANES: Final = 6
#: Crystals branch at this angle.
BRANCH_DEG: Final = 60


def clouds(size_hw: tuple[int, int], decay: float, rng: np.random.Generator) -> Pixels:
    """Return a cloudy texture with values from 0 to 1, (H, W).

    Each octave has half the size of the one before, and `decay` times less contrast.
    """
    height, width = size_hw
    total = np.zeros(size_hw, np.float32)
    for octave in range(1, int(np.log2(max(size_hw)))):
        cells = 2**octave + 1
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        detail = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += np.float32(decay**-octave) * np.asarray(detail, np.float32)
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(high - low, np.float32(1e-6)), np.float32)


@lru_cache(maxsize=2 * PANES)
def ice(size_hw: tuple[int, int], pane: int) -> Pixels:
    """Return the brightness of a frozen pane, (H, W), from 0 (clear) to 1 (white).

    Dendrites grow inward from the edges, where the ice is thickest.
    """
    rng = np.random.default_rng(pane)
    height, width = size_hw
    scale = min(size_hw) / PAPER_PX
    needles = np.zeros(size_hw, np.float32)
    for _ in range(70):
        _grow(needles, rng, scale)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    rim = np.clip(np.maximum(np.abs(x), np.abs(y)), 0, 1).astype(np.float32)
    haze = clouds(size_hw, 1.6, rng)
    film = np.clip(0.25 + 0.75 * rim**2 + 0.9 * (haze - 0.5), 0, 1)
    grain = blurred(rng.standard_normal(size_hw, np.float32), 0.7 * scale)
    crystals = np.maximum(needles, 0.9 * blurred(needles, 1.2 * scale))
    texture = 0.45 * film + (0.35 + 0.5 * film) * crystals + 0.1 * film * grain
    return np.asarray(np.clip(texture, 0, 1), np.float32)


def _grow(needles: Pixels, rng: np.random.Generator, scale: float) -> None:
    """Draw one dendrite that starts near an edge: a stem with branches, and branches of these."""
    height, width = needles.shape
    along, depth = rng.uniform(0, 1), abs(rng.normal(0, 0.12))
    side = int(rng.integers(4))
    x, y = (along, depth) if side < 2 else (depth, along)
    start = np.array([x, y] if side % 2 else [1 - x, 1 - y]) * (width, height)
    inward = np.degrees(np.arctan2(height / 2 - start[1], width / 2 - start[0]))
    angle = float(inward + rng.normal(0, 35))
    _branch(needles, start, angle, float(rng.uniform(25, 80)) * scale, 2, rng)


def _branch(
    needles: Pixels,
    start: np.ndarray[tuple[int], np.dtype[np.float64]],
    angle_deg: float,
    length_px: float,
    depth: int,
    rng: np.random.Generator,
) -> None:
    step = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    shift, ends = 4, np.stack([start, start + length_px * step])  # in 1 / 16 of a pixel
    one, other = (tuple(int(v) for v in p) for p in np.rint(ends * 2**shift))
    brightness = float(rng.uniform(0.5, 1))
    cv2.line(needles, one, other, (brightness,), 1, cv2.LINE_AA, shift)
    if not depth:
        return
    for share in np.arange(0.12, 0.95, 0.1):
        for side in (-1, 1):
            size = length_px * (1 - share) * float(rng.uniform(0.25, 0.5))
            if size > 2:
                origin = start + share * length_px * step
                _branch(needles, origin, angle_deg + side * BRANCH_DEG, size, depth - 1, rng)
