# SPDX-License-Identifier: Apache-2.0
"""Scores of a segmenter, as the robot runs it, on frames with truth."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from tqdm import tqdm

from segmentation_node.errors import DatasetError, ImageError, SettingError
from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.metrics import (
    UNCOUNTED,
    LabelImage,
    Scores,
    Target,
    mean_of,
    scored_classes,
)
from segmentation_node.scoring import Comparison
from segmentation_node.segmenter import Segmenter
from training.boundary import TOLERANCE, BoundaryCounts
from training.calibration import Calibration
from training.inference_modes import WHOLE, InferenceMode
from training.labelled_frames import BagFrames, Frame, Frames

#: Frames that are kept for pictures.
WORST: Final = 8


@dataclass(frozen=True)
class JudgedFrame:
    """One frame with its own scores; `target` and `labels` are (H, W), ids of one scheme."""

    name: str
    image_rgb: ImageRgb
    target: Target
    labels: LabelImage
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """What came out; `calibration` is None where no confidence was recorded.

    `model`, `data` and `mode` say what was evaluated on what and how, `runs_on` on which runtime,
    device and precision; `worst` are the frames of least mIoU, the worst first.
    """

    model: str
    data: str
    mode: str
    runs_on: str
    frames: int
    scores: Scores
    boundary: BoundaryCounts
    calibration: Calibration | None
    worst: tuple[JudgedFrame, ...] = field(repr=False)

    def boundary_f(self) -> dict[str, float]:
        """Boundary F-score by class name."""
        return self.boundary.f_score(self.scores.scored)

    def figures(self) -> dict[str, float]:
        """All figures by name, "IoU/road" those of a class; what does not occur is left out."""
        scores, boundary_f = self.scores, self.boundary_f()
        single = {
            'mIoU': scores.miou(),
            'mIoU_with_void': scores.miou_with_void(),
            'category_mIoU': scores.category_miou(),
            'category_mIoU_with_void': scores.category_miou_with_void(),
            'Dice': scores.mean_dice(),
            'pixel_acc': scores.pixel_accuracy(),
            'boundary_F': mean_of(boundary_f),
            'ECE': math.nan if self.calibration is None else self.calibration.ece(),
        }
        by_name = {
            'IoU': scores.class_iou(),
            'Dice': scores.class_dice(),
            'boundary_F': boundary_f,
            'category_IoU': scores.category_iou(),
            'category_IoU_with_void': scores.category_iou_with_void(),
        }
        flat = {f'{kind}/{name}': v for kind, of in by_name.items() for name, v in of.items()}
        return {name: v for name, v in (single | flat).items() if math.isfinite(v)}


def evaluate(
    segmenter: Segmenter,
    frames: Frames,
    mode: InferenceMode = WHOLE,
    *,
    label_scheme: str | None = None,
    tolerance: float = TOLERANCE,
    worst: int = WORST,
    quiet: bool = True,
) -> Evaluation:
    """Score what a segmenter finds in frames with truth.

    Args:
        segmenter: what is scored, as it publishes.
        frames: what it is scored on.
        mode: how it looks at an image.
        label_scheme: scheme to score in; that of the segmenter where None.
        tolerance: of boundaries, as a share of the image's diagonal.
        worst: number of frames to keep for pictures.
        quiet: show no progress bar.

    Raises:
        DatasetError, BagError: a file or message is bad, or there is nothing to score; named.
        SchemeError: the schemes cannot be compared; another `label_scheme` may be coarse enough.
    """

    def found(frame: Frame) -> tuple[LabelImage, LabelImage | None]:
        prediction = mode.predict(segmenter, frame.image_rgb)
        return prediction.labels[0], prediction.confidence[0]

    judge = _Judge(frames.scheme, segmenter.scheme, label_scheme, tolerance, worst)
    _go_through(frames, found, judge, quiet)
    box_hw = segmenter.input_size
    fitted = '' if box_hw is None else f', images fitted into {box_hw[0]} x {box_hw[1]}'
    runs_on = f'{segmenter.runtime}, {segmenter.device}, {segmenter.precision}'
    return judge.evaluation(segmenter.checkpoint.name, frames, mode.name + fitted, runs_on)


def evaluate_recorded(
    frames: BagFrames,
    *,
    label_scheme: str | None = None,
    tolerance: float = TOLERANCE,
    worst: int = WORST,
    quiet: bool = True,
) -> Evaluation:
    """Score the label masks that were recorded in a bag; otherwise as `evaluate`.

    Raises:
        SettingError: the frames come without label masks.
    """
    scheme = frames.recorded_scheme
    if scheme is None:
        raise SettingError(f'no label masks were asked for of {frames.source}; name their topic')

    def found(frame: Frame) -> tuple[LabelImage, LabelImage | None]:
        if frame.labels is None:
            raise AssertionError('a bag whose label masks have a scheme has label masks')
        return frame.labels, frame.confidence

    judge = _Judge(frames.scheme, scheme, label_scheme, tolerance, worst)
    _go_through(frames, found, judge, quiet)
    return judge.evaluation('recorded masks', frames, 'as recorded', 'as recorded')


def _go_through(
    frames: Frames,
    found: Callable[[Frame], tuple[LabelImage, LabelImage | None]],
    judge: '_Judge',
    quiet: bool,
) -> None:
    with tqdm(frames, 'evaluating', len(frames), unit='frame', disable=quiet or None) as progress:
        for frame in progress:
            try:
                judge.add(frame, *found(frame))
            except ImageError as error:
                raise DatasetError(f'frame {frame.name} of {frames.source}: {error}') from error
            if not progress.disable:
                progress.set_postfix_str(f'mIoU {judge.miou():.3f}', refresh=False)


class _Judge:
    """Counts frame by frame, and keeps the worst ones."""

    def __init__(
        self,
        truth: LabelScheme,
        predicted: LabelScheme,
        label_scheme: str | None,
        tolerance: float,
        worst: int,
    ) -> None:
        given = None if label_scheme is None else load_scheme(label_scheme)
        self._comparison = Comparison(truth, predicted, given)
        #: Truth that is void counts in the figures with void only.
        self._scored_lut = self._comparison.truth_lut.copy()
        scored = [c.id for c in scored_classes(self._comparison.scheme)]
        self._scored_lut[~np.isin(self._scored_lut, scored)] = UNCOUNTED
        self._boundary = BoundaryCounts(tolerance)
        self._calibration = Calibration()
        self._has_confidence = True
        self._keep = worst
        self._worst: list[tuple[float, int, JudgedFrame]] = []

    def add(self, frame: Frame, ids: LabelImage, confidence: LabelImage | None) -> None:
        _, labels, confusion = self._comparison.add(frame.truth, ids)
        target = self._scored_lut[frame.truth]
        self._boundary.add(target, labels)
        if confidence is None:
            self._has_confidence = False
        else:
            self._calibration.add(target, labels, confidence)
        scores = confusion.scores(self._comparison.scheme)
        judged = JudgedFrame(
            frame.name, frame.image_rgb, target, labels, scores.miou(), scores.pixel_accuracy()
        )
        if self._keep and math.isfinite(judged.miou):
            # The number of the frame decides between equal ones, and keeps frames uncompared.
            heapq.heappush(self._worst, (-judged.miou, -self._comparison.frames, judged))
            if len(self._worst) > self._keep:
                heapq.heappop(self._worst)

    def miou(self) -> float:
        return self._comparison.miou()

    def evaluation(self, model: str, frames: Frames, mode: str, runs_on: str) -> Evaluation:
        scores = self._comparison.scores(frames.source)
        return Evaluation(
            model, frames.source, mode, runs_on, self._comparison.frames, scores, self._boundary,
            self._calibration if self._has_confidence else None,
            tuple(judged for *_, judged in sorted(self._worst, key=lambda kept: kept[:2])[::-1]),
        )  # fmt: skip
