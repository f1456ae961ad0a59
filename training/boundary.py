# SPDX-License-Identifier: Apache-2.0
"""Boundary F-score: how accurately class boundaries are predicted.

Csurka, Larlus, Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC
2013, and Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object
Segmentation", CVPR 2016. Both average over images. Here boundary pixels are counted over the
whole set, as in the confusion matrix, so that an image with little of a class has little weight.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import LabelClass
from segmentation_node.metrics import UNCOUNTED, Target

#: Tolerance as a share of the image's diagonal, from Csurka et al.
TOLERANCE: Final = 0.0075

Counts = npt.NDArray[np.int64]


def _no_counts() -> Counts:
    return np.zeros(256, np.int64)


@dataclass
class BoundaryCounts:
    """Boundary pixels by class id, all of them and the matched ones, (256,) int64 each.

    A boundary pixel is matched if the other label image has a boundary pixel of the same class
    within `tolerance`, a share of the image's diagonal. `tolerances_px` contains the resulting
    distances in pixels.
    """

    tolerance: float = TOLERANCE
    predicted: Counts = field(default_factory=_no_counts)
    predicted_matched: Counts = field(default_factory=_no_counts)
    truth: Counts = field(default_factory=_no_counts)
    truth_matched: Counts = field(default_factory=_no_counts)
    tolerances_px: set[float] = field(default_factory=set)

    def add(self, target: Target, predicted: UInt8Array) -> None:
        """Count one frame, (H, W) each.

        UNCOUNTED truth is excluded: its edges are not boundaries, and boundary pixels within the
        tolerance of it are not scored, because their match may be hidden there.
        """
        # Rounding must not turn a whole number of pixels into one pixel less.
        tolerance_px = self.tolerance * math.hypot(*target.shape) + 1e-9
        self.tolerances_px.add(round(tolerance_px, 2))
        counted = target != UNCOUNTED
        true_edge = boundary_of(target)
        predicted_edge = boundary_of(np.where(counted, predicted.astype(np.int16), UNCOUNTED))
        scored = _farther_than(tolerance_px, counted)
        for edge, partners, total, matched in (
            (predicted_edge, true_edge, self.predicted, self.predicted_matched),
            (true_edge, predicted_edge, self.truth, self.truth_matched),
        ):
            scored_edge = np.where(scored, edge, UNCOUNTED)
            counts = np.bincount(scored_edge[scored_edge != UNCOUNTED], minlength=256)
            missed = np.bincount(_unmatched(scored_edge, partners, tolerance_px), minlength=256)
            total += counts
            matched += counts - missed

    def f_score(self, classes: Iterable[LabelClass]) -> dict[str, float]:
        """Return the harmonic mean of boundary precision and recall by class name.

        The score is NaN where neither side has a boundary of the class, and 0 where only one has.
        """
        scores = {}
        for c in classes:
            predicted, truth = int(self.predicted[c.id]), int(self.truth[c.id])
            precision = self.predicted_matched[c.id] / predicted if predicted else 0.0
            recall = self.truth_matched[c.id] / truth if truth else 0.0
            both = precision + recall
            score = 2 * precision * recall / both if both else 0.0
            scores[c.name] = float(score) if predicted or truth else math.nan
        return scores


def boundary_of(labels: Target) -> Target:
    """Return the labels of boundary pixels, UNCOUNTED elsewhere, (H, W) int16.

    A boundary pixel has a different label among its 4 neighbors; UNCOUNTED neighbors are ignored.
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
    """Return a mask of the pixels without an uncounted pixel within a distance, (H, W)."""
    if counted.all():
        return counted
    return np.asarray(
        cv2.distanceTransform(counted.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        > distance_px + 1e-4  # distances have 32-bit precision
    )


def _unmatched(edge: Target, partners: Target, tolerance_px: float) -> Target:
    """Return the labels of boundary pixels without a partner of their label in reach, (N,).

    Only boundary pixels are visited, all classes at once and the nearest offsets first. Most find
    their partner after a few offsets, so the cost hardly grows with the tolerance.
    """
    reach = int(tolerance_px)
    # A margin without labels keeps every offset inside the array.
    padded = np.pad(edge, reach, constant_values=UNCOUNTED)
    candidates = np.pad(partners, reach, constant_values=UNCOUNTED).ravel()
    labels = padded.ravel()
    open_pixels = np.flatnonzero(labels != UNCOUNTED)
    for dy, dx in _disk(tolerance_px):
        reached = candidates[open_pixels + dy * padded.shape[1] + dx]
        open_pixels = open_pixels[reached != labels[open_pixels]]
        if not open_pixels.size:
            break
    return labels[open_pixels]


@lru_cache(maxsize=64)
def _disk(radius: float) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) of the pixels within a radius, nearest first."""
    reach = range(-int(radius), int(radius) + 1)
    offsets = [(dy, dx) for dy in reach for dx in reach if math.hypot(dy, dx) <= radius]
    return sorted(offsets, key=lambda offset: math.hypot(*offset))
