# SPDX-License-Identifier: Apache-2.0
"""Messages of several topics of one or more bags, matched by their stamps.

Messages of one frame have the same header stamp. Some cameras leave it at 0 or repeat it; their
messages are matched by the time of recording, which `segment_bag` keeps.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.bounds import shown
from segmentation_node.bags.camera_frames import decodable
from segmentation_node.bags.reader import Bag
from segmentation_node.errors import BagError, ImageError

Decode: TypeAlias = Callable[[Any], UInt8Array]


class FrameTime(NamedTuple):
    """Identity of a frame: its header stamp, or the time of recording if stamps repeat."""

    recorded: bool
    time_ns: int


class Matching:
    """Frames that several image topics have in common.

    `counts` are the messages of each topic, `recorded` the number of frames that are matched by
    the time of recording.

    Raises:
        BagError: header stamps repeat, and the times of recording do not match either.
    """

    def __init__(self, topics: Sequence[tuple[Bag, str]]) -> None:
        times = [
            [(messages.stamp_ns_of(message), recorded_ns)
             for recorded_ns, message in _images(bag, name)]
            for bag, name in topics
        ]  # fmt: skip
        self.counts = [len(found) for found in times]
        stamps = [Counter(stamp_ns for stamp_ns, _ in found) for found in times]
        self._repeated = {
            stamp_ns for found in stamps for stamp_ns, count in found.items() if count > 1
        }
        keys = [Counter(self._time(*time) for time in found) for found in times]
        #: Times that occur once.
        single = [{time for time, count in found.items() if count == 1} for found in keys]
        self.frames = set.intersection(*single)
        self.recorded = sum(time.recorded for time in self.frames)
        open_ = [
            sum(count for time, count in found.items() if time.recorded) - self.recorded
            for found in keys
        ]
        if sum(map(bool, open_)) > 1:
            self._refuse(topics, stamps, open_)

    def __len__(self) -> int:
        return len(self.frames)

    def pixels(
        self, topics: Sequence[tuple[Bag, str, Decode]]
    ) -> Iterator[tuple[FrameTime, tuple[UInt8Array, ...]]]:
        """Yield each frame with its pixels of all topics, which are those that were matched.

        Raises:
            BagError: a message cannot be decoded; names its topic and time.
        """
        return together(*(self._decoded(*topic) for topic in topics))

    def _time(self, stamp_ns: int, recorded_ns: int) -> FrameTime:
        repeats = stamp_ns in self._repeated
        return FrameTime(repeats, recorded_ns if repeats else stamp_ns)

    def _decoded(
        self, bag: Bag, name: str, decode: Decode
    ) -> Iterator[tuple[FrameTime, UInt8Array]]:
        for recorded_ns, message in _images(bag, name):
            time = self._time(messages.stamp_ns_of(message), recorded_ns)
            if time in self.frames:
                try:
                    yield time, decode(message)
                except ImageError as error:
                    raise BagError(
                        f'{shown(name)} of {bag.path} at {time.time_ns} ns: {error}'
                    ) from error

    def _refuse(
        self,
        topics: Sequence[tuple[Bag, str]],
        stamps: Sequence[Counter[int]],
        open_: Sequence[int],
    ) -> None:
        parts = []
        for (bag, name), found, count in zip(topics, stamps, open_, strict=True):
            stamp_ns, times = found.most_common(1)[0] if found else (0, 0)
            parts.append(
                f'{count} of {shown(name)} of {bag.path}'
                + (f' (stamp {stamp_ns} ns occurs {times} times)' if times > 1 else '')
            )
        raise BagError(
            f'header stamps repeat, and the messages were recorded at different times, so they '
            f'cannot be matched: {", ".join(parts)}; correct the stamps in the camera '
            f'driver and record again, or segment the bag of the camera with segment_bag, whose '
            f'masks keep both times'
        )


def _images(bag: Bag, name: str) -> Iterator[tuple[int, Any]]:
    """Yield the time of recording and each message; raises BagError on other types."""
    for raw in bag.messages({name}):
        yield raw.stamp_ns, decodable(raw)


def together(
    *streams: Iterator[tuple[FrameTime, UInt8Array]],
) -> Iterator[tuple[FrameTime, tuple[UInt8Array, ...]]]:
    """Yield time and pixels of streams that have the same frames, each once.

    The streams are about in the order of time, so few frames wait for their partners.
    """
    waiting: list[dict[FrameTime, UInt8Array]] = [{} for _ in streams]
    for items in zip(*streams, strict=True):
        for there, (time, pixels) in zip(waiting, items, strict=True):
            there[time] = pixels
        for time in dict.fromkeys(time for time, _ in items):
            if all(time in there for there in waiting):
                yield time, tuple(there.pop(time) for there in waiting)
