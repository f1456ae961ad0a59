# SPDX-License-Identifier: Apache-2.0
"""The painter's order: what is behind is painted first."""

import heapq

import numpy as np
import numpy.typing as npt

from segmentation_node.scenes.camera import FloatArray
from segmentation_node.scenes.geometry import Thing


def back_to_front(things: list[Thing], t_eye: float) -> list[Thing]:
    """Things sorted so that none is painted over what hides it from an eye at t_eye m.

    Compares footprints pairwise: farther along the street, or overlapping there and farther
    aside, is behind. Cycles, which only odd overlaps make, are cut at the farthest thing.
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
    """Matrix (N, N): whether i must be painted before j; spans are x0, x1, t0, t1 in m."""
    x0, x1, t0, t1 = spans.T
    farther = x0[:, None] >= x1[None] - 1e-6
    left = (t0[:, None] >= t1[None] - 1e-6) & (t0 > t_eye)[None]
    right = (t1[:, None] <= t0[None] + 1e-6) & (t1 < t_eye)[None]
    aside = left | right
    # Where both spans overlap, or the eye looks between them, depth along the street decides.
    overlap = ~farther & ~farther.T
    behind: npt.NDArray[np.bool_] = farther | (overlap & aside)
    np.fill_diagonal(behind, False)
    return behind
