# SPDX-License-Identifier: Apache-2.0
"""Keys that are pressed in the terminal of a command."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

SPACE: Final = ' '
#: Codes that terminals send for the cursor keys.
UP: Final = '\x1b[A'
DOWN: Final = '\x1b[B'
RIGHT: Final = '\x1b[C'

_SLICE_S: Final = 0.05
_MAX_BYTES: Final = 64


def has_keyboard() -> bool:
    """Return whether standard input is a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


@contextmanager
def keys(actions: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Call actions when their keys are pressed, in a thread.

    Meanwhile the terminal passes on keys at once, without waiting for a line; Ctrl-C remains a
    signal.
    """
    fd = sys.stdin.fileno()
    before, done = termios.tcgetattr(fd), threading.Event()
    thread = threading.Thread(target=_listen, args=(fd, actions, done), name='keys', daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if _is_ours(fd):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _listen(fd: int, actions: Mapping[str, Callable[[], object]], done: threading.Event) -> None:
    while not done.is_set():
        # A job in the background that reads or sets the terminal is stopped by the system.
        if not _is_ours(fd):
            done.wait(_SLICE_S)
            continue
        if termios.tcgetattr(fd)[3] & termios.ICANON:  # at first, and after a stop by Ctrl-Z
            tty.setcbreak(fd, termios.TCSANOW)
        if not select.select([fd], [], [], _SLICE_S)[0]:
            continue
        pressed = os.read(fd, _MAX_BYTES).decode(errors='replace')
        if not pressed:
            return  # the terminal is gone
        while pressed:
            key = next((key for key in actions if pressed.startswith(key)), pressed[0])
            actions.get(key, lambda: None)()
            pressed = pressed[len(key) :]


def _is_ours(fd: int) -> bool:
    """Return whether this process is in the foreground of the terminal."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # the terminal is gone
        return False
