# SPDX-License-Identifier: Apache-2.0
"""Scores of label images against ground truth, from one confusion matrix over the whole set."""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import LabelClass, LabelScheme

#: Ground truth as ids of the scored scheme; UNCOUNTED where a pixel does not count.
Target: TypeAlias = npt.NDArray[np.int16]

UNCOUNTED: Final = -1


def truth_lut_of(truth: LabelScheme, scheme: LabelScheme) -> Target:
    """Return a look-up table from truth ids to ids of `scheme`, (256,) int16.

    Ids that are not annotated, or that the truth's own scheme does not score, map to UNCOUNTED.
    All scoring of label images, from files or bags, reads the ground truth through this table.

    Raises:
        SchemeError: a class of the truth has no unambiguous counterpart in `scheme`.
    """
    id_of_channel = np.full(256, UNCOUNTED, np.int16)
    id_of_channel[: len(scheme.channel_ids)] = scheme.channel_ids
    lut = id_of_channel[scheme.channels_from(truth)]  # IGNORE, 255, is not a channel
    lut[[c.id for c in truth.classes if not c.scored]] = UNCOUNTED
    return lut


@dataclass
class Confusion:
    """Pixel counts by truth (rows) and prediction (columns), both as published ids.

    The table has its full size, 256 x 256, so counting is independent of the scheme: the classes
    to score, and the meaning of void, are chosen when the scores are read.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((256, 256), np.int64))

    def add(self, truth: UInt8Array, predicted: UInt8Array) -> None:
        """Count one pair of (H, W) uint8 label images of the same size."""
        if truth.shape != predicted.shape:
            raise ValueError(
                f'truth has shape {truth.shape}, prediction {predicted.shape}; they must match'
            )
        if not truth.dtype == predicted.dtype == np.uint8:
            raise ValueError(f'labels are {truth.dtype} and {predicted.dtype}, expected uint8')
        pairs = truth.astype(np.uint16).ravel() << 8 | predicted.ravel()
        self.counts += np.bincount(pairs, minlength=1 << 16).reshape(256, 256)

    def add_target(self, target: Target, predicted: UInt8Array) -> None:
        """Count an (H, W) prediction where its target, (H, W) int16, is not UNCOUNTED."""
        if target.shape != predicted.shape:
            raise ValueError(
                f'target has shape {target.shape}, prediction {predicted.shape}; they must match'
            )
        counted = target != UNCOUNTED
        self.add(target[counted].astype(np.uint8), predicted[counted])

    def scores(self, scheme: LabelScheme, ignored_truth: tuple[int, ...] = ()) -> 'Scores':
        """Return the scores under a scheme, without the rows `ignored_truth` (published ids)."""
        counts = self.counts.copy()
        counts[list(ignored_truth)] = 0
        known = [c.id for c in scheme.classes]
        stray = np.delete(counts, known, axis=0).sum()
        if stray:
            raise ValueError(
                f'{stray} truth pixels have ids that are not in label scheme {scheme.name}'
            )
        return Scores(scheme, counts)


class ConfusionWindow:
    """Sum of the newest confusion tables, each of one frame.

    Frames are kept as the few cells that are not zero, and counts are integers, so that the sum
    equals that of the full tables exactly.
    """

    def __init__(self, frames: int) -> None:
        self._max_frames = frames
        self._cells: deque[tuple[npt.NDArray[np.intp], npt.NDArray[np.int64]]] = deque()
        self.confusion = Confusion()

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, confusion: Confusion) -> None:
        """Add the table of a frame; the oldest leaves a full window."""
        total, added = self.confusion.counts.reshape(-1), confusion.counts.reshape(-1)
        cells = np.flatnonzero(added)
        self._cells.append((cells, added[cells]))
        total[cells] += added[cells]
        if len(self._cells) > self._max_frames:
            oldest, counts = self._cells.popleft()
            total[oldest] -= counts


@dataclass(frozen=True)
class Scores:
    """Scores of one confusion table under one scheme.

    Cityscapes counts a pixel only if its true class is scored; predicting void there is an
    error like any other (cityscapesScripts, evalPixelLevelSemanticLabeling). `miou` and
    `class_iou` follow this rule; `miou_with_void` scores void as one more class on all pixels.
    """

    scheme: LabelScheme
    counts: npt.NDArray[np.int64]

    def class_counts(self) -> npt.NDArray[np.int64]:
        """Return the counts from which `iou_of` computes the IoU of the K scored classes, (3, K).

        They add up over images, unlike scores.
        """
        return _group_counts(self.counts, _by_name(self.scored).values())

    def class_iou(self) -> dict[str, float]:
        """Return the IoU of each scored class; NaN if neither truth nor prediction contains it."""
        return _iou(self.counts, _by_name(self.scored))

    def miou(self) -> float:
        """Return the mean of `class_iou` over the classes that occur."""
        return mean_of(self.class_iou())

    def miou_with_void(self) -> float:
        """Return the mean IoU over all learned classes, including void if it is learned."""
        return mean_of(_iou(self.counts, _by_name(self.scheme.learned)))

    def category_iou(self) -> dict[str, float]:
        """Return the IoU by category of the scored classes; confusion within one is no error."""
        return _iou(self.counts, _by_category(self.scored))

    def category_miou(self) -> float:
        """Return the mean of `category_iou` over the categories that occur (Cityscapes: 7)."""
        return mean_of(self.category_iou())

    def category_iou_with_void(self) -> dict[str, float]:
        """Return the IoU by category over all learned classes, including void if it is learned."""
        return _iou(self.counts, _by_category(self.scheme.learned))

    def category_miou_with_void(self) -> float:
        """Return the mean of `category_iou_with_void` over the categories that occur."""
        return mean_of(self.category_iou_with_void())

    def class_dice(self) -> dict[str, float]:
        """Return the Dice coefficient (F1) of each scored class, computed from `class_iou`."""
        return {name: 2 * iou / (1 + iou) for name, iou in self.class_iou().items()}

    def mean_dice(self) -> float:
        """Return the mean of `class_dice` over the classes that occur."""
        return mean_of(self.class_dice())

    def pixel_accuracy(self) -> float:
        """Return the share of the counted pixels whose label is correct."""
        ids = [c.id for c in self.scored]
        total = self.counts[ids].sum()
        return float(self.counts[ids, ids].sum() / total) if total else float('nan')

    @property
    def scored(self) -> tuple[LabelClass, ...]:
        """Classes that the official scores include."""
        return scored_classes(self.scheme)


def scored_classes(scheme: LabelScheme) -> tuple[LabelClass, ...]:
    """Return the classes of a scheme that the official scores include."""
    return tuple(c for c in scheme.classes if c.scored and not c.void)


def _by_name(classes: Iterable[LabelClass]) -> dict[str, list[int]]:
    return {c.name: [c.id] for c in classes}


def _by_category(classes: Iterable[LabelClass]) -> dict[str, list[int]]:
    ids: dict[str, list[int]] = {}
    for c in classes:
        ids.setdefault(c.category, []).append(c.id)
    return ids


def _iou(counts: npt.NDArray[np.int64], ids_of: Mapping[str, Collection[int]]) -> dict[str, float]:
    """Return the IoU of groups of ids, over the pixels whose true id is in any group."""
    return dict(zip(ids_of, iou_of(_group_counts(counts, ids_of.values())).tolist(), strict=True))


def _group_counts(
    counts: npt.NDArray[np.int64], groups: Collection[Collection[int]]
) -> npt.NDArray[np.int64]:
    """Return the correct, true and predicted pixels of K groups of ids, (3, K).

    Only pixels whose true id is in any group count.
    """
    member = np.zeros((len(groups), 256), np.int64)  # (K, 256), 1 where an id is in a group
    for row, ids in zip(member, groups, strict=True):
        row[list(ids)] = 1
    table = member @ counts @ member.T  # (K, K)
    # Predictions outside all groups are errors: they count in the sum of the truth only.
    return np.stack([table.diagonal(), (member @ counts).sum(axis=1), table.sum(axis=0)])


def iou_of(counts: npt.NDArray[np.number[Any]]) -> npt.NDArray[np.float64]:
    """Return IoU from correct, true and predicted pixels; NaN where there are none.

    Args:
        counts: (..., 3, K).

    Returns:
        (..., K).
    """
    correct, truth, predicted = np.moveaxis(counts, -2, 0)
    union = truth + predicted - correct
    with np.errstate(invalid='ignore'):
        return np.asarray(correct / np.where(union > 0, union, np.nan), np.float64)


def mean_of(by_name: Mapping[str, float]) -> float:
    """Return the mean of the finite figures; NaN if there is none."""
    values = np.array(list(by_name.values()))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')
