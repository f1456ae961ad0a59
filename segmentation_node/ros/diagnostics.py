# SPDX-License-Identifier: Apache-2.0
"""The node's state as diagnostic_msgs/DiagnosticStatus."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from segmentation_node.errors import printable
from segmentation_node.pipeline.frames import Accounts
from segmentation_node.pipeline.worker import Timings, Worker
from segmentation_node.ros.losses import RECENT_S, Losses
from segmentation_node.ros.transport import reliable_camera
from segmentation_node.runtimes.activity import activities

#: Without a frame for this long the stream counts as silent.
SILENCE_S = 5.0
#: Without a mask for this long, although frames come and somebody listens, something is wrong.
STALLED_S = 10.0
#: Characters of a value; what goes wrong quotes what others sent.
_MOST = 2000


@dataclass
class Health:
    """What the status tells beyond counts; survives the swap of a model."""

    accounts: Accounts = field(default_factory=Accounts)
    losses: Losses = field(default_factory=Losses)
    #: Complaint about frames that are lost in transport; empty while few are.
    losing: str = ''
    #: What ends that; empty as well.
    remedy: str = ''
    #: Complaint about others that publish on the same topics.
    rivalry: str = ''
    last_error: str = ''
    refused: str = ''
    active_since_s: float = 0.0
    last_arrival_s: float = -math.inf
    last_wanted_s: float = -math.inf
    #: Since when no mask followed upon a frame that was wanted.
    waiting_since_s: float = math.inf
    troubled_frames: int = 0

    def refuse(self, reason: str) -> None:
        """Keep why a transition failed, until one succeeds."""
        self.last_error = self.refused = reason

    def expect(self, now_s: float, published_s: float) -> None:
        """Take note of a frame whose mask somebody wants, and of when the last was published."""
        if published_s >= self.waiting_since_s or self.waiting_since_s == math.inf:
            self.waiting_since_s = now_s
        self.last_wanted_s = now_s

    def lose(self, topic: str, count: int) -> None:
        """Count frames that were lost on their way from a camera."""
        self.accounts.lose(count)
        self.losses.add(topic, count)

    def status(
        self,
        name: str,
        state: str,
        worker: Worker | None,
        remedy_of: Callable[[str], str] = reliable_camera,
    ) -> DiagnosticStatus:
        """The status now; problems since the last call make it a warning.

        Args:
            name: of the node.
            state: in its life cycle.
            worker: what segments, None where no model is loaded.
            remedy_of: gives the remedy for a topic whose frames are lost.
        """
        counts = self.accounts.snapshot()
        self._judge_losses(counts, remedy_of)
        level, message = self._verdict(state, counts, worker)
        values = {'state': state, **counts}
        if worker is not None:
            values |= _model_values(worker) | _timing_values(worker.timings)
        values |= {'doing': ', '.join(activities())}
        values |= {'last_error': self.last_error, 'remedy': self.remedy}
        return DiagnosticStatus(
            level=level,
            name=name,
            message=printable(message, _MOST),
            hardware_id='',
            values=[KeyValue(key=k, value=printable(str(v), _MOST)) for k, v in values.items()],
        )

    def _judge_losses(self, counts: dict[str, int], remedy_of: Callable[[str], str]) -> None:
        arrived = counts['received'] + counts['in_flight']
        recent = self.losses.recent(time.monotonic(), arrived)
        self.losing = self.remedy = ''
        if recent.excessive:
            self.losing = (
                f'{recent.lost} of {recent.sent} frames sent in {RECENT_S:.0f} s were lost in '
                f'transport, most of them on {recent.topic}; see remedy'
            )
            self.remedy = remedy_of(recent.topic)

    def _verdict(
        self, state: str, counts: dict[str, int], worker: Worker | None
    ) -> tuple[bytes, str]:
        troubled = counts['malformed'] + counts['failed']
        fresh, self.troubled_frames = troubled - self.troubled_frames, troubled
        if state in ('unconfigured', 'inactive') and self.refused:
            return DiagnosticStatus.ERROR, f'{state}: {self.refused}'
        if state in ('unconfigured', 'inactive'):
            return DiagnosticStatus.WARN, f'{state}: waits to be activated'
        if state != 'active':
            return DiagnosticStatus.WARN, ', '.join(activities()) or f'{state} ...'
        if stalled_s := self._stalled_s(worker):
            if busy := ', '.join(activities()):
                return DiagnosticStatus.WARN, f'no mask for {stalled_s:.0f} s: {busy}'
            return DiagnosticStatus.ERROR, (
                f'no mask for {stalled_s:.0f} s, although images come and somebody listens'
                + (f': {self.last_error}' if fresh else '')
            )
        if fresh:
            return DiagnosticStatus.WARN, f'{fresh} frames went wrong: {self.last_error}'
        if self.losing:
            return DiagnosticStatus.WARN, self.losing
        if self.rivalry:
            return DiagnosticStatus.WARN, self.rivalry
        now_s = time.monotonic()
        if now_s - max(self.last_arrival_s, self.active_since_s) > SILENCE_S:
            return DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s'
        return DiagnosticStatus.OK, 'segmenting'

    def _stalled_s(self, worker: Worker | None) -> float:
        """How long masks have been missing; 0 while they come, or none is to be expected."""
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
        'runtime': segmenter.runtime,
        'device': segmenter.device,
        'precision': segmenter.precision,
    }


def _timing_values(timings: Timings) -> dict[str, str]:
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
