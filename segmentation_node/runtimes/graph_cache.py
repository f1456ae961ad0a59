# SPDX-License-Identifier: Apache-2.0
"""Graphs that were converted once, kept in the user's cache folder.

An entry is a folder named by the digest of all that decides its content, so a stale one is never
found; its files are written aside and renamed, and their digests are kept with them, so a damaged
one is made anew.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from segmentation_node import __version__
from segmentation_node.checkpoint import Checkpoint

#: Changes whenever other graphs are made of the same checkpoint.
FORMAT: Final = 2
#: Entries that are kept, the newest by use; each holds the weights once.
KEPT: Final = 32

_INDEX: Final = 'index.json'


def cache_root() -> Path:
    """Where entries lie: below XDG_CACHE_HOME, or ~/.cache (XDG Base Directory Specification)."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base, 'segmentation_node', 'graphs')


class GraphCache:
    """The entries of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, **settings: object) -> None:
        """Prepare; `settings` decide what a graph looks like, beside the checkpoint."""
        self._network = checkpoint.digest
        self._common = {
            'format': FORMAT, 'package': __version__, 'network': self._network,
            'family': checkpoint.spec.family, **settings,
        }  # fmt: skip

    def knows_network(self) -> bool:
        """Whether a graph was made of these very weights before, so that they are whole."""
        indices = cache_root().glob(f'*/{_INDEX}')
        return any(_index(path).get('network') == self._network for path in indices)

    def get(
        self, make: Callable[[Path], Mapping[str, Any]], **details: object
    ) -> tuple[Path, dict[str, Any]]:
        """Folder of an entry and what is to be known of it.

        Args:
            make: writes the files of an entry into a folder and gives what is to be known of it;
                called where there is no whole entry.
            details: decide the entry, beside the settings.

        Raises:
            OSError: the folder cannot be written.
        """
        content = json.dumps({**self._common, **details}, sort_keys=True, default=str)
        folder = cache_root() / hashlib.sha256(content.encode()).hexdigest()[:32]
        known = _read(folder)
        if known is None:
            known = _write(folder, make, self._network)
            _forget_oldest(folder.parent)
        with contextlib.suppress(OSError):  # a cache that may only be read does not know its use
            os.utime(folder)
        return folder, known


def _read(folder: Path) -> dict[str, Any] | None:
    """What is to be known of an entry; None where it is missing or damaged."""
    try:
        index = _index(folder / _INDEX)
        whole = all(_digest(folder / name) == digest for name, digest in index['files'].items())
        return dict(index['known']) if whole else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _index(path: Path) -> dict[str, Any]:
    """Content of an index file, nothing where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(
    folder: Path, make: Callable[[Path], Mapping[str, Any]], network: str
) -> dict[str, Any]:
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix='new.', dir=folder.parent) as name:
        aside = Path(name, 'entry')
        aside.mkdir()
        known = dict(make(aside))
        files = {path.name: _digest(path) for path in sorted(aside.iterdir())}
        index = {'network': network, 'files': files, 'known': known}
        (aside / _INDEX).write_text(json.dumps(index), encoding='utf-8')
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        try:
            aside.rename(folder)
        except OSError:
            if _read(folder) is None:  # else another process was first
                raise
    return known


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _forget_oldest(root: Path) -> None:
    entries = sorted(
        (path for path in root.iterdir() if (path / _INDEX).is_file()),
        key=lambda path: path.stat().st_mtime,
    )
    for path in entries[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)
