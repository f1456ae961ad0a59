# SPDX-License-Identifier: Apache-2.0
"""Tests of fairness: slots, queue and turns are shared between clients."""

from typing import Any

import pytest
from patience import PATIENCE_S

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')

from test_web_batching import StubSegmenter, batcher, red, stub

from segmentation_node.web.capacity import Capacity
from segmentation_node.web.clients import ClientSlots, client_key
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.transfer_limits import TransferLimits

__all__ = ['stub']  # a fixture


def holders(slots: ClientSlots[str], *names: str, slow: str = '') -> list[tuple[bool, str | None]]:
    """Take slots for holders of the client in their first letter; `slow` ones can be evicted."""
    return [
        slots.take(name[0], name, lambda n: float(n[1:]) if n in slow.split() else None)
        for name in names
    ]


def test_one_client_gets_its_share_and_no_more() -> None:
    slots: ClientSlots[str] = ClientSlots(4, 0.75)
    assert holders(slots, 'a1', 'a2', 'a3', 'a4', 'b1') == [(True, None)] * 3 + [
        (False, None), (True, None)
    ]  # fmt: skip
    assert slots.held == 4
    assert holders(slots, 'b2', 'c1') == [(False, None)] * 2
    slots.release('a', 'a1')
    assert holders(slots, 'c1') == [(True, None)]


def test_a_client_with_its_share_reslots_its_own_slowest() -> None:
    slots: ClientSlots[str] = ClientSlots(8, 0.5)
    holders(slots, 'a1', 'a3', 'a2', 'a4', 'b9')
    assert holders(slots, 'a5', slow='a1 a3 a2 b9') == [(True, 'a3')]
    assert slots.held == 5
    slots.release('a', 'a3')  # already evicted
    assert slots.held == 5


def test_the_slowest_of_the_largest_client_makes_room() -> None:
    slots: ClientSlots[str] = ClientSlots(4, 0.75)
    holders(slots, 'a1', 'a2', 'b9', 'a3')
    assert holders(slots, 'c1', slow='a1 a2 b9') == [(True, 'a2')]
    assert holders(slots, 'c2', slow='a1 a3 b9') == [(True, 'a3')]


def test_no_slot_is_freed_for_a_client_that_has_more() -> None:
    slots: ClientSlots[str] = ClientSlots(4, 0.75)
    holders(slots, 'a1', 'a2', 'b1', 'c1')
    assert holders(slots, 'a3', slow='b1 c1') == [(False, None)]


def test_every_client_has_at_least_one_slot() -> None:
    assert holders(ClientSlots(1, 0.01), 'a1', 'b1') == [(True, None), (False, None)]


@pytest.mark.parametrize(
    ('host', 'key'),
    [
        ('192.0.2.7', '192.0.2.7'),
        ('::ffff:192.0.2.7', '192.0.2.7'),
        ('2001:db8:0:1:aaaa::7', '2001:db8:0:1::/64'),
        ('::1', '::/64'),
        ('testclient', 'testclient'),
        (None, ''),
    ],
)
def test_a_client_is_an_address_or_a_network(host: str | None, key: str) -> None:
    assert client_key(host) == key


def test_transfer_limits_have_a_start_a_rate_and_an_end() -> None:
    limits = TransferLimits(stall_s=10, min_bytes_per_s=100, max_s=60)
    assert [limits.allowed_s(n) for n in (0, 1000, 5000, 10**6)] == [10, 20, 60, 60]


def test_one_client_has_its_share_of_the_queue() -> None:
    capacity = Capacity(4, 400, lambda: 1.0, client_share=0.5)
    with capacity.reserve(1, 150, 'a'):
        for images, pixels in ((2, 2), (1, 51)):
            with pytest.raises(ProblemError, match='1 of them yours') as busy:
                capacity.reserve(images, pixels, 'a').__enter__()
            assert busy.value.headers == {'Retry-After': '1'}
        with capacity.reserve(2, 200, 'b'), capacity.reserve(1, 50, 'a'):
            assert (capacity.images, capacity.pixels) == (4, 400)
    with capacity.reserve(2, 200, 'a'):
        pass
    for images, pixels in ((3, 3), (1, 201)):
        with pytest.raises(ProblemError) as problem:
            capacity.reserve(images, pixels, 'b').__enter__()
        assert problem.value.kind == 'too-many-pixels'


def test_clients_are_served_in_turn(stub: type[StubSegmenter]) -> None:
    runs = batcher(max_batch=1)
    answers: list[Any] = [runs.submit('one', red(i), 'many') for i in range(4)]
    answers += [runs.submit('one', red(i), 'few') for i in (10, 11)]
    stub.leave.set()
    for answer in answers:
        answer.result(PATIENCE_S)
    assert stub.batches == [[0], [10], [1], [11], [2], [3]]
    runs.close()


def test_a_client_does_not_save_turns_up(stub: type[StubSegmenter]) -> None:
    runs = batcher(max_batch=1)
    stub.leave.set()
    for i in range(3):
        runs.submit('one', red(i), 'early').result(PATIENCE_S)
    stub.batches.clear()
    stub.leave.clear()
    first = [runs.submit('other', red(i), 'early') for i in (3, 4)]
    late = runs.submit('other', red(5), 'late')
    stub.leave.set()
    for answer in [*first, late]:
        answer.result(PATIENCE_S)
    assert stub.batches == [[3], [5], [4]]
    runs.close()
