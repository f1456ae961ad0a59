# SPDX-License-Identifier: Apache-2.0
"""Tests of the cache that keeps the most recently used values."""

from functools import partial

import pytest

from segmentation_node.runtimes.recent import Recent


def test_the_newest_by_use_are_kept() -> None:
    kept: Recent[str, int] = Recent(2)
    found = [kept.get(key, partial(int, number)) for number, key in enumerate('abacabb')]
    assert found == [0, 1, 0, 3, 0, 5, 5]


def test_what_fails_is_made_again() -> None:
    kept: Recent[str, int] = Recent(2)
    with pytest.raises(ZeroDivisionError):
        kept.get('a', lambda: 1 // 0)
    assert kept.get('a', lambda: 7) == 7


def test_heavy_ones_leave_room_before_the_next_is_made() -> None:
    kept: Recent[int, list[int]] = Recent(10, lambda weight: weight)
    for weight in (3, 4, 2):
        kept.get(weight, list)
    alive = kept.get(4, list)
    assert kept.get(4, lambda: [1]) is alive
    kept.get(5, lambda: [len(kept._values)])
    assert kept.get(5, list) == [1]
    assert kept.get(99, lambda: [len(kept._values)]) == [0]
