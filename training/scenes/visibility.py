# SPDX-License-Identifier: Apache-2.0
"""Visibility: painting order from back to front, and culling of hidden things."""

import heapq

import cv2
import numpy as np
import numpy.typing as npt

from training.scenes.camera import NEAR_M, Camera, FloatArray
from training.scenes.canvas import Canvas, Glimpse
from training.scenes.geometry import Thing
from training.scenes.textures import Image

# Hidden areas are recorded in square cells of this side length.
_CELL_PX = 4
_WORTHWHILE_PX = 400


def back_to_front(things: list[Thing], t_eye: float) -> list[Thing]:
    """Sort things so that none is painted over another that hides it from an eye at t_eye m.

    Footprints are compared pairwise: a thing is behind another if it is farther along the street,
    or if they overlap there and it is farther to the side. Cycles, which only unusual overlaps
    cause, are broken at the farthest thing.
    """
    if not things:
        return []
    spans = np.array([(f.x0, f.x1, f.t0, f.t1) for f in (t.footprint for t in things)])
    behind = _behind(spans, t_eye)
    waiting = behind.sum(axis=0).astype(int)
    far = -(spans[:, 0] + spans[:, 1]) / 2
    ranks = [t.rank for t in things]
    ready = [(float(far[i]), ranks[i], int(i)) for i in np.flatnonzero(waiting == 0)]
    heapq.heapify(ready)
    done = np.zeros(len(things), bool)
    order: list[Thing] = []
    while len(order) < len(things):
        if ready:
            i = heapq.heappop(ready)[2]
        else:
            left = np.flatnonzero(~done)
            i = int(left[np.argmin(far[left])])
        if done[i]:
            continue
        done[i] = True
        order.append(things[i])
        waiting -= behind[i]
        for j in np.flatnonzero(behind[i] & (waiting == 0)):
            heapq.heappush(ready, (float(far[j]), ranks[j], int(j)))
    return order


def _behind(spans: FloatArray, t_eye: float) -> npt.NDArray[np.bool_]:
    """Return a matrix (N, N), true where i must be painted before j.

    The columns of spans are x0, x1, t0, t1 in m.
    """
    x0, x1, t0, t1 = spans.T
    farther = x0[:, None] >= x1[None] - 1e-6
    left = (t0[:, None] >= t1[None] - 1e-6) & (t0 > t_eye)[None]
    right = (t1[:, None] <= t0[None] + 1e-6) & (t1 < t_eye)[None]
    aside = left | right
    # If both spans overlap, or the eye looks between them, depth along the street decides.
    overlap = ~farther & ~farther.T
    behind: npt.NDArray[np.bool_] = farther | (overlap & aside)
    np.fill_diagonal(behind, False)
    return behind


def visible(canvas: Canvas, things: list[Thing]) -> list[tuple[Thing, list[Glimpse]]]:
    """Return the things that may be visible, back to front, with their projected panels.

    A thing is culled only if its bounding box and a margin of one cell are behind opaque panels,
    so picture and labels lose no pixels except within a seam of one cell between panels.
    """
    camera = canvas.camera
    hidden = np.zeros((camera.height // _CELL_PX + 1, camera.width // _CELL_PX + 1), np.uint8)
    kept: list[tuple[Thing, list[Glimpse]]] = []
    for thing, box in zip(reversed(things), reversed(_boxes(camera, things)), strict=True):
        if box is None:
            continue
        x0, y0, x1, y1 = box
        if hidden[max(y0 - 1, 0) : y1 + 2, max(x0 - 1, 0) : x1 + 2].all():
            continue
        glimpses = canvas.glimpses(thing)
        if not glimpses:
            continue
        kept.append((thing, glimpses))
        for glimpse in glimpses:
            if not glimpse.panel.cutout and glimpse.region.area > _WORTHWHILE_PX:
                _hide(hidden, glimpse.pixels)
    kept.reverse()
    return kept


def _boxes(camera: Camera, things: list[Thing]) -> list[tuple[int, int, int, int] | None]:
    """Return the cells x0, y0, x1, y1 that each thing may touch; None if it is not in view."""
    if not things:
        return []
    corners = [thing.corners for thing in things]
    starts = np.cumsum([0, *(len(c) for c in corners[:-1])])
    q = camera.homogeneous(np.concatenate(corners))
    near = np.minimum.reduceat(q[:, 2], starts)
    far = np.maximum.reduceat(q[:, 2], starts)
    xy = q[:, :2] / np.maximum(q[:, 2:], NEAR_M)
    low = np.minimum.reduceat(xy, starts)
    high = np.maximum.reduceat(xy, starts)
    # Things that extend behind the lens have no box; they count as covering the whole picture.
    low[near < NEAR_M], high[near < NEAR_M] = 0.0, (camera.width - 1, camera.height - 1)
    size = np.array([camera.width - 1.0, camera.height - 1.0])
    outside = (high < -1.0).any(1) | (low > size + 1.0).any(1) | (far < NEAR_M)
    cells = np.clip(np.hstack([low, high]), 0.0, np.tile(size, 2)).astype(int) // _CELL_PX
    return [
        None if out else (int(a), int(b), int(c), int(d))
        for out, (a, b, c, d) in zip(outside, cells, strict=True)
    ]


def _hide(hidden: Image, pixels: FloatArray) -> None:
    """Mark the cells inside a polygon (N, 2) in pixels as hidden."""
    cells = np.clip(pixels * (16.0 / _CELL_PX), -(1 << 24), 1 << 24).astype(np.int32)
    cv2.fillPoly(hidden, [cells], 1, cv2.LINE_8, 4)
