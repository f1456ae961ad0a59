# SPDX-License-Identifier: Apache-2.0
"""Scores of label images against truth, from one confusion matrix over the whole set."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from segmentation_node.labels import LabelScheme

LabelImage = npt.NDArray[np.uint8]


@dataclass
class Confusion:
    """Pixel counts, rows are the truth and columns the prediction, both as published ids.

    Keeps the full 256 x 256 table, so that nothing has to be decided while counting: which
    classes are scored, and what void means, is a matter of reading it.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((256, 256), np.int64))

    def add(self, truth: LabelImage, predicted: LabelImage) -> None:
        """Count one pair of (H, W) uint8 label images of the same size."""
        if truth.shape != predicted.shape:
            raise ValueError(
                f'truth is {truth.shape} but prediction {predicted.shape}; they must be equal'
            )
        if not truth.dtype == predicted.dtype == np.uint8:
            raise ValueError(f'labels are {truth.dtype} and {predicted.dtype}, expected uint8')
        pairs = truth.astype(np.uint16).ravel() << 8 | predicted.ravel()
        self.counts += np.bincount(pairs, minlength=1 << 16).reshape(256, 256)

    def scores(self, scheme: LabelScheme, ignored_truth: tuple[int, ...] = ()) -> 'Scores':
        """Read the table under a scheme; rows in `ignored_truth` (published ids) do not count."""
        counts = self.counts.copy()
        counts[list(ignored_truth)] = 0
        known = [c.id for c in scheme.classes]
        stray = np.delete(counts, known, axis=0).sum()
        if stray:
            raise ValueError(
                f'{stray} truth pixels have ids that label scheme {scheme.name} does not know'
            )
        return Scores(scheme, counts)


@dataclass(frozen=True)
class Scores:
    """Figures of one confusion table under one scheme.

    Cityscapes counts a pixel only where the truth is a scored class; there, predicting void is
    a miss like any other (cityscapesScripts, evalPixelLevelSemanticLabeling). `miou` and
    `class_iou` follow that; `miou_with_void` scores void as one more class on all pixels.
    """

    scheme: LabelScheme
    counts: npt.NDArray[np.int64]

    def class_iou(self) -> dict[str, float]:
        """IoU by class name over the scored classes; NaN where truth and prediction have none."""
        scored = [c for c in self.scheme.classes if c.scored and not c.void]
        return _iou(self.counts, {c.name: c.id for c in scored})

    def miou(self) -> float:
        """Mean of `class_iou` over the classes that occur."""
        return _mean(self.class_iou())

    def miou_with_void(self) -> float:
        """Mean IoU over all learned classes, void among them where it is learned."""
        return _mean(_iou(self.counts, {c.name: c.id for c in self.scheme.learned}))

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right."""
        ids = [c.id for c in self.scheme.classes if c.scored and not c.void]
        total = self.counts[ids].sum()
        return float(self.counts[ids, ids].sum() / total) if total else float('nan')


def _iou(counts: npt.NDArray[np.int64], id_of: dict[str, int]) -> dict[str, float]:
    ids = list(id_of.values())
    counted = counts[ids]  # (K, 256): only pixels whose truth is one of the classes
    hit = counted[np.arange(len(ids)), ids]
    union = counted.sum(axis=1) + counted[:, ids].sum(axis=0) - hit
    with np.errstate(invalid='ignore'):
        return dict(zip(id_of, (hit / np.where(union, union, np.nan)).tolist(), strict=True))


def _mean(iou: dict[str, float]) -> float:
    values = np.array(list(iou.values()))
    return float(np.nanmean(values)) if np.isfinite(values).any() else float('nan')
