# SPDX-License-Identifier: Apache-2.0
"""Stopping between two frames when asked to, so that nothing is left half written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: What ends a command: Ctrl-C, and the request of a system that shuts down.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal asked to stop, and which."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell expects of a command that a signal ended."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM for the loop to see; the second one acts as ever."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
