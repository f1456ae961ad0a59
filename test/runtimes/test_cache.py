# SPDX-License-Identifier: Apache-2.0
"""The cache: what is stored, what is read back, what goes."""

import os
from pathlib import Path

import pytest

from segmentation_node.runtimes.cache import Cache, cache_root


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return cache_root() / 'things'


def test_a_key_names_its_content() -> None:
    cache = Cache('things', 1000)
    assert cache.get({'of': 1}) is None
    cache.put({'of': 1}, b'one')
    cache.put({'of': 2}, b'')
    assert (cache.get({'of': 1}), cache.get({'of': 2})) == (b'one', b'')
    assert Cache('others', 1000).get({'of': 1}) is None
    cache.put({'of': 1}, b'uno')
    assert cache.get({'of': 1}) == b'uno'


def test_the_least_recently_used_go(folder: Path) -> None:
    cache = Cache('things', 300)
    for number in range(3):
        cache.put({'of': number}, bytes(60))
        for path in folder.iterdir():  # all so far are older than what comes next
            os.utime(path, (path.stat().st_atime - 10, path.stat().st_mtime - 10))
    assert cache.get({'of': 0}) is not None  # used again
    cache.put({'of': 3}, bytes(60))
    assert [cache.get({'of': number}) is not None for number in range(4)] == [
        True, False, True, True,
    ]  # fmt: skip
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 300


def test_nothing_half_written_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'replace', fail)
    Cache('things', 1000).put({'of': 1}, b'one')
    assert not list(folder.iterdir())
