# SPDX-License-Identifier: Apache-2.0
"""The node's state as diagnostic_msgs/DiagnosticStatus."""

import math
import time
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from segmentation_node.frames import Accounts
from segmentation_node.ros.worker import Timings, Worker

#: Without a frame for this long the stream counts as silent.
SILENCE_S = 5.0


@dataclass
class Health:
    """What the status tells beyond counts; survives the swap of a model."""

    accounts: Accounts = field(default_factory=Accounts)
    last_error: str = ''
    refused: str = ''
    active_since_s: float = 0.0
    last_arrival_s: float = -math.inf
    troubled_frames: int = 0

    def refuse(self, reason: str) -> None:
        """Keep why a transition failed, until one succeeds."""
        self.last_error = self.refused = reason

    def status(self, name: str, state: str, worker: Worker | None) -> DiagnosticStatus:
        """The status now; problems since the last call make it a warning."""
        counts = self.accounts.snapshot()
        level, message = self._verdict(state, counts)
        values = {'state': state, **counts}
        if worker is not None:
            values |= _model_values(worker) | _timing_values(worker.timings)
        values['last_error'] = self.last_error
        return DiagnosticStatus(
            level=level,
            name=name,
            message=message,
            hardware_id='',
            values=[KeyValue(key=k, value=str(v)) for k, v in values.items()],
        )

    def _verdict(self, state: str, counts: dict[str, int]) -> tuple[bytes, str]:
        troubled = counts['malformed'] + counts['failed']
        fresh, self.troubled_frames = troubled - self.troubled_frames, troubled
        if state in ('unconfigured', 'inactive') and self.refused:
            return DiagnosticStatus.ERROR, f'{state}: {self.refused}'
        if state in ('unconfigured', 'inactive'):
            return DiagnosticStatus.WARN, f'{state}: waits to be activated'
        if state != 'active':
            return DiagnosticStatus.WARN, f'{state} ...'
        if fresh:
            return DiagnosticStatus.WARN, f'{fresh} frames went wrong: {self.last_error}'
        now_s = time.monotonic()
        if now_s - max(self.last_arrival_s, self.active_since_s) > SILENCE_S:
            return DiagnosticStatus.WARN, f'no image for {SILENCE_S:.0f} s'
        return DiagnosticStatus.OK, 'segmenting'


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
