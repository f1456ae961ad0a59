# SPDX-License-Identifier: Apache-2.0
"""Frames between the threads of the pipeline, with one thread and with many."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S
from threads import in_thread

from segmentation_node.pipeline import slots as slots_module
from segmentation_node.pipeline.frames import FATES, Accounts, LiveFrame
from segmentation_node.pipeline.slots import HandOff, Slots


@pytest.fixture
def accounts() -> Accounts:
    return Accounts()


@pytest.fixture
def slots(accounts: Accounts) -> Slots[LiveFrame]:
    return Slots(accounts)


def put(slots: Slots[LiveFrame], accounts: Accounts, *messages: str) -> None:
    """Let frames arrive; a message is named by its camera's letter and a number."""
    for message in messages:
        accounts.arrive()
        slots.put(LiveFrame(message[0], message))


def take(slots: Slots[LiveFrame]) -> str:
    (frame,) = slots.take()
    return str(frame.message)


def balanced(books: dict[str, int]) -> bool:
    return books['received'] == sum(books[fate] for fate in FATES)


def test_newest_frame_wins(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'a2', 'a3')
    assert take(slots) == 'a3'
    assert accounts.snapshot()['superseded'] == 2
    assert accounts.snapshot()['in_flight'] == 1


def test_cameras_are_served_in_turn(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1', 'c1')
    assert take(slots) == 'a1'
    put(slots, accounts, 'a2', 'a3')
    assert take(slots) == 'b1'
    put(slots, accounts, 'a4')
    assert take(slots) == 'c1'
    assert take(slots) == 'a4'


def test_a_newer_frame_keeps_the_turn_of_the_one_it_replaces(
    slots: Slots[LiveFrame], accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1', 'a2')
    assert [take(slots), take(slots)] == ['a2', 'b1']


@given(st.lists(st.sampled_from('abc'), min_size=1))
def test_no_camera_waits_for_more_than_the_others(arrivals: list[str]) -> None:
    accounts = Accounts()
    slots: Slots[LiveFrame] = Slots(accounts)
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


def test_take_waits_for_a_frame(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    taken = in_thread(lambda: take(slots))
    slots.wait_for_taker()
    put(slots, accounts, 'a1')
    assert taken.result(PATIENCE_S) == 'a1'


def test_closing_wakes_takers_and_those_who_wait_for_them(slots: Slots[LiveFrame]) -> None:
    taken = in_thread(slots.take)
    slots.wait_for_taker()
    slots.close()
    assert taken.result(PATIENCE_S) == []
    slots.wait_for_taker()


def test_slots_have_a_taker_as_long_as_it_finds_nothing(
    slots: Slots[LiveFrame], accounts: Accounts
) -> None:
    has_taker = in_thread(slots.wait_for_taker)
    put(slots, accounts, 'a1')
    assert take(slots) == 'a1'
    assert not has_taker.done()
    taken = in_thread(slots.take)
    has_taker.result(PATIENCE_S)
    slots.close()
    taken.result(PATIENCE_S)


def cameras_of(frames: list[LiveFrame]) -> str:
    return ''.join(frame.camera for frame in frames)


def test_a_batch_has_the_newest_frame_of_each_camera_in_turn(
    slots: Slots[LiveFrame], accounts: Accounts
) -> None:
    put(slots, accounts, 'c1', 'a1', 'b1', 'a2')
    assert [frame.message for frame in slots.take(2)] == ['c1', 'a2']
    put(slots, accounts, 'a3')
    assert [frame.message for frame in slots.take(3)] == ['b1', 'a3']


def test_a_frame_waits_for_the_other_cameras_that_send(
    slots: Slots[LiveFrame], accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    taken = in_thread(lambda: slots.take(2, PATIENCE_S))
    put(slots, accounts, 'b2')
    assert cameras_of(taken.result(PATIENCE_S)) == 'ab'


def test_no_frame_waits_beyond_the_bound(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    assert cameras_of(slots.take(2, 0.001)) == 'a'


def test_a_frame_waits_neither_for_silent_cameras_nor_beyond_the_limit(
    slots: Slots[LiveFrame], accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(slots, accounts, 'a1', 'b1', 'c1')

    def taken(limit: int) -> str:
        return cameras_of(in_thread(lambda: slots.take(limit, 3600)).result(PATIENCE_S))

    assert taken(2) == 'ab'
    assert taken(1) == 'c'
    put(slots, accounts, 'a2', 'b2')
    assert taken(2) == 'ab'
    monkeypatch.setattr(slots_module, 'CAMERA_ACTIVE_S', 0.0)
    put(slots, accounts, 'a3')
    assert taken(3) == 'a'


def test_closing_ends_the_wait_for_other_cameras(
    slots: Slots[LiveFrame], accounts: Accounts
) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.take(2)
    put(slots, accounts, 'a2')
    taken = in_thread(lambda: slots.take(2, 3600))
    slots.close()
    assert taken.result(PATIENCE_S) == []
    assert accounts.snapshot()['not_wanted'] == 1


def test_a_hand_off_blocks_the_giver_until_the_taker_is_ready() -> None:
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


def test_what_waits_at_the_end_is_not_wanted(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.close()
    assert accounts.snapshot()['not_wanted'] == 2
    assert slots.take() == []


def test_clearing_leaves_the_slots_open(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    put(slots, accounts, 'a1', 'b1')
    slots.clear()
    put(slots, accounts, 'a2')
    assert take(slots) == 'a2'
    assert accounts.snapshot()['not_wanted'] == 2


def test_a_frame_after_the_end_has_a_fate_too(slots: Slots[LiveFrame], accounts: Accounts) -> None:
    slots.close()
    put(slots, accounts, 'a1')
    books = accounts.snapshot()
    assert (books['not_wanted'], books['in_flight']) == (1, 0)


def test_books_balance_at_any_moment_under_many_threads(
    slots: Slots[LiveFrame], accounts: Accounts
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
