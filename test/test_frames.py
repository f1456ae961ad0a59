# SPDX-License-Identifier: Apache-2.0
"""Frames between arrival and fate, with one thread and with many."""

import math
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_node.frames import FATES, Accounts, Frame, RateLimit, Slots, Window


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def slots(accounts: Accounts) -> Slots:
    return Slots(accounts)


def put(slots: Slots, accounts: Accounts, *messages: str) -> None:
    """Let frames arrive; a message is named by its camera's letter and a number."""
    for message in messages:
        accounts.arrive()
        slots.put(Frame(message[0], message))


def take(slots: Slots) -> str:
    frame = slots.take(threading.Event())
    assert frame is not None
    return str(frame.message)


def balanced(books: dict[str, int]) -> bool:
    return books['received'] == sum(books[fate] for fate in FATES)


def test_books_start_empty(accounts: Accounts) -> None:
    assert accounts.snapshot() == {'received': 0, 'in_flight': 0, **dict.fromkeys(FATES, 0)}


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


def test_newest_frame_wins(slots: Slots, accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'a2', 'a3')
    assert take(slots) == 'a3'
    assert accounts.snapshot()['superseded'] == 2
    assert accounts.snapshot()['in_flight'] == 1


def test_cameras_are_served_in_turn(slots: Slots, accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1', 'c1')
    assert take(slots) == 'a1'
    put(slots, accounts, 'a2', 'a3')
    assert take(slots) == 'b1'
    put(slots, accounts, 'a4')
    assert take(slots) == 'c1'
    assert take(slots) == 'a4'


def test_a_newer_frame_keeps_the_turn_of_the_one_it_replaces(
    slots: Slots, accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1', 'a2')
    assert [take(slots), take(slots)] == ['a2', 'b1']


@given(st.lists(st.sampled_from('abc'), min_size=1))
def test_no_camera_waits_for_more_than_the_others(arrivals: list[str]) -> None:
    accounts = Accounts()
    slots = Slots(accounts)
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


def test_taking_clears_idle_together_with_the_slot(slots: Slots, accounts: Accounts) -> None:
    idle = threading.Event()
    idle.set()
    put(slots, accounts, 'a1')
    assert idle.is_set()
    slots.take(idle)
    assert not idle.is_set()


def test_take_waits_for_a_frame(slots: Slots, accounts: Accounts) -> None:
    taken: list[Frame | None] = []
    taker = threading.Thread(target=lambda: taken.append(slots.take(threading.Event())))
    taker.start()
    put(slots, accounts, 'a1')
    taker.join(10)
    assert [frame.message for frame in taken if frame] == ['a1']


def test_closing_wakes_the_taker(slots: Slots) -> None:
    taken: list[Frame | None] = []
    idle = threading.Event()
    idle.set()
    taker = threading.Thread(target=lambda: taken.append(slots.take(idle)))
    taker.start()
    slots.close()
    taker.join(10)
    assert taken == [None]
    assert idle.is_set()


def test_what_waits_at_the_end_is_not_wanted(slots: Slots, accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.close()
    assert accounts.snapshot()['not_wanted'] == 2
    assert slots.take(threading.Event()) is None


def test_clearing_leaves_the_slots_open(slots: Slots, accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.clear()
    put(slots, accounts, 'a2')
    assert take(slots) == 'a2'
    assert accounts.snapshot()['not_wanted'] == 2


def test_a_frame_after_the_end_has_a_fate_too(slots: Slots, accounts: Accounts) -> None:
    slots.close()
    put(slots, accounts, 'a1')
    books = accounts.snapshot()
    assert (books['not_wanted'], books['in_flight']) == (1, 0)


def test_books_balance_at_any_moment_under_many_threads(slots: Slots, accounts: Accounts) -> None:
    """Three cameras, one worker and one reader; the end comes in the middle."""
    count = 2000
    unbalanced: list[dict[str, int]] = []
    finished = threading.Event()

    def camera(name: str) -> None:
        for number in range(count):
            put(slots, accounts, f'{name}{number}')

    def work() -> None:
        idle = threading.Event()
        while slots.take(idle):
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
