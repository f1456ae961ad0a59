# SPDX-License-Identifier: Apache-2.0
"""Watch over what the middleware loses between cameras and node."""

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

#: Losses are judged over this time.
RECENT_S: Final = 30.0
#: Share of the frames sent that may be lost without a warning.
TOLERATED: Final = 0.01


@dataclass(frozen=True)
class Recent:
    """Frames of the recent past: lost, of how many sent, and the topic that lost most."""

    lost: int
    sent: int
    topic: str

    @property
    def excessive(self) -> bool:
        """More were lost than is tolerated."""
        return self.lost > TOLERATED * self.sent


class Losses:
    """Lost frames by topic, and how many arrived meanwhile; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: Counter[str] = Counter()
        #: Time in seconds, frames that had arrived by then, lost frames by topic.
        self._history: deque[tuple[float, int, Counter[str]]] = deque()

    def add(self, topic: str, count: int) -> None:
        """Count lost frames."""
        with self._lock:
            self._by_topic[topic] += count

    def recent(self, now_s: float, arrived: int) -> Recent:
        """Return the losses of the recent past.

        Args:
            now_s: time in seconds; the recent past begins RECENT_S before, or with the first call.
            arrived: number of all frames that have ever arrived.
        """
        with self._lock:
            lost = self._by_topic.copy()
        self._history.append((now_s, arrived, lost))
        # The newest entry that is old enough is where the recent past begins.
        while len(self._history) > 1 and now_s - self._history[1][0] >= RECENT_S:
            self._history.popleft()
        _, arrived_before, lost_before = self._history[0]
        fresh = lost - lost_before
        topic = max(fresh, key=lambda name: fresh[name], default='')
        return Recent(fresh.total(), fresh.total() + arrived - arrived_before, topic)
