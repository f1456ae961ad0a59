# SPDX-License-Identifier: Apache-2.0
"""Atomic replacement of files and folders: a reader finds the old content or the new one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a path to write; its file then replaces `path`, or is removed after an error.

    Args:
        path: file to replace or to create.
        shared: whether several threads or processes may write the file at the same time.
    """
    writer = f'.{uuid4().hex}' if shared else ''
    aside = path.with_name(f'{path.name}{writer}.new')
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; it then replaces `folder`, or is removed after an error.

    A kill between the two renames leaves the old folder hidden; `restore_folder` brings it back.
    """
    folder = folder.absolute()  # "." has no name
    restore_folder(folder)
    aside, before = folder.with_name(f'.{folder.name}.new'), _before(folder)
    for leftover in (aside, before):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        if folder.exists():
            folder.replace(before)
        aside.replace(folder)
    except BaseException:
        restore_folder(folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(before, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Bring a folder back that a kill within `replacing_folder` has left hidden."""
    if not folder.exists() and _before(folder).exists():
        _before(folder).replace(folder)


def _before(folder: Path) -> Path:
    return folder.with_name(f'.{folder.name}.old')
