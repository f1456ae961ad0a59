# SPDX-License-Identifier: Apache-2.0
"""How well the borders of classes are met: the boundary F-score.

Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC
2013, and Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016. Both average over images; here boundary pixels are counted over the
whole set, as in the confusion table, so that an image with little of a class says little of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.labels import LabelClass
from segmentation_node.metrics import UNCOUNTED, LabelImage, Target

#: Tolerance as a share of the image's diagonal, that of Csurka et al.
TOLERANCE: Final = 0.0075

Counts = npt.NDArray[np.int64]


def _no_counts() -> Counts:
    return np.zeros(256, np.int64)


@dataclass
class BoundaryCounts:
    """Boundary pixels by class id, (256,) int64 each: all of them, and those that are met.

    A boundary pixel is met where one of its class lies within `tolerance`, a share of the image's
    diagonal, on the other side. `tolerances_px` are the distances that this came to.
    """

    tolerance: float = TOLERANCE
    predicted: Counts = field(default_factory=_no_counts)
    predicted_met: Counts = field(default_factory=_no_counts)
    truth: Counts = field(default_factory=_no_counts)
    truth_met: Counts = field(default_factory=_no_counts)
    tolerances_px: set[float] = field(default_factory=set)

    def add(self, target: Target, predicted: LabelImage) -> None:
        """Count one frame, (H, W) each.

        UNCOUNTED truth takes no part: what borders on it is no boundary, and a boundary pixel
        within the tolerance of it is not judged, for its partner may be hidden there.
        """
        # What rounding takes from a whole number of pixels would cost a pixel.
        tolerance_px = self.tolerance * math.hypot(*target.shape) + 1e-9
        self.tolerances_px.add(round(tolerance_px, 2))
        counted = target != UNCOUNTED
        wanted = boundary_of(target)
        found = boundary_of(np.where(counted, predicted.astype(np.int16), UNCOUNTED))
        judged = _farther_than(tolerance_px, counted)
        for of, partners, total, met in (
            (found, wanted, self.predicted, self.predicted_met),
            (wanted, found, self.truth, self.truth_met),
        ):
            judged_of = np.where(judged, of, UNCOUNTED)
            counts = np.bincount(judged_of[judged_of != UNCOUNTED], minlength=256)
            missed = np.bincount(_unmet(judged_of, partners, tolerance_px), minlength=256)
            total += counts
            met += counts - missed

    def f_score(self, classes: Iterable[LabelClass]) -> dict[str, float]:
        """Harmonic mean of boundary precision and recall by class name.

        NaN where neither side has a boundary of a class, 0 where only one has.
        """
        scores = {}
        for c in classes:
            predicted, truth = int(self.predicted[c.id]), int(self.truth[c.id])
            precision = self.predicted_met[c.id] / predicted if predicted else 0.0
            recall = self.truth_met[c.id] / truth if truth else 0.0
            both = precision + recall
            score = 2 * precision * recall / both if both else 0.0
            scores[c.name] = float(score) if predicted or truth else math.nan
        return scores


def boundary_of(labels: Target) -> Target:
    """The labels where one of the 4 neighbours has another, else UNCOUNTED, (H, W) int16.

    A neighbour that is UNCOUNTED is no other label.
    """
    edge = np.zeros(labels.shape, bool)
    for first, second in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        one, other = labels[first], labels[second]
        differ = (one != other) & (one != UNCOUNTED) & (other != UNCOUNTED)
        edge[first] |= differ
        edge[second] |= differ
    return np.where(edge, labels, np.int16(UNCOUNTED))


def _farther_than(distance_px: float, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which pixels have nothing uncounted within a distance, (H, W)."""
    if counted.all():
        return counted
    return np.asarray(
        cv2.distanceTransform(counted.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        > distance_px + 1e-4  # the distances are rounded to 32 bits
    )


def _unmet(of: Target, partners: Target, tolerance_px: float) -> Target:
    """Labels of the boundary pixels without a partner of their label within a distance, (N,).

    Only boundary pixels are looked at, all classes at once and the nearest places first: most
    have found their partner after a few, so the cost hardly grows with the tolerance.
    """
    reach = int(tolerance_px)
    # A margin without labels, so that every place to look at exists.
    padded_of = np.pad(of, reach, constant_values=UNCOUNTED)
    places = np.pad(partners, reach, constant_values=UNCOUNTED).ravel()
    labels = padded_of.ravel()
    left = np.flatnonzero(labels != UNCOUNTED)
    for dy, dx in _disk(tolerance_px):
        left = left[places[left + dy * padded_of.shape[1] + dx] != labels[left]]
        if not left.size:
            break
    return labels[left]


@lru_cache(maxsize=64)
def _disk(radius: float) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of the pixels within a radius, the nearest first."""
    reach = range(-int(radius), int(radius) + 1)
    offsets = [(dy, dx) for dy in reach for dx in reach if math.hypot(dy, dx) <= radius]
    return sorted(offsets, key=lambda offset: math.hypot(*offset))
