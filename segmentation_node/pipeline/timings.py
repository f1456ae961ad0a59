# SPDX-License-Identifier: Apache-2.0
"""Statistics of the newest frames: durations of the stages, latency and rates."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

#: `wait`: from arrival to decoding. `infer`: the whole batch. `total`: from decoding to
#: publication, including the time that a frame waits for the network and for the frame before.
STAGES = ('wait', 'decode', 'infer', 'publish', 'total')


class Window:
    """The newest values of a measured series, for percentiles and rates."""

    def __init__(self, size: int = 512) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Append a value; the oldest is dropped when the window is full."""
        with self._lock:
            self._values.append(value)

    def percentiles(self, *ranks: float) -> list[float]:
        """Return percentiles of the window, NaN if it is empty."""
        with self._lock:
            values = list(self._values)
        return np.percentile(values, ranks).tolist() if values else [float('nan')] * len(ranks)

    def rate_hz(self, now: float, span_s: float = 5.0) -> float:
        """Return events per second over the last `span_s`; the values are times in seconds."""
        with self._lock:
            values = list(self._values)
            full = len(values) == self._values.maxlen
        recent = [value for value in values if now - value <= span_s]
        if full and len(recent) == len(values) and now > values[0]:
            # The window is shorter than the span, because older events were dropped.
            span_s = now - values[0]
        return len(recent) / span_s


class StageTimings:
    """Milliseconds of the newest frames by stage; `latency` is from stamp to publication."""

    def __init__(self, stages: Sequence[str] = STAGES) -> None:
        self.stages = {stage: Window() for stage in stages}
        self.batch = Window()
        self.latency = Window()
        self.arrivals = Window()
        self.publications = Window()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a with statement as one stage."""
        started = time.perf_counter()
        yield
        self.stages[name].add(1000 * (time.perf_counter() - started))
