# SPDX-License-Identifier: Apache-2.0
"""What keeps the light from the ground: cast shadows, and the dark below vehicles and feet."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from segmentation_node.scenes.camera import FloatArray
from segmentation_node.scenes.geometry import Thing
from segmentation_node.scenes.layout import Layout
from segmentation_node.scenes.light import Light

_CROWN_POINTS = 22


def cast(things: Iterable[Thing], layout: Layout, light: Light) -> Iterator[FloatArray]:
    """Outlines (N, 3) of the shadows on the ground."""
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
    """Shadow of the footprint raised to a height, or of a post of the given width."""
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
    """A ragged blob below the crown of a tree."""
    f = thing.footprint
    x, t = (f.x0 + f.x1) / 2, (f.t0 + f.t1) / 2
    middle = layout.world(x, t)[:2] + throw * thing.height * 0.62
    turn = np.linspace(0, 2 * np.pi, _CROWN_POINTS, False)
    # The outline depends on the place alone, so that it stays the same from frame to frame.
    rough = 1.0 + 0.16 * np.sin(5 * turn + 7.3 * x) + 0.1 * np.sin(9 * turn + 3.1 * t)
    stretch = np.linalg.norm(throw) * 0.5
    radial = thing.crown * rough[:, None] * np.column_stack([np.cos(turn), np.sin(turn)])
    along = throw / max(float(np.linalg.norm(throw)), 1e-6)
    radial += stretch * (radial @ along)[:, None] * along
    outline = middle + radial
    return np.column_stack([outline, np.zeros(len(outline))])


def contact(things: Iterable[Thing], layout: Layout) -> Iterator[FloatArray]:
    """Ground (4, 3) that vehicles and people stand close above and keep in the dark."""
    for thing in things:
        if thing.number is None:
            continue
        f = thing.footprint
        yield layout.rectangle(f.x0, f.x1, f.t0, f.t1, thing.base)
