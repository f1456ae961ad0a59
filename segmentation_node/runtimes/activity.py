# SPDX-License-Identifier: Apache-2.0
"""Long-running activities, which diagnostics report while no masks are published."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_since_s: dict[object, tuple[str, float]] = {}


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Register the body of a with statement as an activity, e.g. 'loading deeplabv3plus'."""
    key = object()
    with _lock:
        _since_s[key] = (what, time.monotonic())
    try:
        yield
    finally:
        with _lock:
            del _since_s[key]


def activities() -> list[str]:
    """Return the current activities with their seconds so far, longest first."""
    now_s = time.monotonic()
    with _lock:
        return [f'{what} for {now_s - since_s:.0f} s' for what, since_s in _since_s.values()]
