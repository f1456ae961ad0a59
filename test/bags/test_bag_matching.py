# SPDX-License-Identifier: Apache-2.0
"""Messages of several topics come together by their stamps, or it is said why they cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bag_making import image_topic, label_cdr, stamp_ns, string_cdr, string_topic

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.matching import FrameTime, Matching, together
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError, ImageError

MASKS, TRUTH = '/masks', '/truth'
#: Messages of a topic: when each was recorded, its header stamp, and its only label.
Rows = list[tuple[int, int, int]]


def stream(*stamps: int) -> Iterator[tuple[FrameTime, UInt8Array]]:
    for stamp in stamps:
        yield FrameTime(recorded=False, time_ns=stamp), np.array([[stamp]], np.uint8)


def matched(*streams: Iterator[tuple[FrameTime, UInt8Array]]) -> list[tuple[int, list[int]]]:
    return [
        (time.time_ns, [int(pixels[0, 0]) for pixels in found])
        for time, found in together(*streams)
    ]


def test_the_same_stamps_come_together() -> None:
    assert matched(stream(1, 2), stream(1, 2)) == [(1, [1, 1]), (2, [2, 2])]


def test_partners_wait_for_each_other_whatever_the_order() -> None:
    found = matched(stream(1, 2, 3, 4), stream(2, 1, 4, 3), stream(4, 3, 2, 1))
    assert sorted(found) == [(s, [s, s, s]) for s in (1, 2, 3, 4)]


def test_streams_of_different_lengths_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match='shorter'):
        matched(stream(1, 2), stream(1))


def bag_of(path: Path, masks: Rows, truth: Rows) -> Path:
    with BagWriter(path) as bag:
        for name, rows in ((MASKS, masks), (TRUTH, truth)):
            for recorded, stamp, label in rows:
                message = messages.image(
                    np.full((1, 1), label, np.uint8), 'mono8', messages.header(stamp, 'front')
                )
                bag.write(image_topic(name), recorded, messages.serialize(message))
    return path


def pairs(path: Path) -> tuple[list[list[int]], Matching]:
    """Labels that come together, and how they were matched."""
    with open_bag(path) as bag:
        matching = Matching([(bag, MASKS), (bag, TRUTH)])
        labels = messages.decode_labels
        found = [
            [int(pixels[0, 0]) for pixels in pictures]
            for _, pictures in matching.pixels([(bag, MASKS, labels), (bag, TRUTH, labels)])
        ]
    assert len(found) == len(matching)
    return sorted(found), matching


@pytest.mark.parametrize(
    ('masks', 'truth', 'together_', 'recorded'),
    [
        # Stamps that are told apart, whenever the messages were recorded; one may be 0.
        ([(10, 0, 1), (20, 2, 2)], [(11, 0, 5), (22, 2, 6), (30, 3, 7)], [[1, 5], [2, 6]], 0),
        # All stamps are 0.
        ([(10, 0, 1), (20, 0, 2)], [(10, 0, 5), (20, 0, 6)], [[1, 5], [2, 6]], 2),
        # A part of them.
        ([(10, 0, 1), (20, 0, 2), (33, 3, 3)], [(10, 0, 5), (20, 0, 6), (30, 3, 7)],
         [[1, 5], [2, 6], [3, 7]], 2),
        # A stamp repeats in one of the two only.
        ([(10, 1, 1), (20, 2, 2)], [(10, 1, 5), (15, 1, 6), (20, 2, 7)], [[1, 5], [2, 7]], 1),
        ([(10, 1, 1), (20, 1, 2)], [(10, 1, 5)], [[1, 5]], 1),
        # The same stamp for different frames of the two.
        ([(10, 1, 1), (20, 1, 2)], [(10, 1, 5), (20, 2, 6)], [[1, 5]], 1),
    ],
)  # fmt: skip
def test_frames_are_told_by_their_stamps_or_by_when_they_were_recorded(
    tmp_path: Path, masks: Rows, truth: Rows, together_: list[list[int]], recorded: int
) -> None:
    found, matching = pairs(bag_of(tmp_path / 'bag', masks, truth))
    assert found == together_
    assert matching.recorded == recorded
    assert matching.counts == [len(masks), len(truth)]


@pytest.mark.parametrize(
    ('masks', 'truth', 'says'),
    [
        ([(11, 0, 1), (21, 0, 2)], [(10, 0, 5), (20, 0, 6)], '2 of /masks .*0 ns occurs 2 times'),
        ([(10, 0, 1), (21, 0, 2)], [(10, 0, 5), (20, 0, 6)], '1 of /masks .*1 of /truth'),
        ([(11, 1, 1)], [(10, 1, 5), (20, 1, 6)], '2 of /truth .* .stamp 1 ns occurs 2 times'),
        # Recorded at one time, too.
        ([(10, 0, 1), (10, 0, 2)], [(10, 0, 5)], '2 of /masks'),
    ],
)
def test_what_cannot_be_told_is_refused(
    tmp_path: Path, masks: Rows, truth: Rows, says: str
) -> None:
    with pytest.raises(BagError, match=f'header stamps repeat.*{says}.*segment_bag'):
        pairs(bag_of(tmp_path / 'bag', masks, truth))


def test_a_message_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    path = bag_of(tmp_path / 'bag', [(10, 1, 1)], [(10, 1, 1)])
    with open_bag(path) as bag, pytest.raises(BagError, match=r'/masks of .* at 1 ns: no labels'):
        list(Matching([(bag, MASKS)]).pixels([(bag, MASKS, _refuse)]))


def _refuse(message: object) -> UInt8Array:
    raise ImageError('no labels')


def test_other_messages_under_the_name_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as out:
        out.write(image_topic(MASKS), stamp_ns(0), label_cdr(0, [[1]]))
        out.write(string_topic(MASKS), stamp_ns(1), string_cdr('x'))
    with open_bag(tmp_path / 'bag') as bag, pytest.raises(BagError, match=r'is a std_msgs/msg/St'):
        Matching([(bag, MASKS)])
