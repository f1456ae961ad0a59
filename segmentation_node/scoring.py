# SPDX-License-Identifier: Apache-2.0
"""Comparison of label images with ground truth, shared by score_bag, score_images and training."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import Confusion, Scores, Target, truth_lut_of


class ComparedFrame(NamedTuple):
    """One frame in the scored scheme; `target` and `labels` are (H, W)."""

    target: Target
    labels: UInt8Array
    confusion: Confusion


class LabelComparison:
    """Comparison of label images with ground truth; each may have its own scheme.

    Both are converted to `scheme`, the scored scheme. Pixels that are not annotated (void that is
    not learned, for example CamVid's "unlabelled") do not count.

    Raises:
        SchemeError: the schemes cannot be compared in `scheme`; a coarser one may work.
    """

    def __init__(
        self, truth: LabelScheme, predicted: LabelScheme, scheme: LabelScheme | None = None
    ) -> None:
        self.scheme = predicted if scheme is None else scheme
        self.truth_lut = truth_lut_of(truth, self.scheme)
        self.confusion = Confusion()
        self.frames = 0
        self._predicted_lut = predicted.mapping_to(self.scheme)
        self._truth, self._predicted = truth, predicted

    def add(self, truth: UInt8Array, predicted: UInt8Array, name: str) -> ComparedFrame:
        """Count one frame, two (H, W) uint8 label images.

        Raises:
            DatasetError: they differ in size, or contain ids that their schemes lack; names the
                frame.
        """
        if truth.shape != predicted.shape:
            raise DatasetError(
                f'{name}: the label mask is {_wh(predicted)} but its truth is {_wh(truth)}; both '
                f'must have the same size'
            )
        try:
            self._truth.check_ids(truth)
            self._predicted.check_ids(predicted)
        except ImageError as error:
            raise DatasetError(f'{name}: {error}') from error
        frame = ComparedFrame(self.truth_lut[truth], self._predicted_lut[predicted], Confusion())
        frame.confusion.add_target(frame.target, frame.labels)
        self.confusion.counts += frame.confusion.counts
        self.frames += 1
        return frame

    def miou(self) -> float:
        """Return the mean IoU so far; NaN if no pixel was counted."""
        return self.confusion.scores(self.scheme).miou()

    def scores(self, source: str) -> Scores:
        """Return the scores of all frames; raises DatasetError if no pixel was counted."""
        scores = self.confusion.scores(self.scheme)
        if math.isnan(scores.miou()):
            raise DatasetError(
                f'{source}: {self.frames} frames without a pixel whose truth is a scored class of '
                f'{self.scheme.name}; check the labels and their scheme'
            )
        return scores


def _wh(labels: UInt8Array) -> str:
    height, width = labels.shape
    return f'{width} x {height}'


@dataclass(frozen=True)
class SetScores:
    """Scores of the frames that have both truth and prediction, and the numbers of frames.

    `recorded_frames` of the scored frames were matched by recording time, because their header
    stamps repeat.
    """

    scores: Scores
    scored_frames: int
    truth_frames: int
    predicted_frames: int
    recorded_frames: int = 0


def table(result: SetScores) -> str:
    """Format the scores as a text table, in percent."""
    iou = result.scores.class_iou()
    width = max(map(len, (*iou, 'pixel accuracy')))
    rows = {**iou, 'mIoU': result.scores.miou(), 'pixel accuracy': result.scores.pixel_accuracy()}
    lines = [f'{name:{width}}  {100 * value:6.2f}' for name, value in rows.items()]
    frames = (
        f'{result.scored_frames} frames scored; {result.truth_frames} had truth, '
        f'{result.predicted_frames} had a mask'
    )
    if result.recorded_frames:
        frames += (
            f'\n{result.recorded_frames} of them were matched by recording time, because their '
            f'header stamps repeat'
        )
    return '\n'.join([f'IoU in % ({result.scores.scheme.name})', *lines, frames])
