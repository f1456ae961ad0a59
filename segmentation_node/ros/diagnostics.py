# SPDX-License-Identifier: Apache-2.0
"""Health of the node as diagnostic_msgs/DiagnosticStatus."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from segmentation_node.errors import printable
from segmentation_node.pipeline.domain import DomainCount
from segmentation_node.pipeline.frames import Accounts
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
#: Maximum length of a value: error messages quote content of any length.
_MAX_CHARS = 2000


@dataclass
class NodeHealth:
    """State of the node that its diagnostics report; kept when a model is replaced."""

    accounts: Accounts = field(default_factory=Accounts)
    losses: Losses = field(default_factory=Losses)
    #: Warning about frames lost in transport; empty while losses are tolerated.
    loss_warning: str = ''
    #: Remedy for these losses.
    remedy: str = ''
    #: Warning about other nodes that publish on the same topics.
    rival_warning: str = ''
    #: Warning about subscribed outputs that the model does not have.
    instances_warning: str = ''
    last_error: str = ''
    #: Reason of the last failed transition, until one succeeds.
    refusal: str = ''
    active_since_s: float = 0.0
    last_arrival_s: float = -math.inf
    last_wanted_s: float = -math.inf
    #: Arrival of the first wanted frame since the last mask.
    waiting_since_s: float = math.inf
    #: Malformed and failed frames at the last status.
    faulty_frames: int = 0
    #: Count of the frames out of domain at the last status.
    last_domain: DomainCount = field(default_factory=DomainCount)

    def note_refusal(self, reason: str) -> None:
        """Record the reason of a failed transition."""
        self.last_error = self.refusal = reason

    def note_wanted(self, now_s: float, published_s: float) -> None:
        """Record the arrival of a wanted frame and the time of the last published mask."""
        if published_s >= self.waiting_since_s or self.waiting_since_s == math.inf:
            self.waiting_since_s = now_s
        self.last_wanted_s = now_s

    def add_lost(self, topic: str, count: int) -> None:
        """Count frames of a camera that were lost in transport."""
        self.accounts.add_lost(count)
        self.losses.add(topic, count)

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
        self._update_losses(counts, remedy_of)
        level, message = self._verdict(state, counts, worker)
        values = {'state': state, **counts}
        if worker is not None:
            values |= _model_values(worker) | _domain_values(worker.domain)
            values |= _timing_values(worker.timings)
        values |= {'doing': ', '.join(activities())}
        values |= {'last_error': self.last_error, 'remedy': self.remedy}
        return DiagnosticStatus(
            level=level,
            name=name,
            message=printable(message, _MAX_CHARS),
            hardware_id='',
            values=[
                KeyValue(key=key, value=printable(str(value), _MAX_CHARS))
                for key, value in values.items()
            ],
        )

    def _update_losses(self, counts: dict[str, int], remedy_of: Callable[[str], str]) -> None:
        arrived = counts['received'] + counts['in_flight']
        recent = self.losses.recent(time.monotonic(), arrived)
        self.loss_warning = self.remedy = ''
        if recent.excessive:
            self.loss_warning = (
                f'{recent.lost} of {recent.sent} frames sent in {RECENT_S:.0f} s were lost in '
                f'transport, most of them on {recent.topic}; see remedy'
            )
            self.remedy = remedy_of(recent.topic)

    def _verdict(
        self, state: str, counts: dict[str, int], worker: Worker | None
    ) -> tuple[bytes, str]:
        faulty = counts['malformed'] + counts['failed']
        fresh, self.faulty_frames = faulty - self.faulty_frames, faulty
        stranger = self._domain_warning(worker)
        if state in ('unconfigured', 'inactive') and self.refusal:
            return DiagnosticStatus.ERROR, f'{state}: {self.refusal}'
        if state in ('unconfigured', 'inactive'):
            return DiagnosticStatus.WARN, f'{state}: waiting for activation'
        if state != 'active':
            return DiagnosticStatus.WARN, ', '.join(activities()) or f'{state} ...'
        if stalled_s := self._stalled_s(worker):
            if busy := ', '.join(activities()):
                return DiagnosticStatus.WARN, f'no mask for {stalled_s:.0f} s: {busy}'
            return DiagnosticStatus.ERROR, (
                f'no mask for {stalled_s:.0f} s, although images arrive and masks are subscribed'
                + (f': {self.last_error}' if fresh else '')
            )
        if fresh:
            return DiagnosticStatus.WARN, f'{fresh} frames malformed or failed: {self.last_error}'
        if self.loss_warning:
            return DiagnosticStatus.WARN, self.loss_warning
        if self.rival_warning:
            return DiagnosticStatus.WARN, self.rival_warning
        if self.instances_warning:
            return DiagnosticStatus.WARN, self.instances_warning
        now_s = time.monotonic()
        if now_s - max(self.last_arrival_s, self.active_since_s) > SILENCE_S:
            return DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s'
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


def _timing_values(timings: StageTimings) -> dict[str, str]:
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
