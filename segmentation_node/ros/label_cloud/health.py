# SPDX-License-Identifier: Apache-2.0
"""Health of the node label_cloud."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

from segmentation_node.cloud.worker import CloudWorker
from segmentation_node.pipeline.frames import Accounts
from segmentation_node.ros.diagnostics import (
    SILENCE_S,
    STALLED_S,
    SupervisedHealth,
    Verdict,
    timing_values,
)


@dataclass
class CloudHealth(SupervisedHealth):
    """State of the node label_cloud; `accounts` count depth images or clouds."""

    mask_accounts: Accounts = field(default_factory=Accounts)
    #: Time since which clouds have a subscriber; infinite if they have none.
    wanted_since_s: float = math.inf

    def status(
        self,
        name: str,
        state: str,
        worker: CloudWorker | None,
        silent: Sequence[str],
        remedy_of: Callable[[str], str],
    ) -> DiagnosticStatus:
        """Return the present status; problems since the last call make it a warning.

        Args:
            name: name of the node.
            state: lifecycle state of the node.
            worker: None if the node is not configured.
            silent: topics without a message for SILENCE_S.
            remedy_of: returns the remedy for losses on a topic.
        """
        counts, masks = self.accounts.snapshot(), self.mask_accounts.snapshot()
        self.update_losses(counts, remedy_of)
        verdict = self._verdict(state, worker, silent, self.fresh_faults(counts))
        values: dict[str, object] = {'state': state, **counts}
        values |= {f'mask_{fate}': count for fate, count in masks.items()}
        if worker is not None:
            values |= {'points': worker.points, **timing_values(worker.timings)}
        return self.message(name, verdict, values)

    def _verdict(
        self, state: str, worker: CloudWorker | None, silent: Sequence[str], fresh: int
    ) -> Verdict:
        if inactivity := self.inactivity(state):
            return inactivity
        if self.wanted_since_s == math.inf:
            return DiagnosticStatus.OK, 'waiting for a subscriber of the points'
        silence = f'no message on {", ".join(silent)} for {SILENCE_S:.0f} s'
        if silent and not fresh:
            return DiagnosticStatus.WARN, silence
        if stalled_s := self._stalled_s(worker):
            return DiagnosticStatus.ERROR, (
                f'no cloud for {stalled_s:.0f} s, although all inputs arrive: '
                + (self.last_error if fresh else 'their stamps do not match; see tolerance_s')
            )
        return self.trouble(fresh, silence) or (DiagnosticStatus.OK, 'publishing clouds')

    def _stalled_s(self, worker: CloudWorker | None) -> float:
        """Return the time without a wanted cloud; 0 if it is short."""
        published_s = -math.inf if worker is None else worker.published_s
        waited_s = time.monotonic() - max(published_s, self.wanted_since_s)
        return waited_s if waited_s > STALLED_S else 0.0
