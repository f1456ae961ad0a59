# SPDX-License-Identifier: Apache-2.0
"""Messages of several topics come together by their header stamps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bag_making import image_topic, label_cdr, stamp_ns

from segmentation_node.bags import messages
from segmentation_node.bags.matching import Pixels, by_stamp, decoded, stamps_ns
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError, ImageError

TOPIC = '/label_mask'


def stream(*stamps: int) -> Iterator[tuple[int, Pixels]]:
    for stamp in stamps:
        yield stamp, np.array([[stamp]], np.uint8)


def matched(*streams: Iterator[tuple[int, Pixels]]) -> list[tuple[int, list[int]]]:
    return [(s, [int(pixels[0, 0]) for pixels in found]) for s, found in by_stamp(*streams)]


def test_the_same_stamps_come_together() -> None:
    assert matched(stream(1, 2), stream(1, 2)) == [(1, [1, 1]), (2, [2, 2])]


def test_partners_wait_for_each_other_whatever_the_order() -> None:
    found = matched(stream(1, 2, 3, 4), stream(2, 1, 4, 3), stream(4, 3, 2, 1))
    assert sorted(found) == [(s, [s, s, s]) for s in (1, 2, 3, 4)]


def test_streams_of_different_lengths_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match='shorter'):
        matched(stream(1, 2), stream(1))


def test_only_wanted_stamps_are_decoded_and_each_once(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as out:
        for at, index in enumerate((2, 0, 2, 1)):
            out.write(image_topic(TOPIC), stamp_ns(at), label_cdr(index, [[at]]))
    with open_bag(tmp_path / 'bag') as bag:
        assert stamps_ns(bag, TOPIC) == [stamp_ns(i) for i in (2, 0, 2, 1)]
        wanted = {stamp_ns(2), stamp_ns(1)}
        found = list(decoded(bag, TOPIC, wanted, messages.decode_labels))
    assert [(s, pixels.tolist()) for s, pixels in found] == [
        (stamp_ns(2), [[0]]), (stamp_ns(1), [[3]]),
    ]  # fmt: skip


def test_a_message_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as out:
        out.write(image_topic(TOPIC), stamp_ns(0), label_cdr(0, [[1]]))
    with open_bag(tmp_path / 'bag') as bag, pytest.raises(BagError, match=f'{stamp_ns(0)} ns: '):
        list(decoded(bag, TOPIC, {stamp_ns(0)}, _refuse))


def _refuse(message: object) -> Pixels:
    raise ImageError('no labels')
