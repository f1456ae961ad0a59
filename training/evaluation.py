# SPDX-License-Identifier: Apache-2.0
"""Scoring of a segmenter on frames with ground truth."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, ImageError, SettingError
from segmentation_node.instances import PANOPTIC, SEMANTIC, Instances
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.metrics import UNCOUNTED, Scores, Target, mean_of, scored_classes
from segmentation_node.scoring import LabelComparison
from segmentation_node.segmenter import Segmenter
from training.average_precision import InstanceCounts
from training.bootstrap import MIN_FRAMES, Interval, interval_of, resampled_miou
from training.boundary import TOLERANCE, BoundaryCounts
from training.calibration import Calibration
from training.frame_counts import MAX_FRAMES, FrameCounts, PixelCounts
from training.inference_modes import WHOLE, InferenceMode
from training.labeled_frames import BagFrames, LabeledFrame, LabeledFrames
from training.panoptic_quality import PanopticCounts, SegmentQuality

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
    recorded confidence. `worst` are the frames with the lowest mIoU, worst first. `segments` are
    those of a panoptic model, and `objects` those of a model with instances, if the truth has
    instances; None otherwise.
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
    segments: PanopticCounts | None = field(default=None, repr=False)
    objects: InstanceCounts | None = field(default=None, repr=False)

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
        if self.segments is not None:
            overall |= self.segments.figures()
            qualities = self.segments.by_class()
            for kind in SegmentQuality._fields:
                values = {name: getattr(quality, kind) for name, quality in qualities.items()}
                by_name[kind.upper()] = values
        if self.objects is not None:
            overall |= {'AP': self.objects.ap(), 'AP50': self.objects.ap50()}
            by_name |= {'AP': self.objects.class_ap(), 'AP50': self.objects.class_ap50()}
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

    def predict(frame: LabeledFrame) -> _Predicted:
        prediction = mode.predict(segmenter, frame.image_rgb)
        instances = prediction.instances_of(0)
        return _Predicted(prediction.labels[0], prediction.confidence[0], instances)

    scorer = _Scorer(frames.scheme, segmenter.scheme, label_scheme, tolerance, worst)
    task = segmenter.checkpoint.task
    if task == PANOPTIC:
        scorer.count_segments(things=frames.has_instances)
    if task != SEMANTIC and frames.has_instances:
        scorer.count_objects()
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

    def recorded(frame: LabeledFrame) -> _Predicted:
        if frame.labels is None:
            raise AssertionError('label masks with a scheme are read with every frame')
        return _Predicted(frame.labels, frame.confidence)

    scorer = _Scorer(frames.scheme, scheme, label_scheme, tolerance, worst)
    _score_frames(frames, recorded, scorer, quiet)
    return scorer.evaluation('recorded masks', frames, 'as recorded', 'as recorded')


class _Predicted(NamedTuple):
    """Prediction for one frame: label ids and confidence, (H, W) uint8, and instances."""

    labels: UInt8Array
    confidence: UInt8Array | None
    instances: Instances | None = None


def _score_frames(
    frames: LabeledFrames,
    predict: Callable[[LabeledFrame], _Predicted],
    scorer: '_Scorer',
    quiet: bool,
) -> None:
    with tqdm(frames, 'evaluating', len(frames), unit='frame', disable=quiet or None) as progress:
        for frame in progress:
            name = f'frame {frame.name} of {frames.source}'
            try:
                predicted = predict(frame)
            except ImageError as error:
                raise DatasetError(f'{name}: {error}') from error
            scorer.add(frame, predicted, name)
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
        self._segments: PanopticCounts | None = None
        self._objects: InstanceCounts | None = None
        self._instance_lut = predicted.mapping_to(self._comparison.scheme)
        self._keep = worst
        self._worst: list[tuple[float, int, ScoredFrame]] = []

    def count_segments(self, *, things: bool) -> None:
        self._segments = PanopticCounts(self._comparison.scheme, things)

    def count_objects(self) -> None:
        self._objects = InstanceCounts(self._comparison.scheme)

    def add(self, frame: LabeledFrame, predicted: _Predicted, name: str) -> None:
        _, labels, confusion = self._comparison.add(frame.truth, predicted.labels, name)
        target = self._scored_lut[frame.truth]
        self._boundary.add(target, labels)
        if predicted.confidence is None:
            self._has_confidence = False
        else:
            self._calibration.add(target, labels, predicted.confidence)
        if predicted.instances is not None:
            found = predicted.instances.published(self._instance_lut, None)
            true = frame.instances
            if true is None:
                true = np.zeros_like(found.ids)
            if self._segments is not None:
                self._segments.add(target, true, labels, found.ids)
            if self._objects is not None:
                self._objects.add(target, true, found)
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
            self._segments, self._objects,
        )  # fmt: skip
