# SPDX-License-Identifier: Apache-2.0
"""Stop requests by signals, so that a command ends between two frames, with complete output."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Signals that end a command: Ctrl-C and the termination request of the system.
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Signal that requested to stop; true once one has arrived."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """Exit status of a command that was ended by the signal, as in a shell."""
        return 128 + self.signal if self.signal is not None else 0


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Record the first SIGINT or SIGTERM for a loop to check; the second acts as usual."""
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def record(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, record)
    try:
        yield request
    finally:
        restore()
