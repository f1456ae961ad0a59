# SPDX-License-Identifier: Apache-2.0
"""Frames between their arrival and their fate: newest wins, and every one is accounted for."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

#: A camera whose last frame is older than this is not waited for.
CAMERA_ACTIVE_S: Final = 1.0

FATES: Final = ('published', 'superseded', 'malformed', 'failed', 'not_wanted')


@dataclass
class Frame:
    """One camera message on its way; times are in seconds of the monotonic clock."""

    camera: str
    message: Any
    arrived_s: float = field(default_factory=time.monotonic)


class Accounts:
    """Counts of frames by fate; received = the sum of the fates, at every moment.

    A frame enters the books together with its fate, so that no reader ever sees one without the
    other; what waits or is being worked on is `in_flight`. Frames that were sent and never
    received are `lost`, beside these: sent = received + in_flight + lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._counts = Counter(dict.fromkeys(FATES, 0))
        self._in_flight = 0
        self._lost = 0
        self._abandoned = False

    def arrive(self) -> None:
        """Take a frame in."""
        with self._lock:
            self._in_flight += 1

    def lose(self, count: int) -> None:
        """Count frames that were lost on their way here."""
        with self._lock:
            self._lost += count

    def settle(self, fate: str) -> None:
        """Give one frame in flight its one fate, one of FATES."""
        if fate not in FATES:
            raise ValueError(f'unknown fate {fate!r}; there are {", ".join(FATES)}')
        with self._lock:
            self._in_flight -= 1
            self._counts[fate] += 1
            self._lock.notify_all()

    def wait_until_settled(self) -> None:
        """Return when no frame is in flight, or none will be settled any more."""
        with self._lock:
            self._lock.wait_for(lambda: not self._in_flight or self._abandoned)

    def abandon(self) -> None:
        """Say that frames in flight may never meet a fate, since what carried them is gone."""
        with self._lock:
            self._abandoned = True
            self._lock.notify_all()

    def snapshot(self) -> dict[str, int]:
        """All counts at one moment: lost, received, the fates, in_flight."""
        with self._lock:
            return {
                'lost': self._lost,
                'received': self._counts.total(),
                **{fate: self._counts[fate] for fate in FATES},
                'in_flight': self._in_flight,
            }


class OfCamera(Protocol):
    """Anything that belongs to a camera."""

    @property
    def camera(self) -> str:
        """Which camera."""
        ...


FrameT = TypeVar('FrameT', bound=OfCamera)
T = TypeVar('T')


class Slots(Generic[FrameT]):
    """Holds the newest frame of each camera; a newer one supersedes the one that waits.

    Cameras are served in turn, so that a fast one cannot starve a slow one.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._waiting: dict[str, FrameT] = {}  # in the order of the cameras' turns
        self._last_s: dict[str, float] = {}  # when each camera was last heard of
        self._changed = threading.Condition()
        self._awaited = False
        self._closed = False

    def put(self, frame: FrameT) -> None:
        """Offer a frame; the one it supersedes, or itself once closed, is settled."""
        with self._changed:
            if self._closed:
                self._accounts.settle('not_wanted')
                return
            if frame.camera in self._waiting:
                self._accounts.settle('superseded')
            self._waiting[frame.camera] = frame  # keeps the turn of the frame it replaces
            self._last_s[frame.camera] = time.monotonic()
            self._changed.notify_all()

    def take(self, limit: int = 1, company_s: float = 0.0) -> list[FrameT]:
        """Wait for the frames whose turn it is, of as many cameras; empty once closed.

        Args:
            limit: cameras at most.
            company_s: how long the first frame waits for those of other cameras that send.
        """
        with self._changed:
            self._awaited = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if limit > 1:
                self._changed.wait_for(lambda: self._complete(limit), company_s)
            self._awaited = False
            turn = list(islice(self._waiting, limit))
            return [self._waiting.pop(camera) for camera in turn]

    def wait_until_awaited(self) -> None:
        """Return when somebody waits in `take` and finds nothing, or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: (self._awaited and not self._waiting) or self._closed)

    def clear(self) -> None:
        """Drop what waits, as frames that nobody wants any more."""
        with self._changed:
            for _ in self._waiting:
                self._accounts.settle('not_wanted')
            self._waiting.clear()

    def close(self) -> None:
        """Drop what waits and let `take` return nothing from now on."""
        with self._changed:
            self.clear()
            self._closed = True
            self._changed.notify_all()

    def _complete(self, limit: int) -> bool:
        """Whether nobody is left to wait for."""
        now_s = time.monotonic()
        active = sum(now_s - last_s < CAMERA_ACTIVE_S for last_s in self._last_s.values())
        return self._closed or len(self._waiting) >= min(limit, active)


class HandOff(Generic[T]):
    """Passes things from one thread to the next, each when the next is free to take it.

    Nothing waits in between and gets old: the giver is held up instead.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._awaited = False
        self._thing: T | None = None
        self._closed = False

    def give(self, thing: T) -> bool:
        """Wait for the taker and leave it the thing; False where there is none any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._awaited or self._closed)
            if self._closed:
                return False
            self._awaited = False
            self._thing = thing
            self._changed.notify_all()
            return True

    def take(self) -> T | None:
        """Wait for a thing; None once closed."""
        with self._changed:
            self._awaited = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thing is not None or self._closed)
            thing, self._thing = self._thing, None
            return thing

    def close(self) -> None:
        """Let nothing more be given."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class RateLimit:
    """Decides which arriving frames to take so that a rate is kept on average.

    Due times advance by whole periods: 30 Hz limited to 10 Hz takes every third frame, not every
    fourth because one came a moment early.
    """

    def __init__(self) -> None:
        self._due_s = 0.0

    def allows(self, rate_hz: float, now_s: float) -> bool:
        """Whether the frame that arrives now is to be taken; 0 Hz is no limit."""
        if rate_hz <= 0:
            return True
        period_s = 1 / rate_hz
        # A rate that was raised does not wait for the due time of the old one.
        self._due_s = min(self._due_s, now_s + 1.1 * period_s)
        # A tenth of a period of tolerance: arrival times jitter.
        if now_s < self._due_s - 0.1 * period_s:
            return False
        self._due_s += period_s
        if self._due_s <= now_s:  # the first frame, or a gap in the stream
            self._due_s = now_s + period_s
        return True


class Window:
    """The newest values of a measured series, for percentiles and rates."""

    def __init__(self, size: int = 512) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Append one value, forgetting the oldest beyond the size."""
        with self._lock:
            self._values.append(value)

    def percentiles(self, *which: float) -> list[float]:
        """Percentiles of the window, NaN where it is empty."""
        with self._lock:
            values = list(self._values)
        return np.percentile(values, which).tolist() if values else [float('nan')] * len(which)

    def rate_hz(self, now: float, span_s: float = 5.0) -> float:
        """Events per second over the last `span_s`, where the values are times in seconds."""
        with self._lock:
            values = list(self._values)
            full = len(values) == self._values.maxlen
        recent = [value for value in values if now - value <= span_s]
        if full and len(recent) == len(values) and now > values[0]:
            # Older events of the span are forgotten already; the window is the span.
            span_s = now - values[0]
        return len(recent) / span_s
