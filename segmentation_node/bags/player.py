# SPDX-License-Identifier: Apache-2.0
"""Publishes the messages of a bag in time, by a clock that can be paused."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, TextIO

from rclpy.publisher import Publisher
from tqdm import tqdm

from segmentation_node.bags.messages import MAX_STAMP_S, SECOND_NS
from segmentation_node.bags.playback_part import Extent
from segmentation_node.bags.qos import is_latched
from segmentation_node.bags.reader import Bag
from segmentation_node.bags.topic import RawMessage, Topic

#: Longest delay until a signal or a key is noticed.
SLICE_S: Final = 0.05
#: Serialized messages begin with their encoding, in 4 bytes.
MIN_CDR_BYTES: Final = 4
#: Change of the rate by a key, and the lowest rate.
RATE_STEP: Final = 0.1

Stop = Callable[[], bool]


def sleep_until(deadline_s: float, stop: Stop) -> None:
    """Sleep until a time of the monotonic clock, or until asked to stop."""
    while not stop():
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(left_s, SLICE_S))


class PlayClock:
    """Time of a bag, which passes at a rate and stops while paused.

    Keys change it in one thread while messages wait for it in another.
    """

    def __init__(self, rate: float = 1.0, *, paused: bool = False) -> None:
        self._lock = threading.Lock()
        self._rate, self._paused = rate, paused
        self._steps = 0
        #: Time of the bag and of the monotonic clock at the same moment.
        self._start: tuple[int, float] | None = None

    def start(self, bag_ns: int) -> None:
        """Set the time."""
        with self._lock:
            self._start = bag_ns, time.monotonic()

    def clear(self) -> None:
        """Forget the time until it is set again."""
        with self._lock:
            self._start = None

    @property
    def is_started(self) -> bool:
        """Return whether the time is set."""
        return self._start is not None

    def now_ns(self) -> int | None:
        """Return the current time of the bag, None before it is set."""
        with self._lock:
            return self._now_ns()

    def _now_ns(self) -> int | None:
        if self._start is None:
            return None
        start_ns, started_s = self._start
        if self._paused:
            return start_ns
        return start_ns + round((time.monotonic() - started_s) * self._rate * SECOND_NS)

    def _rebase(self) -> None:
        now_ns = self._now_ns()
        if now_ns is not None:
            self._start = now_ns, time.monotonic()

    def toggle(self) -> None:
        """Pause, or resume."""
        with self._lock:
            self._rebase()
            self._paused = not self._paused
            self._steps = 0

    def step(self) -> None:
        """Publish one more message while paused."""
        with self._lock:
            self._steps += self._paused

    def change_rate(self, by: float) -> None:
        """Change the rate, to at least RATE_STEP."""
        with self._lock:
            self._rebase()
            self._rate = max(RATE_STEP, round(self._rate + by, 6))

    def wait_until(self, bag_ns: int, stop: Stop) -> float:
        """Wait for a time of the bag or for `stop`; returns how late it is, in seconds.

        While paused it returns only for a step.
        """
        while not stop():
            with self._lock:
                now_ns = self._now_ns()
                if now_ns is None:
                    return 0.0
                left_s = (bag_ns - now_ns) / SECOND_NS / self._rate
                if self._paused and self._steps:
                    self._steps -= 1
                    self._start = max(now_ns, bag_ns), time.monotonic()
                    return 0.0
                if not self._paused and left_s <= 0:
                    return -left_s
                left_s = SLICE_S if self._paused else min(left_s, SLICE_S)
            time.sleep(left_s)
        return 0.0

    def wait_while_paused(self, stop: Stop) -> None:
        """Wait until time passes, or for `stop`."""
        while self._paused and not stop():
            time.sleep(SLICE_S)


class Player:
    """Publishes the messages of a bag when they are due."""

    def __init__(
        self,
        bag: Bag,
        publishers: Mapping[Topic, Publisher],
        clock: PlayClock,
        extent: Extent,
        stop: Stop,
        quiet: bool,
    ) -> None:
        self.published = 0
        self.max_late_s = 0.0
        #: Messages that cannot be published, by reason.
        self.unfit: Counter[str] = Counter()
        #: File for the times of sending; None for no log.
        self.log: TextIO | None = None
        self._bag = bag
        self._publishers = publishers
        self._clock, self._extent = clock, extent
        self._stop = stop
        self._quiet = quiet

    def play(self) -> bool:
        """Play to the end; returns False if it was stopped or published nothing."""
        published_before = self.published
        names = {topic.name for topic in self._publishers}
        total = sum(self._bag.counts[topic] for topic in self._publishers)
        self._clock.clear()
        with tqdm(total=total, unit='msg', disable=self._quiet or None) as progress:
            for message in self._bag.messages(names):
                if message.topic in self._publishers:
                    if self._extent.is_over(message.stamp_ns):
                        break
                    reason = message_problem(message)
                    if reason:
                        self.unfit[reason] += 1
                    else:
                        self._publish(message)
                    progress.update()
                if self._stop():
                    return False
        self._clock.wait_while_paused(self._stop)
        return self.published > published_before and not self._stop()

    def _publish(self, message: RawMessage) -> None:
        if message.stamp_ns < self._extent.begin_ns:
            if not is_latched(message.topic.qos):
                return
            self._clock.wait_while_paused(self._stop)
            due_s = time.monotonic()
        else:
            # Not earlier: reading the part before it takes time.
            if not self._clock.is_started:
                self._clock.start(self._extent.begin_ns or message.stamp_ns)
            due_s = -self._clock.wait_until(message.stamp_ns, self._stop) + time.monotonic()
        if self._stop():
            return
        sent_ns = time.time_ns()
        self._publishers[message.topic].publish(message.cdr)
        self.published += 1
        if self.log is not None:
            self.log.write(f'{message.topic.shown}\t{message.stamp_ns}\t{sent_ns}\n')
        self.max_late_s = max(self.max_late_s, time.monotonic() - due_s)


def message_problem(message: RawMessage) -> str:
    """Return why a message cannot be published, '' where it can."""
    if len(message.cdr) < MIN_CDR_BYTES:
        return f'{message.topic.shown} has messages of less than {MIN_CDR_BYTES} bytes'
    if message.cdr[0]:
        return f'{message.topic.shown} has messages that are not CDR, the format of ROS 2'
    if not 0 <= message.stamp_ns < MAX_STAMP_S * SECOND_NS:
        return f'{message.topic.shown} has stamps outside of 0 to 2^31 s, the time of ROS 2'
    return ''
