# SPDX-License-Identifier: Apache-2.0
"""Accounts of frames add up, and the limit of their rate is kept."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patience import PATIENCE_S
from threads import in_thread

from segmentation_node.pipeline.frames import FATES, Accounts, RateLimit


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


def balanced(books: dict[str, int]) -> bool:
    return books['received'] == sum(books[fate] for fate in FATES)


def test_books_start_empty(accounts: Accounts) -> None:
    names = ('received', 'lost', 'in_flight', *FATES)
    assert accounts.snapshot() == dict.fromkeys(names, 0)


def test_lost_frames_stand_beside_those_received(accounts: Accounts) -> None:
    accounts.add_lost(3)
    accounts.add_lost(2)
    books = accounts.snapshot()
    assert books.pop('lost') == 5
    assert not any(books.values())


def test_a_frame_is_received_with_its_fate(accounts: Accounts) -> None:
    accounts.arrive()
    assert accounts.snapshot() | {'in_flight': 0} == Accounts().snapshot()
    assert accounts.snapshot()['in_flight'] == 1
    accounts.settle('failed')
    books = accounts.snapshot()
    assert (books['received'], books['failed'], books['in_flight']) == (1, 1, 0)


def test_an_unknown_fate_is_a_bug_and_changes_nothing(accounts: Accounts) -> None:
    accounts.arrive()
    with pytest.raises(ValueError, match="'lost'; expected one of published, superseded"):
        accounts.settle('lost')
    assert accounts.snapshot()['in_flight'] == 1


@given(st.lists(st.sampled_from(['arrive', *FATES])))
def test_books_balance_after_any_history(history: list[str]) -> None:
    accounts, arrived = Accounts(), 0
    for event in history:
        before = accounts.snapshot()
        if event == 'arrive':
            accounts.arrive()
            arrived += 1
        elif before['in_flight']:
            accounts.settle(event)
        books = accounts.snapshot()
        assert balanced(books)
        assert books['received'] + books['in_flight'] == arrived


def test_settled_is_when_nothing_is_in_flight(accounts: Accounts) -> None:
    accounts.wait_until_settled()
    accounts.arrive()
    accounts.arrive()
    settled = in_thread(accounts.wait_until_settled)
    accounts.settle('published')
    assert not settled.done()
    accounts.settle('failed')
    settled.result(PATIENCE_S)


def test_abandoned_frames_are_not_waited_for(accounts: Accounts) -> None:
    accounts.arrive()
    settled = in_thread(accounts.wait_until_settled)
    accounts.abandon()
    settled.result(PATIENCE_S)


def arrivals(rate_hz: float, jitter: tuple[float, ...] = (0.0,)) -> Iterator[float]:
    for number in range(3000):
        yield 1000 + (number + jitter[number % len(jitter)]) / rate_hz


def taken(limit: RateLimit, rate_hz: float, times: Iterator[float]) -> list[int]:
    return [number for number, now in enumerate(times) if limit.allows(rate_hz, now)]


def test_30_hz_limited_to_10_takes_every_third() -> None:
    assert taken(RateLimit(), 10, arrivals(30)) == list(range(0, 3000, 3))


def test_jitter_does_not_cost_frames() -> None:
    found = taken(RateLimit(), 10, arrivals(30, (0.0, 0.1, -0.1, 0.05, -0.05)))
    assert found == list(range(0, 3000, 3))


def test_30_hz_limited_to_20_takes_two_of_three() -> None:
    assert len(taken(RateLimit(), 20, arrivals(30))) == pytest.approx(2000, abs=2)


def test_a_limit_above_the_rate_takes_all() -> None:
    assert len(taken(RateLimit(), 30, arrivals(29))) == 3000
    assert len(taken(RateLimit(), 100, arrivals(10))) == 3000


@pytest.mark.parametrize('rate_hz', [0.0, -1.0])
def test_no_limit_takes_all(rate_hz: float) -> None:
    assert len(taken(RateLimit(), rate_hz, arrivals(30))) == 3000


@settings(max_examples=50)
@given(st.floats(1, 120), st.floats(0.5, 60))
def test_the_rate_is_kept_on_average(stream_hz: float, limit_hz: float) -> None:
    seconds = 3000 / stream_hz
    expected = min(stream_hz, limit_hz) * seconds
    found = len(taken(RateLimit(), limit_hz, arrivals(stream_hz)))
    assert found <= expected * 1.01 + 2
    # Where the limit falls between two frames, the tolerance may round to the lower rate.
    assert found >= expected * 0.9 - 2


def test_after_a_gap_frames_do_not_come_in_a_burst() -> None:
    limit = RateLimit()
    assert limit.allows(10, 5.0)
    assert limit.allows(10, 50.0)
    assert not limit.allows(10, 50.01)
    assert limit.allows(10, 50.1)


def test_a_raised_limit_holds_at_once() -> None:
    limit = RateLimit()
    assert limit.allows(0.01, 0.0)
    assert not limit.allows(0.01, 1.0)
    assert not limit.allows(10, 1.1)
    assert limit.allows(10, 1.21)
