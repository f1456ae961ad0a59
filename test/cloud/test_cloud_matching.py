# SPDX-License-Identifier: Apache-2.0
"""Tests of matching by stamp: exact and nearest, superseded messages, bounded queues."""

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.cloud.matching import StampMatcher


class Matching:
    """A matcher of depth (D), masks (M) and confidence (C) that counts superseded messages."""

    def __init__(self, tolerance: int = 0, queue: int = 10, others: str = '') -> None:
        self.superseded = Counter[str]()
        self.matcher: StampMatcher[int] = StampMatcher(
            'D', 'M', list(others), tolerance_ns=tolerance, queue_size=queue,
            superseded=lambda topic: self.superseded.update([topic]),
        )  # fmt: skip

    def add(self, *messages: str) -> list[Any]:
        """Add messages such as 'D30', a depth of stamp 30, and return the matches."""
        found = (self.matcher.add(each[0], int(each[1:]), int(each[1:])) for each in messages)
        return [match for match in found if match is not None]


def test_equal_stamps_match_whatever_comes_first() -> None:
    for order in (('D10', 'M10'), ('M10', 'D10')):
        assert Matching().add(*order) == [{'D': 10, 'M': 10}]


def test_all_topics_are_needed() -> None:
    matching = Matching(others='C')
    assert matching.add('D10', 'M10', 'C9') == []
    assert matching.add('C10') == [{'D': 10, 'M': 10, 'C': 10}]


def test_a_match_supersedes_what_came_before() -> None:
    matching = Matching()
    assert matching.add('D10', 'D20', 'M10', 'D30', 'M30') == [
        {'D': 10, 'M': 10}, {'D': 30, 'M': 30},
    ]  # fmt: skip
    assert matching.superseded == {'D': 1}
    assert matching.matcher.clear() == {'D': 0, 'M': 0}


def test_the_nearest_within_the_tolerance_matches() -> None:
    assert Matching(tolerance=4).add('D10', 'D20', 'M17') == [{'D': 20, 'M': 17}]
    assert Matching(tolerance=4).add('D10', 'D20', 'M13') == [{'D': 10, 'M': 13}]
    assert Matching(tolerance=4).add('D10', 'D20', 'M15') == []


def test_an_exact_stamp_is_nearer_than_any_other() -> None:
    assert Matching(tolerance=4).add('D10', 'D12', 'D14', 'M12') == [{'D': 12, 'M': 12}]


def test_a_mask_waits_for_depth_that_may_be_nearer() -> None:
    matching = Matching(tolerance=4)
    assert matching.add('D10', 'M12') == []
    assert matching.add('D13') == [{'D': 13, 'M': 12}]
    assert matching.superseded == {'D': 1}


def test_a_full_queue_drops_its_oldest() -> None:
    matching = Matching(queue=2)
    assert matching.add('D1', 'D2', 'D3', 'M1') == []
    assert matching.superseded == {'D': 1}
    assert matching.add('M2') == [{'D': 2, 'M': 2}]
    assert matching.superseded == {'D': 1, 'M': 1}


def test_a_stamp_that_repeats_replaces_the_message_before() -> None:
    matching = Matching()
    assert matching.add('D0', 'D0', 'D0', 'M0') == [{'D': 0, 'M': 0}]
    assert matching.superseded == {'D': 2}


def test_time_that_jumps_back_is_no_obstacle() -> None:
    matching = Matching(tolerance=1)
    matching.add('D1000', 'D1010', 'M990')
    assert matching.add('D10', 'M10') == [{'D': 10, 'M': 10}]
    assert matching.superseded == {'D': 2, 'M': 1}


@given(
    messages=st.lists(st.tuples(st.sampled_from('DMC'), st.integers(0, 40)), max_size=80),
    tolerance=st.integers(0, 5),
    queue=st.integers(1, 5),
)
def test_every_message_is_matched_superseded_or_waits(
    messages: list[tuple[str, int]], tolerance: int, queue: int
) -> None:
    matching = Matching(tolerance, queue, 'C')
    matches = matching.add(*(f'{topic}{stamp}' for topic, stamp in messages))
    assert all(abs(match['D'] - match['M']) <= tolerance for match in matches)
    assert all(match['C'] == match['M'] for match in matches)
    waiting = matching.matcher.clear()
    assert max(waiting.values()) <= queue
    for topic, sent in Counter(topic for topic, _ in messages).items():
        assert sent == len(matches) + matching.superseded[topic] + waiting[topic]
