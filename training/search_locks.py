# SPDX-License-Identifier: Apache-2.0
"""File locks of a search and its trials, released when the process that holds them ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from typing_extensions import Self


class Locks:
    """Locks on the bytes of a file: byte 0 is the whole search, byte n + 1 is trial n.

    The kernel releases the locks of a process that dies, however it dies; a file server does the
    same for a machine (NFS since version 4). Child processes, such as data loaders, do not inherit
    them. A process must not open the same file twice.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Wait for exclusive access to the search, and hold it within the context."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    def take(self, number: int) -> bool:
        """Lock a trial until `release`; returns False if a running process holds it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number + 1)
        except OSError:
            return False
        return True

    def release(self, number: int) -> None:
        """Unlock a trial."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number + 1)
