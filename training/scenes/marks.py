# SPDX-License-Identifier: Apache-2.0
"""Road markings and details: lines, crosswalks, parking bays, arrows, covers and repairs."""

from dataclasses import dataclass

import numpy as np

from training.scenes.blocks import Block
from training.scenes.camera import FloatArray
from training.scenes.layout import BLOCK_M, SIDES, Layout


def strip(
    layout: Layout, start: float, end: float, inner: float, outer: float, z: float = 0.0
) -> FloatArray:
    """Return the outline (N, 3) of a strip from inner to outer m left of the center line."""
    x = np.linspace(start, end, max(int((end - start) / 3.0), 1) + 1)
    y = layout.center(x)
    near = np.column_stack([x, y + inner, np.full_like(x, z)])
    far = np.column_stack([x, y + outer, np.full_like(x, z)])
    return np.vstack([near, far[::-1]])


def spans(blocks: list[Block], low: float, high: float) -> list[tuple[float, float]]:
    """Return the sections between side streets within low..high, in m."""
    stretches: list[list[float]] = []
    for block in blocks:
        if block.crossing or not stretches:
            stretches.append([block.begin, block.x0 + BLOCK_M])
        else:
            stretches[-1][1] = block.x0 + BLOCK_M
    stretches[-1][1] = max(high, stretches[-1][1])
    return [(max(a, low), min(b, high)) for a, b in stretches if b > low and a < high]


@dataclass(frozen=True)
class BlockMarks:
    """Outlines (N, 3) of road markings, repairs and manhole covers of one block."""

    paint: tuple[FloatArray, ...]
    patches: tuple[FloatArray, ...]
    covers: tuple[FloatArray, ...]


def block_marks(layout: Layout, edge_lines: int, block: Block) -> BlockMarks:
    """Return all marks of a block, with edge_lines parallel lines along each curb."""
    start, end = block.begin, block.x0 + BLOCK_M
    paint = _center_lines(layout, start, end)
    for side in SIDES:
        edge = layout.half_road - 0.25
        for i in range(edge_lines):
            paint.append(_line(layout, start, end, side * (edge - 0.22 * i), 0.1))
        if layout.parking[side < 0] > 0 and layout.bays:
            paint += _bays(layout, start, end, side)
    paint += _crossing(layout, block)
    if block.arrow is not None:
        paint.append(_arrow(layout, block.arrow))
    patches = tuple(strip(layout, p.x0, p.x1, p.t0, p.t1) for p in block.patches)
    return BlockMarks(tuple(paint), patches, tuple(_cover(layout, x, t) for x, t in block.covers))


def _line(layout: Layout, start: float, end: float, t: float, width: float) -> FloatArray:
    return strip(layout, start, end, t - width / 2, t + width / 2)


def _center_lines(layout: Layout, start: float, end: float) -> list[FloatArray]:
    if layout.mark == 'dashed':
        dashes = np.arange(np.floor(start / 6) * 6 + 6, end - 3, 6.0)
        return [_line(layout, d, d + 2.6, 0.0, 0.12) for d in dashes]
    offsets = {'solid': (0.0,), 'double': (-0.15, 0.15), 'none': ()}[layout.mark]
    return [_line(layout, start, end, t, 0.11) for t in offsets]


def _bays(layout: Layout, start: float, end: float, side: int) -> list[FloatArray]:
    inner, outer = sorted((side * layout.half_road, side * layout.curb(side)))
    return [
        strip(layout, x, x + 0.1, inner, outer)
        for x in np.arange(np.ceil(start / 5.6) * 5.6, end, 5.6)
    ]


def _crossing(layout: Layout, block: Block) -> list[FloatArray]:
    half = layout.half_road
    if block.zebra:
        bars = np.arange(-half + 0.65, half - 0.3, 1.0)
        return [_line(layout, block.x0 - 3.6, block.x0 - 0.8, float(t), 0.5) for t in bars]
    if block.crossing:
        inner, outer = sorted((0.15 * layout.drive_side, half * layout.drive_side))
        return [strip(layout, block.x0 - 1.4, block.x0 - 1.0, inner, outer)]
    return []


def _arrow(layout: Layout, x: float) -> FloatArray:
    t = layout.drive_side * layout.half_road / 2
    shape = [(0, -0.08), (2.6, -0.08), (2.6, -0.32), (4.4, 0), (2.6, 0.32), (2.6, 0.08), (0, 0.08)]
    return np.array([layout.world(x + a, t + b) for a, b in shape])


def _cover(layout: Layout, x: float, t: float) -> FloatArray:
    """Return the outline of a round manhole cover."""
    turn = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    ring = 0.32 * np.column_stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)])
    outline: FloatArray = ring + layout.world(x, t)
    return outline
