# SPDX-License-Identifier: Apache-2.0
"""Camera frames, the accounts of what became of each, and the limit of their rate."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import cv2

from segmentation_node.errors import SegmentationError

SECOND_NS: Final = 1_000_000_000
#: Errors that fail a frame and are no bug of this package: invalid images, and what cv_bridge,
#: OpenCV and torch raise when memory runs out or a device is lost.
FRAME_ERRORS: Final = (SegmentationError, RuntimeError, MemoryError, cv2.error)
FATES: Final = ('published', 'superseded', 'malformed', 'failed', 'not_wanted')


@dataclass
class LiveFrame:
    """A camera message being processed; times are in seconds of the monotonic clock."""

    camera: str
    message: Any
    arrived_s: float = field(default_factory=time.monotonic)

    @property
    def stamp_ns(self) -> int:
        """Header stamp in nanoseconds; may be negative."""
        return stamp_ns_of(self.message)


def stamp_ns_of(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds; may be negative.

    In plain numbers: the Time of rclpy raises on a negative stamp, which cameras may send.
    """
    stamp = message.header.stamp
    return int(stamp.sec) * SECOND_NS + int(stamp.nanosec)


class Accounts:
    """Counts of frames by fate; received = sum of the fates, at every moment.

    A frame counts as received once its fate is known, so that no reader sees one without the
    other; until then it is `in_flight`. Frames that were sent but did not arrive are `lost`:
    sent = received + in_flight + lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._counts = Counter(dict.fromkeys(FATES, 0))
        self._in_flight = 0
        self._lost = 0
        self._abandoned = False

    def arrive(self) -> None:
        """Count a frame as in flight."""
        with self._lock:
            self._in_flight += 1

    def add_lost(self, count: int) -> None:
        """Count frames that were lost in transport."""
        with self._lock:
            self._lost += count

    def settle(self, fate: str) -> None:
        """Count a frame that was in flight under its fate, one of FATES."""
        if fate not in FATES:
            raise ValueError(f'unknown fate {fate!r}; expected one of {", ".join(FATES)}')
        with self._lock:
            self._in_flight -= 1
            self._counts[fate] += 1
            self._lock.notify_all()

    def wait_until_settled(self) -> None:
        """Return when no frame is in flight, or when `abandon` was called."""
        with self._lock:
            self._lock.wait_for(lambda: not self._in_flight or self._abandoned)

    def abandon(self) -> None:
        """Stop waiting for frames in flight: the thread that processed them has failed."""
        with self._lock:
            self._abandoned = True
            self._lock.notify_all()

    def snapshot(self) -> dict[str, int]:
        """Return all counts at one moment: lost, received, the fates, in_flight."""
        with self._lock:
            return {
                'lost': self._lost,
                'received': self._counts.total(),
                **{fate: self._counts[fate] for fate in FATES},
                'in_flight': self._in_flight,
            }


class RateLimit:
    """Decides which arriving frames to accept so that their average rate stays below a limit.

    Due times advance by whole periods: 30 Hz limited to 10 Hz accepts every third frame, not every
    fourth because one came a moment early.
    """

    def __init__(self) -> None:
        self._due_s = 0.0

    def allows(self, rate_hz: float, now_s: float) -> bool:
        """Return whether to accept the frame that arrives now; 0 Hz means no limit."""
        if rate_hz <= 0:
            return True
        period_s = 1 / rate_hz
        # After the limit was raised, the due time of the old limit must not delay frames.
        self._due_s = min(self._due_s, now_s + 1.1 * period_s)
        # A tenth of a period of tolerance: arrival times jitter.
        if now_s < self._due_s - 0.1 * period_s:
            return False
        self._due_s += period_s
        if self._due_s <= now_s:  # the first frame, or a gap in the stream
            self._due_s = now_s + period_s
        return True
