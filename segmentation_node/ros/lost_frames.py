# SPDX-License-Identifier: Apache-2.0
"""Statistics of the frames that are lost between cameras and node."""

import threading
from collections import Counter, deque
from dataclasses import dataclass
from typing import Final

#: Period that losses are computed over.
RECENT_S: Final = 30.0
#: Share of the frames sent that may be lost without a warning.
TOLERATED: Final = 0.01


@dataclass(frozen=True)
class RecentLosses:
    """Frames lost and sent in the recent past, and the topic that lost most."""

    lost: int
    sent: int
    topic: str

    @property
    def excessive(self) -> bool:
        """True if more frames were lost than is tolerated."""
        return self.lost > TOLERATED * self.sent


class Losses:
    """Counts of lost frames by topic; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_topic: Counter[str] = Counter()
        #: Time in seconds, frames that had arrived by then, lost frames by topic.
        self._history: deque[tuple[float, int, Counter[str]]] = deque()

    def add(self, topic: str, count: int) -> None:
        """Count lost frames."""
        with self._lock:
            self._by_topic[topic] += count

    def recent(self, now_s: float, arrived: int) -> RecentLosses:
        """Return the losses of the recent past.

        Args:
            now_s: time in seconds; the recent past begins RECENT_S earlier, or at the first call.
            arrived: number of frames that have arrived since the start.
        """
        with self._lock:
            lost = self._by_topic.copy()
        self._history.append((now_s, arrived, lost))
        # The recent past begins at the newest entry that is at least RECENT_S old.
        while len(self._history) > 1 and now_s - self._history[1][0] >= RECENT_S:
            self._history.popleft()
        _, arrived_before, lost_before = self._history[0]
        fresh = lost - lost_before
        topic = max(fresh, key=lambda name: fresh[name], default='')
        return RecentLosses(fresh.total(), fresh.total() + arrived - arrived_before, topic)
