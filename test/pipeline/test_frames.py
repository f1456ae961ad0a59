# SPDX-License-Identifier: Apache-2.0
"""Frames between arrival and fate, with one thread and with many."""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_node.pipeline import frames
from segmentation_node.pipeline.frames import (
    FATES,
    Accounts,
    Frame,
    HandOff,
    RateLimit,
    Slots,
    Window,
)

#: Long enough for a loaded machine; nothing waits for it to pass, only for events before it.
PATIENCE_S = 240.0


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def slots(accounts: Accounts) -> Slots[Frame]:
    return Slots(accounts)


def put(slots: Slots[Frame], accounts: Accounts, *messages: str) -> None:
    """Let frames arrive; a message is named by its camera's letter and a number."""
    for message in messages:
        accounts.arrive()
        slots.put(Frame(message[0], message))


def take(slots: Slots[Frame]) -> str:
    (frame,) = slots.take()
    return str(frame.message)


def in_thread(call: Callable[[], Any]) -> 'Future[Any]':
    """Result of a call that waits for something, made by a thread of its own."""
    result: Future[Any] = Future()
    threading.Thread(target=lambda: result.set_result(call()), daemon=True).start()
    return result


def balanced(books: dict[str, int]) -> bool:
    return books['received'] == sum(books[fate] for fate in FATES)


def test_books_start_empty(accounts: Accounts) -> None:
    names = ('received', 'lost', 'in_flight', *FATES)
    assert accounts.snapshot() == dict.fromkeys(names, 0)


def test_lost_frames_stand_beside_those_received(accounts: Accounts) -> None:
    accounts.lose(3)
    accounts.lose(2)
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
    with pytest.raises(ValueError, match="'lost'; there are published, superseded"):
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


def test_newest_frame_wins(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'a2', 'a3')
    assert take(slots) == 'a3'
    assert accounts.snapshot()['superseded'] == 2
    assert accounts.snapshot()['in_flight'] == 1


def test_cameras_are_served_in_turn(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1', 'c1')
    assert take(slots) == 'a1'
    put(slots, accounts, 'a2', 'a3')
    assert take(slots) == 'b1'
    put(slots, accounts, 'a4')
    assert take(slots) == 'c1'
    assert take(slots) == 'a4'


def test_a_newer_frame_keeps_the_turn_of_the_one_it_replaces(
    slots: Slots[Frame], accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1', 'a2')
    assert [take(slots), take(slots)] == ['a2', 'b1']


@given(st.lists(st.sampled_from('abc'), min_size=1))
def test_no_camera_waits_for_more_than_the_others(arrivals: list[str]) -> None:
    accounts = Accounts()
    slots: Slots[Frame] = Slots(accounts)
    waited = dict.fromkeys('abc', 0)
    waiting: set[str] = set()
    for number, camera in enumerate(arrivals):
        put(slots, accounts, f'{camera}{number}')
        waiting.add(camera)
        if number % 2:
            served = take(slots)[0]
            waiting.discard(served)
            waited[served] = 0
            for other in waiting:
                waited[other] += 1
                assert waited[other] <= 2


def test_take_waits_for_a_frame(slots: Slots[Frame], accounts: Accounts) -> None:
    taken = in_thread(lambda: take(slots))
    slots.wait_until_awaited()
    put(slots, accounts, 'a1')
    assert taken.result(PATIENCE_S) == 'a1'


def test_closing_wakes_who_takes_and_who_waits_for_that(slots: Slots[Frame]) -> None:
    taken = in_thread(slots.take)
    slots.wait_until_awaited()
    slots.close()
    assert taken.result(PATIENCE_S) == []
    slots.wait_until_awaited()


def test_slots_are_awaited_as_long_as_a_taker_finds_nothing(
    slots: Slots[Frame], accounts: Accounts
) -> None:
    awaited = in_thread(slots.wait_until_awaited)
    put(slots, accounts, 'a1')
    assert take(slots) == 'a1'
    assert not awaited.done()
    taken = in_thread(slots.take)
    awaited.result(PATIENCE_S)
    slots.close()
    taken.result(PATIENCE_S)


def cameras_of(frames: list[Frame]) -> str:
    return ''.join(frame.camera for frame in frames)


def test_a_batch_has_the_newest_frame_of_each_camera_in_turn(
    slots: Slots[Frame], accounts: Accounts
) -> None:
    put(slots, accounts, 'c1', 'a1', 'b1', 'a2')
    assert [frame.message for frame in slots.take(2)] == ['c1', 'a2']
    put(slots, accounts, 'a3')
    assert [frame.message for frame in slots.take(3)] == ['b1', 'a3']


def test_a_frame_waits_for_the_other_cameras_that_send(
    slots: Slots[Frame], accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    taken = in_thread(lambda: slots.take(2, PATIENCE_S))
    put(slots, accounts, 'b2')
    assert cameras_of(taken.result(PATIENCE_S)) == 'ab'


def test_no_frame_waits_beyond_the_bound(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    assert cameras_of(slots.take(2, 0.001)) == 'a'


def test_a_frame_waits_neither_for_silent_cameras_nor_beyond_the_limit(
    slots: Slots[Frame], accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(slots, accounts, 'a1', 'b1', 'c1')

    def taken(limit: int) -> str:
        return cameras_of(in_thread(lambda: slots.take(limit, 3600)).result(PATIENCE_S))

    assert taken(2) == 'ab'
    assert taken(1) == 'c'
    put(slots, accounts, 'a2', 'b2')
    assert taken(2) == 'ab'
    monkeypatch.setattr(frames, 'CAMERA_ACTIVE_S', 0.0)
    put(slots, accounts, 'a3')
    assert taken(3) == 'a'


def test_closing_ends_the_wait_for_company(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    taken = in_thread(lambda: slots.take(2, 3600))
    slots.close()
    assert taken.result(PATIENCE_S) == []
    assert accounts.snapshot()['not_wanted'] == 1


def test_a_hand_off_holds_up_the_giver_until_the_taker_is_free() -> None:
    hand_off: HandOff[int] = HandOff()
    given = in_thread(lambda: [hand_off.give(1), hand_off.give(2)])
    assert hand_off.take() == 1
    assert not given.done()
    assert hand_off.take() == 2
    assert given.result(PATIENCE_S) == [True, True]


def test_a_closed_hand_off_takes_nothing_and_loses_nothing() -> None:
    hand_off: HandOff[int] = HandOff()
    taken = in_thread(hand_off.take)
    assert hand_off.give(1)
    hand_off.close()
    assert taken.result(PATIENCE_S) == 1
    assert hand_off.take() is None
    assert not hand_off.give(2)


def test_closing_a_hand_off_frees_the_giver() -> None:
    hand_off: HandOff[int] = HandOff()
    given = in_thread(lambda: hand_off.give(1))
    hand_off.close()
    assert given.result(PATIENCE_S) is False


def test_settled_is_when_nothing_is_in_flight(accounts: Accounts) -> None:
    accounts.wait_until_settled()
    accounts.arrive()
    accounts.arrive()
    settled = in_thread(accounts.wait_until_settled)
    accounts.settle('published')
    assert not settled.done()
    accounts.settle('failed')
    settled.result(PATIENCE_S)


def test_nobody_waits_for_frames_that_are_abandoned(accounts: Accounts) -> None:
    accounts.arrive()
    settled = in_thread(accounts.wait_until_settled)
    accounts.abandon()
    settled.result(PATIENCE_S)


def test_what_waits_at_the_end_is_not_wanted(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.close()
    assert accounts.snapshot()['not_wanted'] == 2
    assert slots.take() == []


def test_clearing_leaves_the_slots_open(slots: Slots[Frame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.clear()
    put(slots, accounts, 'a2')
    assert take(slots) == 'a2'
    assert accounts.snapshot()['not_wanted'] == 2


def test_a_frame_after_the_end_has_a_fate_too(slots: Slots[Frame], accounts: Accounts) -> None:
    slots.close()
    put(slots, accounts, 'a1')
    books = accounts.snapshot()
    assert (books['not_wanted'], books['in_flight']) == (1, 0)


def test_books_balance_at_any_moment_under_many_threads(
    slots: Slots[Frame], accounts: Accounts
) -> None:
    """Three cameras, one worker and one reader; the end comes in the middle."""
    count = 2000
    unbalanced: list[dict[str, int]] = []
    finished = threading.Event()

    def camera(name: str) -> None:
        for number in range(count):
            put(slots, accounts, f'{name}{number}')

    def work() -> None:
        while slots.take():
            accounts.settle('published')

    def read() -> None:
        while not finished.is_set():
            books = accounts.snapshot()
            if not balanced(books) or not 0 <= books['in_flight'] <= 7:
                unbalanced.append(books)

    cameras = [threading.Thread(target=camera, args=(name,)) for name in 'abc']
    worker, reader = threading.Thread(target=work), threading.Thread(target=read)
    for thread in (reader, worker, *cameras):
        thread.start()
    cameras[0].join(60)
    slots.close()
    for thread in (*cameras[1:], worker):
        thread.join(60)
    finished.set()
    reader.join(60)
    assert unbalanced == []
    books = accounts.snapshot()
    assert (books['received'], books['in_flight']) == (3 * count, 0)
    assert books['published'] + books['superseded'] + books['not_wanted'] == 3 * count


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


def test_percentiles_of_a_window() -> None:
    window = Window(4)
    for value in (100.0, 1.0, 2.0, 3.0, 4.0):
        window.add(value)
    assert window.percentiles(0, 50, 100) == [1.0, 2.5, 4.0]


def test_an_empty_window_has_no_percentiles() -> None:
    assert all(math.isnan(p) for p in Window().percentiles(50, 99))
    assert Window().rate_hz(now=3.0) == 0.0


def test_rate_counts_the_last_seconds() -> None:
    window = Window()
    for tick in range(100):
        window.add(tick / 10)
    assert window.rate_hz(now=9.95, span_s=5.0) == pytest.approx(10, abs=0.2)
    assert window.rate_hz(now=12.0, span_s=5.0) == pytest.approx(6, abs=0.2)
    assert window.rate_hz(now=100.0) == 0.0


def test_a_rate_above_what_the_window_holds_is_right() -> None:
    window = Window(100)
    for tick in range(5000):
        window.add(tick / 1000)
    assert window.rate_hz(now=5.0, span_s=5.0) == pytest.approx(1000, rel=0.02)
