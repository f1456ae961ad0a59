# SPDX-License-Identifier: Apache-2.0
"""Part of a bag that is replayed: a time range, and topics by name or pattern."""

import argparse
import re
from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from segmentation_node.bags.messages import MAX_STAMP_S, SECOND_NS
from segmentation_node.bags.reader import Bag
from segmentation_node.bags.topic import Topic
from segmentation_node.cli import positive
from segmentation_node.errors import BagError

#: Topic of the time in ROS 2.
CLOCK_TOPIC: Final = '/clock'


@dataclass(frozen=True)
class Extent:
    """Part of a bag to play, in nanoseconds, both ends included."""

    begin_ns: int = 0
    end_ns: int | None = None

    def is_over(self, stamp_ns: int) -> bool:
        """Return whether a message comes after the end."""
        return self.end_ns is not None and stamp_ns > self.end_ns


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that select a part of a bag and topics in it."""
    parser.add_argument(
        '--playback-duration', type=_duration_s, metavar='SECONDS',
        help='length of the part to play, from the start offset; default: to the end',
    )  # fmt: skip
    until = parser.add_mutually_exclusive_group()
    until.add_argument(
        '--playback-until-sec', type=_until_ns, dest='until_ns', metavar='SECONDS',
        help='end of the part to play, in seconds since 1970; with --playback-duration, the '
        'later end applies',
    )  # fmt: skip
    until.add_argument(
        '--playback-until-nsec', type=int, dest='until_ns', metavar='NANOSECONDS',
        help='the same in nanoseconds',
    )  # fmt: skip
    parser.add_argument(
        '--topics', nargs='+', metavar='TOPIC', default=[], help='topics to play; default: all'
    )
    parser.add_argument(
        '-e', '--regex', type=_pattern, metavar='REGEX',
        help='play topics whose whole name matches, in addition to --topics',
    )  # fmt: skip
    parser.add_argument(
        '--exclude-topics',
        nargs='+',
        metavar='TOPIC',
        default=[],
        help='topics that are not played',
    )
    parser.add_argument(
        '-x', '--exclude-regex', type=_pattern, metavar='REGEX',
        help='do not play topics whose whole name matches',
    )  # fmt: skip


def _duration_s(text: str) -> float | None:
    """Parse seconds above 0; a negative number is no limit, as in `ros2 bag play`."""
    return None if text.startswith('-') and positive(text[1:]) else positive(text)


def _until_ns(text: str) -> int:
    try:
        if not abs(float(text)) < MAX_STAMP_S:
            raise ValueError('out of range')
        # Exactly: a float holds times of today to a quarter of a microsecond.
        return round(Decimal(text) * SECOND_NS)
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a time; expected seconds since 1970, below 2^31'
        ) from None


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is not a regular expression ({error}); expected one like /camera/.*'
        ) from None


def play_extent(
    bag: Bag, start_offset_s: float, duration_s: float | None, until_ns: int | None
) -> Extent:
    """Return the part of a bag to play.

    Args:
        bag: the offset counts from its first message.
        start_offset_s: length of the skipped beginning.
        duration_s: length of the part; None is to the end.
        until_ns: last time to play, negative or None is the end; with a duration, the later end
            applies.

    Raises:
        BagError: the end is before the beginning.
    """
    start_ns = bag.start_ns
    begin_ns = start_ns + round(start_offset_s * SECOND_NS)
    ends_ns = [] if duration_s is None else [begin_ns + round(duration_s * SECOND_NS)]
    ends_ns += [until_ns] if until_ns is not None and until_ns >= 0 else []
    end_ns = max(ends_ns, default=None)
    if end_ns is not None and end_ns < begin_ns:
        raise BagError(
            f'{bag.path} begins at {start_ns} ns, with the start offset at {begin_ns} ns, and is '
            f'to be played until {end_ns} ns: nothing; choose a later end'
        )
    # From 0 without an offset: the first message may not have the earliest stamp.
    return Extent(begin_ns if start_offset_s else 0, end_ns)


@dataclass(frozen=True)
class Selection:
    """Topics to play, by name or by a pattern of the whole name; exclusions take precedence."""

    topics: Collection[str] = ()
    regex: re.Pattern[str] | None = None
    exclude_topics: Collection[str] = ()
    exclude_regex: re.Pattern[str] | None = None

    def of(self, bag: Bag, *, without_clock: bool = False) -> list[Topic]:
        """Return the selected topics of a bag.

        Args:
            bag: to select from.
            without_clock: leave out the recorded /clock, since another one is published.

        Raises:
            BagError: a named topic is not in the bag, or no topic is left.
        """
        for name in (*self.topics, *self.exclude_topics):
            bag.topic(name)
        found = [
            topic
            for topic in bag.topics
            if self._has(topic.name) and not (without_clock and topic.name == CLOCK_TOPIC)
        ]
        if not found:
            raise BagError(
                f'{bag.path} has no topic that is selected; it has {bag.listing()}: choose others '
                f'by --topics, --regex, --exclude-topics and --exclude-regex'
            )
        return found

    def _has(self, name: str) -> bool:
        if name in self.exclude_topics or _matches(self.exclude_regex, name):
            return False
        everything = not self.topics and self.regex is None
        return everything or name in self.topics or _matches(self.regex, name)


def _matches(pattern: re.Pattern[str] | None, name: str) -> bool:
    return pattern is not None and pattern.fullmatch(name) is not None
