# SPDX-License-Identifier: Apache-2.0
"""Scores of a set of label images, which score_bag, score_images and training print alike."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import Confusion, LabelImage, Scores, Target, truth_lut_of


class ComparedFrame(NamedTuple):
    """One frame in the scheme that is scored in; `target` and `labels` are (H, W)."""

    target: Target
    labels: LabelImage
    confusion: Confusion


class Comparison:
    """Label images of one scheme, compared with truth of another scheme in a third.

    `scheme` is the one that is scored in. Truth that is not annotated (void that no network
    learns, such as CamVid's "unlabelled") does not count.

    Raises:
        SchemeError: the schemes cannot be compared; another one may be coarse enough.
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

    def add(self, truth: LabelImage, predicted: LabelImage, name: str) -> ComparedFrame:
        """Count one frame, two (H, W) uint8 label images.

        Raises:
            DatasetError: they differ in size, or have ids that their schemes lack; names the
                frame.
        """
        if truth.shape != predicted.shape:
            raise DatasetError(
                f'{name}: the label mask is {_wh(predicted)} but its truth {_wh(truth)}; they '
                f'must be of one size'
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
        """Mean IoU so far, NaN where nothing was counted."""
        return self.confusion.scores(self.scheme).miou()

    def scores(self, source: str) -> Scores:
        """Scores of all frames; raises DatasetError, naming the source, where nothing counts."""
        scores = self.confusion.scores(self.scheme)
        if math.isnan(scores.miou()):
            raise DatasetError(
                f'{source}: {self.frames} frames without a pixel whose truth is a scored class of '
                f'{self.scheme.name}; check the labels and their scheme'
            )
        return scores


def _wh(labels: LabelImage) -> str:
    height, width = labels.shape
    return f'{width} x {height}'


@dataclass(frozen=True)
class SetScores:
    """Scores of the frames that have both truth and prediction, and how many frames there are.

    `recorded_frames` of the scored ones were matched by the time at which they were recorded,
    since their header stamps repeat.
    """

    scores: Scores
    scored_frames: int
    truth_frames: int
    predicted_frames: int
    recorded_frames: int = 0


def table(result: SetScores) -> str:
    """Figures as text, in percent."""
    iou = result.scores.class_iou()
    width = max(map(len, (*iou, 'pixel accuracy')))
    rows = {**iou, 'mIoU': result.scores.miou(), 'pixel accuracy': result.scores.pixel_accuracy()}
    lines = [f'{name:{width}}  {100 * value:6.2f}' for name, value in rows.items()]
    frames = (
        f'{result.scored_frames} frames scored; {result.truth_frames} had truth, '
        f'{result.predicted_frames} a mask'
    )
    if result.recorded_frames:
        frames += (
            f'\n{result.recorded_frames} of them matched by the time at which they were recorded, '
            f'since their header stamps repeat'
        )
    return '\n'.join([f'IoU in % ({result.scores.scheme.name})', *lines, frames])
