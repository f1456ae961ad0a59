# SPDX-License-Identifier: Apache-2.0
"""Child processes that never outlive their parent, even if it is killed."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

from typing_extensions import Self

from segmentation_node.errors import SegmentationError
from segmentation_node.interrupt import SIGNALS

#: Time for a child to exit after a signal before the next, stronger one is sent.
GRACE_S: Final = 10.0
POLL_S: Final = 0.1
#: Loaded at import, because few operations are safe between fork and exec.
_LIBC: Final = ctypes.CDLL(None)
_PR_SET_PDEATHSIG: Final = 1
_TERMINATION: Final = (*SIGNALS, signal.SIGHUP)
#: Signals received; recorded because Python drops exceptions that are raised during a fork.
_received: Final[list[int]] = []


class DemoError(SegmentationError):
    """The demo, the benchmark or the service cannot continue."""


class Child:
    """Child process with its own session and a log file; a context manager that ends it.

    With `reports`, stdout is parsed as lines of JSON, and `report` is the newest one. With
    `commands`, `tell` writes lines of JSON to stdin.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        reports: bool = False,
        commands: bool = False,
    ) -> None:
        self.name, self.log = name, log
        self.report: dict[str, Any] = {}
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open('wb') as output:
            self._process = subprocess.Popen(  # noqa: S603 (a fixed argument list, no shell)
                list(command),
                stdin=subprocess.PIPE if commands else subprocess.DEVNULL,
                stdout=subprocess.PIPE if reports else output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                # Ctrl-C signals only the parent, which then ends its children in order.
                start_new_session=True,
                preexec_fn=_prepare_child,
            )
        if self._process.stdout is not None:
            lines = self._process.stdout
            threading.Thread(target=self._read_reports, args=[lines], daemon=True).start()

    def _read_reports(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            self.report = json.loads(line)

    def tell(self, command: Mapping[str, Any]) -> None:
        """Send a command; raises DemoError if the child no longer reads commands."""
        if self._process.stdin is None:
            raise ValueError(f'{self.name} was started without commands=True')
        try:
            self._process.stdin.write(json.dumps(command).encode() + b'\n')
            self._process.stdin.flush()
        except BrokenPipeError:
            self._process.wait(GRACE_S)
            raise self.failure() from None

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """Exit status, or the negative number of the signal that ended it; None while it runs."""
        return self._process.poll()

    def log_text(self, lines: int = 40) -> str:
        """Return the last lines of the log."""
        text = self.log.read_text(encoding='utf-8', errors='replace').splitlines()
        return '\n'.join(text[-lines:])

    def failure(self) -> DemoError:
        """Return the error to raise if the child ended unexpectedly."""
        return DemoError(f'{self.name} ended with status {self.exit_status}; its log:\n'
                         f'{self.log_text() or "(empty)"}')  # fmt: skip

    def stop(self) -> None:
        """End the process with SIGINT, then SIGTERM, then SIGKILL."""
        for request in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(request)
            try:
                self._process.wait(GRACE_S)
                return
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _prepare_child() -> None:
    """Make SIGINT end the child, and end it when its parent dies, even by SIGKILL."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == 'linux':
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for(
    done: Callable[[], bool],
    timeout_s: float,
    timeout_error: Callable[[], Exception],
    sign_of_life: Callable[[], object] = lambda: None,
) -> None:
    """Poll until `done`, which may raise; the timeout restarts when `sign_of_life` changes.

    Raises:
        Exception: returned by `timeout_error`, on timeout.
    """
    last_sign, since_s = sign_of_life(), time.monotonic()
    while not done():
        if _received:
            raise KeyboardInterrupt(signal.Signals(_received[0]).name)
        if (newest := sign_of_life()) != last_sign:
            last_sign, since_s = newest, time.monotonic()
        if time.monotonic() - since_s > timeout_s:
            raise timeout_error()
        time.sleep(POLL_S)


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Raise KeyboardInterrupt on termination signals, so that children are ended.

    SIGINT is handled even if the shell made a background process ignore it; SIGHUP stays ignored
    under nohup.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        _received.append(number)
        raise KeyboardInterrupt(signal.Signals(number).name)

    _received.clear()
    previous = {number: signal.getsignal(number) for number in _TERMINATION}
    for number, handler in previous.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
