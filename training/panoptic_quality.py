# SPDX-License-Identifier: Apache-2.0
"""Panoptic quality: Kirillov et al., "Panoptic Segmentation", CVPR 2019.

A true and a predicted segment of the same class match if their IoU is above one half, so that
each has at most one match. Over all images, with TP matches, FP and FN segments without one:

- SQ, segmentation quality: mean IoU of the matches
- RQ, recognition quality: TP / (TP + FP / 2 + FN / 2)
- PQ: SQ * RQ

As in panopticapi and cityscapesScripts, pixels that are not scored belong to no union, and a
segment that lies mostly on them or on a group of its class is no error.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

import numpy as np

from segmentation_node.arrays import BoolArray, Float64Array, UInt8Array, UInt16Array
from segmentation_node.labels import LabelClass, LabelScheme
from segmentation_node.metrics import UNCOUNTED, Target, scored_classes
from training.segments import Segments, classes_of, ids_of, instances_of, overlaps, pack

#: IoU above which segments match, and share of a segment above which it is ignored.
HALF: Final = 0.5
#: Pixels that belong to no segment.
_VOID: Final = -1
#: Rows of the counts of classes.
_IOU, _MATCHED, _FALSE, _MISSED = range(4)


class SegmentQuality(NamedTuple):
    """Panoptic, segmentation and recognition quality; NaN if there is no segment."""

    pq: float
    sq: float
    rq: float


@dataclass
class PanopticCounts:
    """Segments of the scored classes of a scheme, counted over images.

    Without `things`, only classes that are not countable are scored: truth without instances does
    not tell whether countable ones are correct. `sums` are, by class id: the summed IoU of the
    matches, their number, predicted segments without a match, and true segments without a match,
    (4, 256).
    """

    scheme: LabelScheme
    things: bool = True
    sums: Float64Array = field(default_factory=lambda: np.zeros((4, 256)))

    def __post_init__(self) -> None:
        scored = scored_classes(self.scheme)
        self._classes = [c for c in scored if self.things or not c.countable]
        self._scored = ids_of(self._classes)
        self._countable = ids_of(c for c in self._classes if c.countable)

    def add(
        self,
        target: Target,
        instances: UInt16Array,
        labels: UInt8Array,
        predicted_instances: UInt16Array,
    ) -> None:
        """Count the segments of one image.

        Args:
            target: (H, W) true ids of scored classes, UNCOUNTED where a pixel is not scored.
            instances: (H, W) numbers of the true instances, 0 for none.
            labels: (H, W) predicted ids.
            predicted_instances: (H, W) numbers of the predicted instances, 0 for none.
        """
        void = target == UNCOUNTED
        true, predicted, pixels = overlaps(
            self._segments(np.where(void, 0, target).astype(np.uint8), instances, void),
            self._segments(labels, predicted_instances),
        )
        true_class, predicted_class = classes_of(true), classes_of(predicted)
        is_group = self._countable[true_class] & (instances_of(true) == 0)
        same = true_class[:, None] == predicted_class
        same &= (true != _VOID)[:, None] & (predicted != _VOID)
        area = pixels.sum(axis=0)  # (P,)
        unscored = pixels[true == _VOID].sum(axis=0)
        union = pixels.sum(axis=1)[:, None] + area - pixels - unscored
        comparable = same & ~is_group[:, None]
        iou = np.divide(pixels, union, out=np.zeros(pixels.shape), where=comparable)
        matches = iou > HALF
        ignored = unscored + np.where(same & is_group[:, None], pixels, 0).sum(axis=0)
        is_false = ~matches.any(axis=0) & (predicted != _VOID) & (ignored <= HALF * area)
        is_missed = ~matches.any(axis=1) & (true != _VOID) & ~is_group
        rows, columns = np.nonzero(matches)
        np.add.at(self.sums[_IOU], true_class[rows], iou[rows, columns])
        np.add.at(self.sums[_MATCHED], true_class[rows], 1)
        np.add.at(self.sums[_FALSE], predicted_class[is_false], 1)
        np.add.at(self.sums[_MISSED], true_class[is_missed], 1)

    def _segments(
        self, labels: UInt8Array, instances: UInt16Array, void: BoolArray | Literal[False] = False
    ) -> Segments:
        segments = pack(labels, instances, self._countable)
        segments[void | ~self._scored[labels]] = _VOID
        return segments

    def by_class(self) -> dict[str, SegmentQuality]:
        """Return the quality of each scored class; NaN if it has no segment."""
        return {c.name: self._quality(c) for c in self._classes}

    def mean(self, countable: bool | None = None) -> SegmentQuality:
        """Return the mean over the classes that have segments.

        Args:
            countable: only classes that are countable ("things"), or that are not ("stuff").
        """
        chosen = [c for c in self._classes if countable in (None, c.countable)]
        found = [each for each in map(self._quality, chosen) if math.isfinite(each.pq)]
        if not found:
            return SegmentQuality(math.nan, math.nan, math.nan)
        return SegmentQuality(*np.mean(found, axis=0).tolist())

    def figures(self) -> dict[str, float]:
        """Return PQ, SQ and RQ of all classes, of things and of stuff, by name.

        Without things, only those of stuff.
        """
        parts = {'': None, '_things': True, '_stuff': False} if self.things else {'_stuff': False}
        return {
            f'{kind}{part}': value
            for part, countable in parts.items()
            for kind, value in zip(('PQ', 'SQ', 'RQ'), self.mean(countable), strict=True)
        }

    def _quality(self, c: LabelClass) -> SegmentQuality:
        iou, matched, false, missed = self.sums[:, c.id].tolist()
        segments = matched + (false + missed) / 2
        if not segments:
            return SegmentQuality(math.nan, math.nan, math.nan)
        sq = iou / matched if matched else 0.0
        return SegmentQuality(iou / segments, sq, matched / segments)
