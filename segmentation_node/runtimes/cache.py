# SPDX-License-Identifier: Apache-2.0
"""Cache of expensive results in the user's cache folder.

Each entry is one file. Its name is a digest of everything that its content depends on, so stale
entries are never found. It begins with a digest of its content, so a damaged entry counts as
missing. The cache is optional: if the folder cannot be written, results are computed again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from segmentation_node import __version__
from segmentation_node.atomic import replacing
from segmentation_node.errors import one_line

_DIGEST_BYTES: Final = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)

_warned_of: set[str] = set()


def cache_root() -> Path:
    """Return the cache folder (XDG Base Directory Specification)."""
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base, 'segmentation_node')


class Cache:
    """Entries of one kind.

    Args:
        kind: folder below `cache_root`.
        max_bytes: total size above which the least recently used entries are removed.
    """

    def __init__(self, kind: str, max_bytes: int) -> None:
        self._kind, self._max_bytes = kind, max_bytes

    def get(self, key: Mapping[str, object]) -> bytes | None:
        """Return the content stored for a key; None if the entry is missing or damaged."""
        try:
            path = self._path(key)
            stored = path.read_bytes()
        except (OSError, RuntimeError):  # RuntimeError: there is no home folder
            return None
        digest, content = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            _log.warning('cache entry %s is damaged and will be replaced', path)
            return None
        with contextlib.suppress(OSError):  # a read-only cache does not record accesses
            os.utime(path)
        return content

    def put(self, key: Mapping[str, object], content: bytes) -> None:
        """Store the content for a key; log a warning if the folder cannot be written."""
        try:
            path = self._path(key)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path, shared=True) as aside:
                aside.write_bytes(hashlib.sha256(content).digest() + content)
            self._remove_oldest(path.parent)
        except (OSError, RuntimeError) as error:
            _warn_once(error)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold an exclusive lock between processes; has no effect if the folder is read-only."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError, RuntimeError):
                folder = cache_root() / self._kind
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stream = held.enter_context((folder / 'held.lock').open('w'))
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _path(self, key: Mapping[str, object]) -> Path:
        text = json.dumps({'package': __version__, **key}, sort_keys=True, default=str)
        return cache_root() / self._kind / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _remove_oldest(self, folder: Path) -> None:
        entries = [(path, path.stat()) for path in folder.iterdir() if not path.suffix]
        left = self._max_bytes
        for path, stat in sorted(entries, key=lambda entry: entry[1].st_mtime, reverse=True):
            left -= stat.st_size
            if left < 0:
                path.unlink(missing_ok=True)


def _warn_once(error: Exception) -> None:
    """Log once per folder that it cannot be written."""
    base = os.environ.get('XDG_CACHE_HOME', '')
    if base in _warned_of:
        return
    _warned_of.add(base)
    _log.warning(
        'running without a cache, so the next start takes longer (%s); make room, or set '
        'XDG_CACHE_HOME to a writable folder', one_line(error),
    )  # fmt: skip
