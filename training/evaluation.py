# SPDX-License-Identifier: Apache-2.0
"""Scoring of a segmenter on frames with ground truth."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, ImageError, SettingError
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.metrics import UNCOUNTED, Scores, Target, mean_of, scored_classes
from segmentation_node.scoring import LabelComparison
from segmentation_node.segmenter import Segmenter
from training.bootstrap import MIN_FRAMES, Interval, interval_of, resampled_miou
from training.boundary import TOLERANCE, BoundaryCounts
from training.calibration import Calibration
from training.frame_counts import MAX_FRAMES, FrameCounts, PixelCounts
from training.inference_modes import WHOLE, InferenceMode
from training.labeled_frames import BagFrames, LabeledFrame, LabeledFrames

#: Number of worst frames kept for pictures.
WORST: Final = 8


@dataclass(frozen=True)
class ScoredFrame:
    """One frame with its scores; `target` and `labels` are (H, W), ids of the same scheme."""

    name: str
    image_rgb: UInt8Array
    target: Target
    labels: UInt8Array
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation.

    `model`, `data` and `mode` name the model, the frames and the inference mode; `runs_on` names
    runtime, device and precision. `counts` are those of each frame. `calibration` is None without
    recorded confidence. `worst` are the frames with the lowest mIoU, worst first.
    """

    model: str
    data: str
    mode: str
    runs_on: str
    frames: int
    scores: Scores
    counts: FrameCounts = field(repr=False)
    boundary: BoundaryCounts
    calibration: Calibration | None
    worst: tuple[ScoredFrame, ...] = field(repr=False)

    @cached_property
    def interval(self) -> Interval | None:
        """Return the confidence interval of mIoU; None for too few or too many frames."""
        if MIN_FRAMES <= self.frames <= MAX_FRAMES:
            return interval_of(resampled_miou(self.counts))
        return None

    def boundary_f(self) -> dict[str, float]:
        """Return the boundary F-score by class name."""
        return self.boundary.f_score(self.scores.scored)

    def figures(self) -> dict[str, float]:
        """Return all figures by name, for a class as "IoU/road"; undefined figures are omitted."""
        scores, boundary_f = self.scores, self.boundary_f()
        overall = {
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
        flat = {
            f'{kind}/{name}': value
            for kind, values in by_name.items()
            for name, value in values.items()
        }
        return {name: value for name, value in (overall | flat).items() if math.isfinite(value)}


def model_name(model: str) -> str:
    """Return a short name of a bundled model, a checkpoint folder or a hub id.

    A folder is named by its last part, the checkpoint of a run by the folder of the run.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    folder = folder.resolve()
    return folder.parent.name if folder.name == 'checkpoint' else folder.name


def evaluate(
    segmenter: Segmenter,
    frames: LabeledFrames,
    mode: InferenceMode = WHOLE,
    *,
    label_scheme: str | None = None,
    tolerance: float = TOLERANCE,
    worst: int = WORST,
    quiet: bool = True,
) -> Evaluation:
    """Score a segmenter on frames with ground truth.

    Args:
        segmenter: segmenter whose published labels and confidence are scored.
        frames: frames to score on.
        mode: inference mode.
        label_scheme: scheme to score in; None uses the segmenter's.
        tolerance: tolerated distance of boundaries, as a share of the image's diagonal.
        worst: number of worst frames to keep for pictures.
        quiet: hide the progress bar.

    Raises:
        DatasetError, BagError: a file or message is invalid, or there is nothing to score.
        SchemeError: the schemes cannot be compared; a coarser `label_scheme` may work.
    """

    def predict(frame: LabeledFrame) -> tuple[UInt8Array, UInt8Array | None]:
        prediction = mode.predict(segmenter, frame.image_rgb)
        return prediction.labels[0], prediction.confidence[0]

    scorer = _Scorer(frames.scheme, segmenter.scheme, label_scheme, tolerance, worst)
    _score_frames(frames, predict, scorer, quiet)
    box_hw = segmenter.input_size
    fitted = '' if box_hw is None else f', images fitted into {box_hw[0]} x {box_hw[1]}'
    runs_on = f'{segmenter.runtime}, {segmenter.device}, {segmenter.precision}'
    return scorer.evaluation(segmenter.checkpoint.name, frames, mode.name + fitted, runs_on)


def evaluate_recorded(
    frames: BagFrames,
    *,
    label_scheme: str | None = None,
    tolerance: float = TOLERANCE,
    worst: int = WORST,
    quiet: bool = True,
) -> Evaluation:
    """Score the label masks recorded in a bag; arguments and errors are those of `evaluate`.

    Raises:
        SettingError: the frames were opened without the topic of the label masks.
    """
    scheme = frames.recorded_scheme
    if scheme is None:
        raise SettingError(
            f'{frames.source} was opened without recorded label masks; give the topic of the masks'
        )

    def recorded(frame: LabeledFrame) -> tuple[UInt8Array, UInt8Array | None]:
        if frame.labels is None:
            raise AssertionError('label masks with a scheme are read with every frame')
        return frame.labels, frame.confidence

    scorer = _Scorer(frames.scheme, scheme, label_scheme, tolerance, worst)
    _score_frames(frames, recorded, scorer, quiet)
    return scorer.evaluation('recorded masks', frames, 'as recorded', 'as recorded')


def _score_frames(
    frames: LabeledFrames,
    predict: Callable[[LabeledFrame], tuple[UInt8Array, UInt8Array | None]],
    scorer: '_Scorer',
    quiet: bool,
) -> None:
    with tqdm(frames, 'evaluating', len(frames), unit='frame', disable=quiet or None) as progress:
        for frame in progress:
            name = f'frame {frame.name} of {frames.source}'
            try:
                ids, confidence = predict(frame)
            except ImageError as error:
                raise DatasetError(f'{name}: {error}') from error
            scorer.add(frame, ids, confidence, name)
            if not progress.disable:
                progress.set_postfix_str(f'mIoU {scorer.miou():.3f}', refresh=False)


def scored_lut(comparison: LabelComparison) -> Target:
    """Return a look-up table from truth ids to ids of the scored classes, (256,) int16.

    Everything else is UNCOUNTED: void truth is part of the figures "with void" only.
    """
    lut = comparison.truth_lut.copy()
    scored = [c.id for c in scored_classes(comparison.scheme)]
    lut[~np.isin(lut, scored)] = UNCOUNTED
    return lut


class _Scorer:
    """Accumulates counts frame by frame and keeps the worst frames."""

    def __init__(
        self,
        truth: LabelScheme,
        predicted: LabelScheme,
        label_scheme: str | None,
        tolerance: float,
        worst: int,
    ) -> None:
        given = None if label_scheme is None else load_scheme(label_scheme)
        self._comparison = LabelComparison(truth, predicted, given)
        self._scored_lut = scored_lut(self._comparison)
        self._boundary = BoundaryCounts(tolerance)
        self._calibration = Calibration()
        self._has_confidence = True
        self._names: list[str] = []
        self._counts: list[PixelCounts] = []
        self._keep = worst
        self._worst: list[tuple[float, int, ScoredFrame]] = []

    def add(
        self, frame: LabeledFrame, ids: UInt8Array, confidence: UInt8Array | None, name: str
    ) -> None:
        _, labels, confusion = self._comparison.add(frame.truth, ids, name)
        target = self._scored_lut[frame.truth]
        self._boundary.add(target, labels)
        if confidence is None:
            self._has_confidence = False
        else:
            self._calibration.add(target, labels, confidence)
        scores = confusion.scores(self._comparison.scheme)
        self._names.append(frame.name)
        self._counts.append(scores.class_counts())
        scored = ScoredFrame(
            frame.name, frame.image_rgb, target, labels, scores.miou(), scores.pixel_accuracy()
        )
        if self._keep and math.isfinite(scored.miou):
            # The frame number breaks ties, so that the heap never compares frames themselves.
            heapq.heappush(self._worst, (-scored.miou, -self._comparison.frames, scored))
            if len(self._worst) > self._keep:
                heapq.heappop(self._worst)

    def miou(self) -> float:
        return self._comparison.miou()

    def evaluation(self, model: str, frames: LabeledFrames, mode: str, runs_on: str) -> Evaluation:
        scores = self._comparison.scores(frames.source)
        counts = FrameCounts.of([c.name for c in scores.scored], self._names, self._counts)
        return Evaluation(
            model, frames.source, mode, runs_on, self._comparison.frames, scores, counts,
            self._boundary,
            self._calibration if self._has_confidence else None,
            tuple(frame for *_, frame in sorted(self._worst, key=lambda entry: entry[:2])[::-1]),
        )  # fmt: skip
