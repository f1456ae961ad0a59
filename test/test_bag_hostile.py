# SPDX-License-Identifier: Apache-2.0
"""Whatever a bag says, it is read or refused with a reason, in bounded memory."""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bag_hostile import CHUNKS, chunk_bag, hostile_bags
from bag_probing import Plain, probe

from segmentation_node.bags import segment_bag
from segmentation_node.bags.reader import open_bag
from segmentation_node.errors import BagError

CASES = dict(hostile_bags(Path()))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_bag, '_load', lambda _: Plain())


@pytest.fixture(scope='module', autouse=True)
def bounded_memory() -> Iterator[None]:
    """No allocation of what a bag claims can succeed: 3 GB more than there is now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path('/proc/self/statm').open() as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (3 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize('what', CASES)
def test_hostile_values_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = CASES[what]()
    for salvage in (False, True):
        assert probe(path, tmp_path / 'out', salvage) in ('read', 'refused')


@pytest.mark.parametrize(('change', 'says'), CHUNKS)
def test_hostile_chunks_are_refused_with_the_reason(
    tmp_path: Path, change: Any, says: str
) -> None:
    with pytest.raises(BagError) as error, open_bag(chunk_bag(tmp_path / 'bag.mcap', change)):
        pass
    assert says in str(error.value)
    assert 'allow --salvage' in str(error.value)
