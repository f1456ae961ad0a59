# SPDX-License-Identifier: Apache-2.0
"""Health of a node as diagnostic_msgs/DiagnosticStatus."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from segmentation_node.errors import printable
from segmentation_node.pipeline.domain import DomainCount
from segmentation_node.pipeline.frames import Accounts
from segmentation_node.pipeline.live_scores import SIGNALS
from segmentation_node.pipeline.timings import StageTimings
from segmentation_node.pipeline.worker import Worker
from segmentation_node.ros.lost_frames import RECENT_S, Losses
from segmentation_node.ros.transport import reliable_camera_commands
from segmentation_node.runtimes.activity import activities

#: After this time without a frame, the status is a warning.
SILENCE_S = 5.0
#: After this time without a mask, although frames arrive and masks are subscribed, it is an error.
STALLED_S = 10.0
#: Value for a model that cannot tell images that it knows from others.
NOT_AVAILABLE = 'not available'
#: Kinds of warnings that last: frames lost in transport, other nodes that publish on the same
#: topics, and subscribed outputs that the model does not have.
WARNINGS = ('losses', 'rivals', 'outputs')
#: Maximum length of a value: error messages quote content of any length.
_MAX_CHARS = 2000


#: Level and message of a status.
Verdict: TypeAlias = tuple[bytes, str]


@dataclass
class SupervisedHealth:
    """State of a node that its diagnostics report, independent of its task."""

    accounts: Accounts = field(default_factory=Accounts)
    losses: Losses = field(default_factory=Losses)
    #: Present warnings by kind, the most urgent first; empty where there is none.
    warnings: dict[str, str] = field(default_factory=lambda: dict.fromkeys(WARNINGS, ''))
    #: Remedy for frames lost in transport; empty while losses are tolerated.
    remedy: str = ''
    last_error: str = ''
    #: Reason of the last failed transition, until one succeeds.
    refusal: str = ''
    active_since_s: float = 0.0
    last_arrival_s: float = -math.inf
    #: Malformed and failed frames at the last status.
    faulty_frames: int = 0

    def note_refusal(self, reason: str) -> None:
        """Record the reason of a failed transition."""
        self.last_error = self.refusal = reason

    def add_lost(self, topic: str, count: int) -> None:
        """Count frames of a camera that were lost in transport."""
        self.accounts.add_lost(count)
        self.losses.add(topic, count)

    def update_losses(self, counts: Mapping[str, int], remedy_of: Callable[[str], str]) -> None:
        """Bring the warning about recent losses up to date."""
        arrived = counts['received'] + counts['in_flight']
        recent = self.losses.recent(time.monotonic(), arrived)
        self.warnings['losses'] = self.remedy = ''
        if recent.excessive:
            self.warnings['losses'] = (
                f'{recent.lost} of {recent.sent} frames sent in {RECENT_S:.0f} s were lost in '
                f'transport, most of them on {recent.topic}; see remedy'
            )
            self.remedy = remedy_of(recent.topic)

    def fresh_faults(self, counts: Mapping[str, int]) -> int:
        """Return the number of malformed and failed frames since the last call."""
        faulty = counts['malformed'] + counts['failed']
        fresh, self.faulty_frames = faulty - self.faulty_frames, faulty
        return fresh

    def inactivity(self, state: str) -> Verdict | None:
        """Return the verdict on a node that is not active; None if it is."""
        if state in ('unconfigured', 'inactive') and self.refusal:
            return DiagnosticStatus.ERROR, f'{state}: {self.refusal}'
        if state in ('unconfigured', 'inactive'):
            return DiagnosticStatus.WARN, f'{state}: waiting for activation'
        if state != 'active':
            return DiagnosticStatus.WARN, ', '.join(activities()) or f'{state} ...'
        return None

    def trouble(self, fresh: int, silence: str) -> Verdict | None:
        """Return the verdict on faulty or missing input and on warnings; None if all is well.

        Args:
            fresh: number of faulty frames since the last status.
            silence: message after SILENCE_S without input.
        """
        if fresh:
            return DiagnosticStatus.WARN, f'{fresh} frames malformed or failed: {self.last_error}'
        if warning := next(filter(None, self.warnings.values()), ''):
            return DiagnosticStatus.WARN, warning
        now_s = time.monotonic()
        if now_s - max(self.last_arrival_s, self.active_since_s) > SILENCE_S:
            return DiagnosticStatus.WARN, silence
        return None

    def message(
        self, name: str, verdict: Verdict, values: Mapping[str, object]
    ) -> DiagnosticStatus:
        """Return a status with a verdict and values, to which the last error is added."""
        level, text = verdict
        values = {**values, 'last_error': self.last_error, 'remedy': self.remedy}
        return DiagnosticStatus(
            level=level,
            name=name,
            message=printable(text, _MAX_CHARS),
            hardware_id='',
            values=[
                KeyValue(key=key, value=printable(str(value), _MAX_CHARS))
                for key, value in values.items()
            ],
        )


@dataclass
class NodeHealth(SupervisedHealth):
    """State of the segmentation node; kept when a model is replaced."""

    last_wanted_s: float = -math.inf
    #: Arrival of the first wanted frame since the last mask.
    waiting_since_s: float = math.inf
    #: Count of the frames out of domain at the last status.
    last_domain: DomainCount = field(default_factory=DomainCount)

    def note_wanted(self, now_s: float, published_s: float) -> None:
        """Record the arrival of a wanted frame and the time of the last published mask."""
        if published_s >= self.waiting_since_s or self.waiting_since_s == math.inf:
            self.waiting_since_s = now_s
        self.last_wanted_s = now_s

    def status(
        self,
        name: str,
        state: str,
        worker: Worker | None,
        remedy_of: Callable[[str], str] = reliable_camera_commands,
    ) -> DiagnosticStatus:
        """Return the present status; problems since the last call make it a warning.

        Args:
            name: name of the node.
            state: lifecycle state of the node.
            worker: None if no model is loaded.
            remedy_of: returns the remedy for losses on a topic.
        """
        counts = self.accounts.snapshot()
        self.update_losses(counts, remedy_of)
        scores = {} if worker is None or worker.scores is None else worker.scores.figures()
        verdict = self._verdict(state, counts, worker)
        if verdict[0] == DiagnosticStatus.OK and (problem := _score_problem(scores)):
            verdict = DiagnosticStatus.WARN, problem
        values: dict[str, object] = {'state': state, **counts}
        if worker is not None:
            values |= _model_values(worker) | _domain_values(worker.domain)
            values |= timing_values(worker.timings)
        for camera, figures in scores.items():
            values |= _score_values(f'{camera}/' if camera else '', figures)
        values |= {'doing': ', '.join(activities())}
        return self.message(name, verdict, values)

    def _verdict(self, state: str, counts: Mapping[str, int], worker: Worker | None) -> Verdict:
        fresh = self.fresh_faults(counts)
        stranger = self._domain_warning(worker)
        if inactivity := self.inactivity(state):
            return inactivity
        if stalled_s := self._stalled_s(worker):
            if busy := ', '.join(activities()):
                return DiagnosticStatus.WARN, f'no mask for {stalled_s:.0f} s: {busy}'
            return DiagnosticStatus.ERROR, (
                f'no mask for {stalled_s:.0f} s, although images arrive and masks are subscribed'
                + (f': {self.last_error}' if fresh else '')
            )
        if trouble := self.trouble(fresh, f'no image for {SILENCE_S:.0f} s'):
            return trouble
        if stranger:
            return DiagnosticStatus.WARN, stranger
        return DiagnosticStatus.OK, 'segmenting'

    def _domain_warning(self, worker: Worker | None) -> str:
        """Return a warning if most frames since the last status are out of domain."""
        now, last = DomainCount() if worker is None else worker.domain, self.last_domain
        self.last_domain = now
        if now.frames < last.frames:  # another model
            last = DomainCount()
        frames, outside = now.frames - last.frames, now.out_of_domain - last.out_of_domain
        if 2 * outside <= frames or now.max_distance is None:
            return ''
        return (
            f'{outside} of {frames} frames out of domain: the model knows no such images, so that '
            f'its labels may be wrong (distance {now.distance:.3g}, threshold '
            f'{now.max_distance:.3g})'
        )

    def _stalled_s(self, worker: Worker | None) -> float:
        """Return the time without an expected mask; 0 if masks arrive or none is expected."""
        now_s = time.monotonic()
        waited_s = now_s - self.waiting_since_s
        if worker is None or waited_s < STALLED_S or now_s - self.last_wanted_s > SILENCE_S:
            return 0.0
        return 0.0 if worker.published_s >= self.waiting_since_s else waited_s


def _model_values(worker: Worker) -> dict[str, object]:
    segmenter = worker.segmenter
    return {
        'model': segmenter.checkpoint.name,
        'family': segmenter.checkpoint.spec.family,
        'label_scheme': segmenter.scheme.name,
        'task': segmenter.checkpoint.task,
        'runtime': segmenter.runtime,
        'device': segmenter.device,
        'precision': segmenter.precision,
    }


def _domain_values(domain: DomainCount) -> dict[str, object]:
    if domain.max_distance is None:
        names = ('out_of_domain', 'out_of_domain_share', 'domain_distance', 'domain_threshold')
        return dict.fromkeys(names, NOT_AVAILABLE)
    return {
        'out_of_domain': domain.out_of_domain,
        'out_of_domain_share': f'{domain.out_of_domain / domain.frames:.3f}',
        'domain_distance': f'{domain.distance:.3f}',
        'domain_threshold': f'{domain.max_distance:.3f}',
    }


def timing_values(timings: StageTimings) -> dict[str, str]:
    """Return rates and percentiles of durations, without those that are not measured yet."""
    now_s = time.monotonic()
    values = {
        'in_rate_hz': f'{timings.arrivals.rate_hz(now_s):.1f}',
        'out_rate_hz': f'{timings.publications.rate_hz(now_s):.1f}',
    }
    if not math.isnan(batch := timings.batch.percentiles(50)[0]):
        values['batch_p50'] = f'{batch:.0f}'
    series = {'latency': timings.latency, **timings.stages}
    for name, window in series.items():
        p50, p99 = window.percentiles(50, 99)
        if math.isnan(p50):
            continue  # not measured yet
        values |= {f'{name}_p50_ms': f'{p50:.1f}', f'{name}_p99_ms': f'{p99:.1f}'}
    return values


def _score_problem(scores: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the first problem of the scores of any camera."""
    problems = (figures['problem'] for figures in scores.values())
    return next((f'not scored: {problem}' for problem in problems if problem), '')


def _score_values(prefix: str, figures: Mapping[str, Any]) -> dict[str, object]:
    """Return the figures that exist, flat; a prefix names the camera."""
    values: dict[str, object] = {}
    for signal in SIGNALS:
        if figures[signal]['frames']:
            values |= {f'{signal}_{key}': figures[signal][key] for key in ('mean', 'trend')}
    if (truth := figures['truth']) is not None:
        values |= {f'score_{name}': count for name, count in truth['counts'].items()}
        for span in ('window', 'total'):
            if truth[span] is not None:
                values |= _span_values(f'score_{span}', truth[span])
    return {f'{prefix}{key}': _short(value) for key, value in values.items()}


def _span_values(name: str, span: Mapping[str, Any]) -> dict[str, object]:
    figures = {key: span[key] for key in ('frames', 'miou', 'pixel_accuracy')}
    figures |= {f'iou_{label}': iou for label, iou in span['class_iou'].items()}
    return {f'{name}_{key}': value for key, value in figures.items()}


def _short(value: object) -> object:
    if value is None:
        return NOT_AVAILABLE
    return f'{value:.4f}' if isinstance(value, float) else value
