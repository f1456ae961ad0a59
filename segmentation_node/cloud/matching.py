# SPDX-License-Identifier: Apache-2.0
"""Matching of messages of several topics by their stamps, in bounded queues."""

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

T = TypeVar('T')


class StampMatcher(Generic[T]):
    """Matches each label mask with a depth message, and with other images of the mask's stamp.

    Depth matches exactly, or else the nearest within a tolerance does, as soon as no nearer one
    can arrive: it is later than the mask, or another one has followed it. Within a queue, a
    message of the same stamp supersedes the one before, a full queue its oldest message, and a
    match everything that arrived before it.
    """

    def __init__(
        self,
        depth: str,
        mask: str,
        others: Collection[str] = (),
        *,
        tolerance_ns: int,
        queue_size: int,
        superseded: Callable[[str], None],
    ) -> None:
        """Prepare empty queues.

        Args:
            depth: topic of depth images or clouds.
            mask: topic of label masks.
            others: topics that must have a message with the stamp of the mask.
            tolerance_ns: maximum difference between the stamps of depth and mask.
            queue_size: maximum number of waiting messages of each topic.
            superseded: is called with the topic of each superseded message.
        """
        self._depth, self._mask = depth, mask
        self._queues: dict[str, dict[int, T]] = {name: {} for name in (depth, mask, *others)}
        self._tolerance_ns, self._queue_size = tolerance_ns, queue_size
        self._superseded = superseded

    def add(self, topic: str, stamp_ns: int, item: T) -> dict[str, T] | None:
        """Add a message; return the items of all topics if it completes a match."""
        queue = self._queues[topic]
        if stamp_ns in queue:
            del queue[stamp_ns]
            self._superseded(topic)
        queue[stamp_ns] = item
        if len(queue) > self._queue_size:
            del queue[next(iter(queue))]
            self._superseded(topic)
        return self._match()

    def clear(self) -> dict[str, int]:
        """Remove all waiting messages and return their number by topic."""
        waiting = {topic: len(queue) for topic, queue in self._queues.items()}
        for queue in self._queues.values():
            queue.clear()
        return waiting

    def _match(self) -> dict[str, T] | None:
        of_mask = [queue for topic, queue in self._queues.items() if topic != self._depth]
        for stamp_ns in reversed(self._queues[self._mask]):
            if all(stamp_ns in queue for queue in of_mask):
                depth_ns = self._nearest(stamp_ns)
                if depth_ns is not None:
                    return {
                        topic: self._take(topic, depth_ns if topic == self._depth else stamp_ns)
                        for topic in self._queues
                    }
        return None

    def _nearest(self, stamp_ns: int) -> int | None:
        """Return the stamp of the depth message that matches; None if it may still arrive."""
        queue = self._queues[self._depth]
        if stamp_ns in queue:
            return stamp_ns
        nearest = min(queue, key=lambda depth_ns: abs(depth_ns - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > self._tolerance_ns:
            return None
        is_final = nearest > stamp_ns or nearest != next(reversed(queue))
        return nearest if is_final else None

    def _take(self, topic: str, stamp_ns: int) -> T:
        queue = self._queues[topic]
        for waiting_ns in list(queue):
            item = queue.pop(waiting_ns)
            if waiting_ns == stamp_ns:
                return item
            self._superseded(topic)
        raise AssertionError(f'{topic} has no message of {stamp_ns} ns')
