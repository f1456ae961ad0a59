# SPDX-License-Identifier: Apache-2.0
"""Average precision of instance masks, as cityscapesScripts defines it.

A predicted instance is correct if the IoU of its mask and that of a true instance of its class is
above a threshold. AP is the area under the curve of precision over recall, as the minimum score
falls, and its mean over the thresholds 0.5, 0.55, ..., 0.95; AP50 is that of the first threshold.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from segmentation_node.arrays import BoolArray, Float64Array, UInt16Array
from segmentation_node.instances import Instances
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import UNCOUNTED, Target, mean_of, scored_classes
from training.segments import classes_of, ids_of, instances_of, overlaps, pack

#: As floating-point numbers, these are exactly those of cityscapesScripts.
MIN_IOUS: Final = np.arange(0.5, 1, 0.05)
#: Smaller true instances need not be found.
MIN_PIXELS: Final = 100

#: Pixels that are not scored, and pixels of the instances of classes that are not scored.
_VOID, _UNSCORED_INSTANCE = -1, -2


@dataclass(frozen=True)
class _Found:
    """Predicted instances of one image or more.

    `iou` is the best IoU with a true instance that counts, `any_iou` also with groups and small
    ones, and `ignored` the share of the pixels that are not scored, or of groups and small ones.
    """

    class_id: Float64Array  # (N,), as the others
    score: Float64Array
    iou: Float64Array
    any_iou: Float64Array
    ignored: Float64Array


@dataclass
class InstanceCounts:
    """Predicted and true instances of the countable scored classes of a scheme, over images."""

    scheme: LabelScheme
    _found: list[Float64Array] = field(default_factory=list)  # (5, N), rows as in `_Found`
    _true: Float64Array = field(default_factory=lambda: np.zeros(256))  # by class id

    def __post_init__(self) -> None:
        classes = [c for c in scored_classes(self.scheme) if c.countable]
        self._id_of = {c.name: c.id for c in classes}
        self._countable = ids_of(classes)

    def add(self, target: Target, instances: UInt16Array, predicted: Instances) -> None:
        """Count the instances of one image.

        Args:
            target: (H, W) true ids of scored classes, UNCOUNTED where a pixel is not scored.
            instances: (H, W) numbers of the true instances, 0 for none; also those of classes
                that are not scored, whose pixels are no excuse for a prediction.
            predicted: predicted instances, with class ids of the scheme.
        """
        segments = pack(target.clip(0), instances, np.ones(256, np.bool_))
        unscored = target == UNCOUNTED
        segments[unscored] = np.where(instances[unscored] == 0, _VOID, _UNSCORED_INSTANCE)
        true, numbers, pixels = overlaps(segments, predicted.ids.astype(np.int32))
        is_segment, area = true >= 0, pixels.sum(axis=1)
        true_class = classes_of(true)
        is_group, is_small = is_segment & (instances_of(true) == 0), area < MIN_PIXELS
        counts = is_segment & ~is_group & ~is_small
        np.add.at(self._true, true_class[counts], 1)

        here = numbers > 0
        class_ids = predicted.class_ids[numbers[here] - 1]
        scores = predicted.scores[numbers[here] - 1]
        pixels = pixels[:, here]
        predicted_area = pixels.sum(axis=0)
        same = is_segment[:, None] & (true_class[:, None] == class_ids)
        iou = np.where(same, pixels / (area[:, None] + predicted_area - pixels), 0)
        # A small group counts twice, as in cityscapesScripts.
        excuses = np.where(same, pixels * (is_group * 1 + is_small)[:, None], 0).sum(axis=0)
        excuses += pixels[true == _VOID].sum(axis=0)
        any_iou = iou.max(axis=0, initial=0)
        best_iou = np.where(counts[:, None], iou, 0).max(axis=0, initial=0)
        found = np.stack([class_ids, scores, best_iou, any_iou, excuses / predicted_area])
        self._found.append(found[:, self._countable[class_ids]])

    def by_class(self) -> dict[str, Float64Array]:
        """Return AP at each of MIN_IOUS, (10,), by class; NaN without a true instance."""
        found = np.concatenate([np.empty((5, 0)), *self._found], axis=1)
        return {
            name: self._precisions(_Found(*found[:, found[0] == id_]), float(self._true[id_]))
            for name, id_ in self._id_of.items()
        }

    def class_ap(self) -> dict[str, float]:
        """Return the AP of each countable scored class; NaN without a true instance."""
        return {name: float(precisions.mean()) for name, precisions in self.by_class().items()}

    def class_ap50(self) -> dict[str, float]:
        """Return the AP50 of each countable scored class; NaN without a true instance."""
        return {name: float(precisions[0]) for name, precisions in self.by_class().items()}

    def ap(self) -> float:
        """Return the mean of `class_ap` over the classes that have true instances."""
        return mean_of(self.class_ap())

    def ap50(self) -> float:
        """Return the mean of `class_ap50` over the classes that have true instances."""
        return mean_of(self.class_ap50())

    @staticmethod
    def _precisions(found: _Found, true: float) -> Float64Array:
        if not true:
            return np.full(len(MIN_IOUS), np.nan)
        precisions = []
        for min_iou in MIN_IOUS:
            # Masks of an image do not overlap, so that each true instance has at most one match.
            correct = found.iou > min_iou
            wrong = (found.any_iou <= min_iou) & (found.ignored <= min_iou)
            used = correct | wrong
            precisions.append(_area(found.score[used], correct[used], true))
        return np.array(precisions)


def _area(scores: Float64Array, correct: BoolArray, true: float) -> float:
    """Return the area under precision over recall, by the trapezoidal rule.

    The curve has a point for each of the scores, (N,), and begins at recall 0 with precision 1.
    """
    order = np.argsort(-scores, kind='stable')
    falling, matched = scores[order], np.cumsum(correct[order])
    # Predictions of the same score are accepted together.
    last = np.flatnonzero(np.diff(falling, append=-np.inf))
    recall = np.append(0.0, matched[last] / true)
    precision = np.append(1.0, matched[last] / (last + 1))
    return float(np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2))
