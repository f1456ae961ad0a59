# SPDX-License-Identifier: Apache-2.0
"""Scores of the published labels, computed in a thread of their own.

No frame waits for its scores. Signals that need no truth are measured for the newest frame of each
camera; a frame that is replaced before its turn is counted as skipped. Masks and truth of the same
stamp are all scored, or counted as dropped or rejected.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import MAX_MESSAGE, one_line, printable
from segmentation_node.images.rendering import mean_confidence
from segmentation_node.pipeline.consistency import TemporalConsistency
from segmentation_node.pipeline.frames import FRAME_ERRORS, SECOND_NS
from segmentation_node.pipeline.trend import Trend
from segmentation_node.pipeline.truth import (
    ScoredMask,
    ScoredModel,
    ScoredPair,
    TruthMatching,
    TruthScores,
)

#: Maximum number of frames in a report.
MAX_REPORTED: Final = 256
#: Figures that need no truth.
SIGNALS: Final = ('confidence', 'domain_distance', 'consistency')


@dataclass(frozen=True)
class PublishedFrame:
    """A published frame.

    `image_rgb` is (H, W, 3), `labels` and the result of `confidence` are (H, W), all uint8.
    `distance` and `max_distance` are None if the model has no distances.
    """

    camera: str
    stamp_ns: int
    image_rgb: UInt8Array
    labels: UInt8Array
    confidence: Callable[[], UInt8Array]
    model: ScoredModel
    distance: float | None = None
    max_distance: float | None = None


class _Signals:
    """Signals of the labels of one camera that need no truth."""

    def __init__(self, window_frames: int) -> None:
        self._window_frames = window_frames
        self._temporal = TemporalConsistency()
        self._model: ScoredModel | None = None
        self.max_distance: float | None = None
        self.series = self._empty_series()
        #: Frames since the last report.
        self.fresh: deque[dict[str, Any]] = deque(maxlen=MAX_REPORTED)

    def add(self, frame: PublishedFrame) -> None:
        """Measure a frame."""
        if frame.model != self._model:
            self._model, self.series = frame.model, self._empty_series()
        confidence = mean_confidence(frame.confidence())
        consistency = self._temporal.measure(frame.stamp_ns, frame.image_rgb, frame.labels)
        self.max_distance = frame.max_distance
        values = {
            'confidence': confidence,
            'domain_distance': frame.distance,
            'consistency': consistency,
        }
        for name, value in values.items():
            if value is not None:
                self.series[name].add(value)
        sec, nanosec = divmod(frame.stamp_ns, SECOND_NS)
        self.fresh.append({'stamp': {'sec': sec, 'nanosec': nanosec}, **values})

    def figures(self) -> dict[str, Any]:
        """Return newest value, mean and trend of each signal."""
        figures: dict[str, Any] = {name: one.summary() for name, one in self.series.items()}
        figures['domain_distance']['threshold'] = self.max_distance
        figures['consistency']['resets'] = self._temporal.resets
        return figures

    def _empty_series(self) -> dict[str, Trend]:
        return {name: Trend(self._window_frames) for name in SIGNALS}


class _CameraScores:
    """Inputs and results of one camera."""

    def __init__(self, window_frames: int, truth_topic: str) -> None:
        self.truth_topic = truth_topic
        # Guarded by the lock of the inputs.
        self.newest: PublishedFrame | None = None
        self.skipped = 0
        self.matching = TruthMatching()
        self.description = ''
        self.truth_problem = ''
        # Guarded by the lock of the results.
        self.model: ScoredModel | None = None
        self.signals = _Signals(window_frames)
        self.scores = TruthScores(window_frames)
        self.failed = 0
        self.failure = ''

    @property
    def has_work(self) -> bool:
        """True if a frame waits to be measured or scored."""
        return self.newest is not None or bool(self.matching.pairs and self.description)

    def take(self) -> '_Work':
        """Remove and return what waits longest."""
        frame, self.newest = self.newest, None
        pair = self.matching.take() if self.description else None
        return _Work(self, frame, pair, self.description)

    def measure(self, frame: PublishedFrame) -> None:
        """Measure what needs no truth, or count the frame as failed."""
        self.model = frame.model
        try:
            self.signals.add(frame)
            self.failure = ''
        except FRAME_ERRORS as error:
            self.failed += 1
            self.failure = f'{type(error).__name__} while a frame was measured: {one_line(error)}'

    def problem_of_truth(self) -> str:
        """Return why truth is not scored; empty if all is."""
        if self.matching.pairs and not self.description:
            return (
                f'the label scheme of the truth is unknown: no message on '
                f'{topics.label_info_beside(self.truth_topic)}; publish the JSON that '
                f'~/label_info_json has, latched, beside the truth'
            )
        return self.truth_problem


class _Work(NamedTuple):
    camera: _CameraScores
    frame: PublishedFrame | None
    pair: ScoredPair | None
    description: str


class LiveScores:
    """Scores of all cameras; every method may be called by any thread."""

    def __init__(
        self, window_frames: int, truth_topics: Mapping[str, str], wanted: Callable[[str], bool]
    ) -> None:
        """Prepare the thread; `start` starts it.

        Args:
            window_frames: number of frames in the window.
            truth_topics: full name of the topic of the truth of each camera; empty for none.
            wanted: returns whether the scores of a camera are wanted now; may raise ShutDown.
        """
        self.wanted = wanted
        self.window_frames = window_frames
        self.failure: BaseException | None = None
        self._cameras = {
            camera: _CameraScores(window_frames, topic) for camera, topic in truth_topics.items()
        }
        self._inputs = threading.Condition()
        self._results = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name='score', daemon=True)

    @property
    def truth_topics(self) -> dict[str, str]:
        """Full name of the topic of the truth of each camera; empty for none."""
        return {name: camera.truth_topic for name, camera in self._cameras.items()}

    def start(self) -> None:
        """Start to score frames."""
        self._thread.start()

    def stop(self, timeout_s: float = threading.TIMEOUT_MAX) -> bool:
        """End the thread; what waits is not scored. Return False on timeout."""
        with self._inputs:
            self._closed = True
            self._inputs.notify_all()
        self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    # Inputs

    def add(self, frame: PublishedFrame, measured: bool) -> None:
        """Add a published frame.

        Args:
            frame: its labels are matched with their truth, if the camera has a truth topic.
            measured: also measure what needs no truth.
        """
        camera = self._cameras[frame.camera]
        if not camera.truth_topic and not measured:
            return
        with self._inputs:
            if camera.truth_topic:
                camera.matching.add_mask(frame.stamp_ns, ScoredMask(frame.labels, frame.model))
            if measured:
                camera.skipped += camera.newest is not None
                camera.newest = frame
            self._inputs.notify_all()

    def add_truth(self, camera: str, stamp_ns: int, truth: UInt8Array) -> None:
        """Add the truth of a frame, label ids, (H, W) uint8."""
        with self._inputs:
            self._cameras[camera].matching.add_truth(stamp_ns, truth)
            self._inputs.notify_all()

    def refuse_truth(self, camera: str, reason: str) -> None:
        """Count truth that is no label image."""
        with self._inputs:
            self._cameras[camera].matching.truths_unreadable += 1
            self._cameras[camera].truth_problem = reason

    def add_lost_truth(self, camera: str, count: int) -> None:
        """Count truth that was lost in transport."""
        with self._inputs:
            self._cameras[camera].matching.truths_lost += count

    def describe_truth(self, camera: str, description: str) -> None:
        """Set the JSON description of the truth's label scheme."""
        with self._inputs:
            self._cameras[camera].description = description
            self._inputs.notify_all()

    # Thread

    def _run(self) -> None:
        try:
            while (work := self._take()) is not None:
                for each in work:
                    self._process(each)
        except BaseException as error:
            self.failure = error  # a bug of ours; the node reads it and ends with this reason
            raise

    def _take(self) -> list[_Work] | None:
        """Wait for work of any camera; None once closed."""
        with self._inputs:
            self._inputs.wait_for(lambda: self._closed or self._busy())
            if self._closed:
                return None
            return [camera.take() for camera in self._busy()]

    def _busy(self) -> list[_CameraScores]:
        return [camera for camera in self._cameras.values() if camera.has_work]

    def _process(self, work: _Work) -> None:
        with self._results:
            if work.frame is not None:
                work.camera.measure(work.frame)
            if work.pair is None:
                return
            work.camera.model = work.pair.mask.model
            problem = work.camera.scores.add(work.pair, work.description)
        with self._inputs:
            work.camera.truth_problem = problem

    # Results

    def take_report(self, camera: str) -> dict[str, Any]:
        """Return the scores of a camera and the frames since the last report, for JSON."""
        there = self._cameras[camera]
        report = self._figures(there)
        with self._results:
            report['frames'] = list(there.signals.fresh)
            there.signals.fresh.clear()
        return report

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return the scores of each camera, for JSON; NaN is None."""
        return {camera: self._figures(there) for camera, there in self._cameras.items()}

    def _figures(self, camera: _CameraScores) -> dict[str, Any]:
        with self._inputs:
            counts, skipped = camera.matching.counts(), camera.skipped
            problem = camera.problem_of_truth()
        with self._results:
            model, scores = camera.model, camera.scores
            figures: dict[str, Any] = {
                'model': model and model.name,
                'label_scheme': model and model.scheme.name,
                'window_frames': self.window_frames,
                **camera.signals.figures(),
                'skipped': skipped,
                'failed': camera.failed,
                'truth': None,
                'problem': printable(problem or camera.failure, MAX_MESSAGE),
            }
            if camera.truth_topic:
                counts |= {'scored': scores.scored, 'rejected': scores.rejected}
                figures['truth'] = {
                    'topic': camera.truth_topic,
                    'label_scheme': scores.truth_scheme,
                    'counts': counts,
                    **scores.figures(),
                }
        cleaned: dict[str, Any] = _without_nan(figures)
        return cleaned


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
