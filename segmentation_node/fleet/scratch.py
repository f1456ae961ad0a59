# SPDX-License-Identifier: Apache-2.0
"""Temporary folders that are removed later if their process is killed."""

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = 'label_fleet_'
#: Locked as long as the process of a folder lives.
_LOCK: Final = '.lock'


class ScratchFolder:
    """Folder for copies of bags, made when it is first needed."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def empty(self) -> Path:
        """Return the folder, without what was in it."""
        self.remove()
        remove_abandoned()
        self._folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        unlocked = self._folder / f'{_LOCK}.new'
        self._lock = unlocked.open('w')
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self._folder / _LOCK)  # which others look for
        content = self._folder / 'bag'
        content.mkdir()
        return content

    def remove(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
            self._lock.close()


def remove_abandoned() -> None:
    """Remove the folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f'{_PREFIX}*'):
        with suppress(OSError):  # its process lives, or it belongs to another user
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
        return
    with (folder / _LOCK).open('r+') as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
