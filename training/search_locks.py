# SPDX-License-Identifier: Apache-2.0
"""Who works at which part of a search: locks that end with the process that holds them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from typing_extensions import Self


class Locks:
    """Byte 0 of a file stands for the whole search, byte n + 1 for its trial n.

    The kernel frees the locks of a process that dies, however it dies; a file server does the
    same for a machine (NFS from version 4 on). Children, such as those that load data, have no
    part in them. A process must not open the same file twice.
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
        """Be the only one to read and change the search; waits."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)

    def take(self, number: int) -> bool:
        """Take a trial until `release`; False where a living process has it."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number + 1)
        except OSError:
            return False
        return True

    def release(self, number: int) -> None:
        """Let go of a trial."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number + 1)
