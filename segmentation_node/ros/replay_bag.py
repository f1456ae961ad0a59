# SPDX-License-Identifier: Apache-2.0
"""Command: replay a bag in real time, where there is no `ros2 bag play`."""

import argparse
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TextIO

import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock
from tqdm import tqdm

from segmentation_node.bags.bounds import shown, tell
from segmentation_node.bags.interrupt import stop_on_signal
from segmentation_node.bags.messages import MAX_STAMP_S, SECOND_NS, is_video
from segmentation_node.bags.options import (
    HelpFormatter,
    add_input_options,
    add_quiet_option,
    not_negative,
    positive,
    rate_hz,
    topic_name,
)
from segmentation_node.bags.qos import RELIABLE
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.errors import BagError, SegmentationError, quoted
from segmentation_node.paths import with_extra
from segmentation_node.video import can_decode

CLOCK_TOPIC: Final = '/clock'
DEFAULT_CLOCK_HZ: Final = 40.0
#: How soon a signal is noticed while waiting.
SLICE_S: Final = 0.05
#: A subscriber that we see may not see us yet, and would miss the first message.
SETTLE_S: Final = 0.3
ACKNOWLEDGED_WITHIN: Final = Duration(seconds=2)
#: Messages that a publisher keeps at most: a bag may ask for all the memory there is.
MAX_DEPTH: Final = 1000
#: A type of ROS 2 messages; package and name become those of a Python module and class.
_MSGTYPE: Final = re.compile(r'([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)')
#: Serialized messages begin with their encoding, in 4 bytes.
MIN_CDR_BYTES: Final = 4

Stop = Callable[[], bool]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='replay_bag',
        description='Publish the messages of a bag at the pace of their recording, byte by byte '
        'as they were recorded and with the QoS they were recorded with. Options that '
        '"ros2 bag play" has too mean the same.',
        epilog='Ctrl-C ends it with status 0.',
        formatter_class=HelpFormatter,
    )
    add_input_options(parser)
    parser.add_argument('-r', '--rate', type=positive, default=1.0, help='times real time')
    parser.add_argument('-l', '--loop', action='store_true', help='begin again at the end')
    parser.add_argument(
        '--start-offset', type=not_negative, default=0.0, metavar='SECONDS',
        help='leave out this much of the beginning; latched messages in it are published at once',
    )  # fmt: skip
    parser.add_argument(
        '--clock', type=rate_hz, nargs='?', const=DEFAULT_CLOCK_HZ, metavar='HZ',
        help=f'publish the time of the bag on {CLOCK_TOPIC}, {DEFAULT_CLOCK_HZ:g} times a second '
        'unless told; for nodes with use_sim_time',
    )  # fmt: skip
    parser.add_argument(
        '--topics', nargs='+', metavar='TOPIC', default=[], help='only these; all without it'
    )
    parser.add_argument(
        '-m', '--remap', nargs='+', type=remapping, metavar='OLD:=NEW', default=[],
        help='publish topic OLD as NEW; OLD may be a name that ROS 2 does not allow',
    )  # fmt: skip
    parser.add_argument(
        '-d', '--delay', type=not_negative, default=0.0, metavar='SECONDS',
        help='wait before the first message',
    )  # fmt: skip
    parser.add_argument(
        '--wait-for-subscribers', nargs='*', type=topic_name, metavar='TOPIC',
        help='begin when these topics, as published, have a subscriber each, or as many as times '
        'the topic is named; any topic where none is named',
    )  # fmt: skip
    parser.add_argument(
        '--log', type=Path, metavar='FILE',
        help='write when each message was sent: lines of topic, time in the bag, and time of day, '
        'in nanoseconds, with tabs between',
    )  # fmt: skip
    parser.add_argument(
        '--decode-video', action='store_true',
        help='publish compressed video (CompressedVideo of Foxglove, FFMPEGPacket of '
        'ffmpeg_image_transport) as sensor_msgs/msg/Image under its name; needs PyAV',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


def remapping(text: str) -> tuple[str, str]:
    """Parse OLD:=NEW."""
    old, mark, new = text.partition(':=')
    if not mark or not old:
        raise argparse.ArgumentTypeError(f'{text!r} is no remapping; expected OLD:=NEW')
    # A bag may have any name, also one that ROS 2 does not allow.
    return old, topic_name(new)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    own, ros = split_ros_args(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(own)
    try:
        with (
            open_bag(args.input, args.salvage, args.decode_video) as bag,
            stop_on_signal() as stop,
            ros_node(ros) as node,
        ):
            _replay(args, bag, node, lambda: bool(stop))
    except (SegmentationError, OSError) as error:
        tell('replay_bag', error)
        return 1
    return 0


def split_ros_args(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our arguments, and those from --ros-args on.

    rclpy must not see ours: it takes OLD:=NEW for a remapping of its own, before --ros-args too.
    """
    at = argv.index('--ros-args') if '--ros-args' in argv else len(argv)
    return list(argv[:at]), list(argv[at:])


@contextmanager
def ros_node(argv: Sequence[str]) -> Iterator[Node]:
    """A node that only publishes; signals stay with the caller.

    It spins in the background for the sake of the warnings about subscriptions of another QoS.
    """
    rclpy.init(args=list(argv), signal_handler_options=SignalHandlerOptions.NO)
    node = Node('replay_bag', start_parameter_services=False, enable_rosout=False)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, name='spin')
    spinning.start()
    try:
        yield node
    finally:
        executor.shutdown()
        spinning.join()
        node.destroy_node()
        rclpy.shutdown()


def _replay(args: argparse.Namespace, bag: Bag, node: Node, stop: Stop) -> None:
    remap = dict(args.remap)
    topics, skipped = playable(bag, args.topics, remap)
    for topic, reason in skipped.items():
        tell('replay_bag', f'warning: {topic.shown} is skipped: {reason}')
    if not topics:
        raise BagError(
            f'{bag.path} has no topic that can be replayed here; it has {bag.listing()}'
        )
    unknown = sorted(set(remap) - {topic.name for topic in topics})
    if unknown:
        raise BagError(
            f'--remap of {", ".join(map(shown, unknown))}, expected topics that are replayed: '
            f'{", ".join(topic.shown for topic in topics)}'
        )
    for topic in topics:
        if topic.qos_is_damaged:
            tell(
                'replay_bag',
                f'warning: {topic.shown} has QoS profiles that make no sense; it is published '
                f'{RELIABLE.reliability} and {RELIABLE.durability}, with depth {RELIABLE.depth}',
            )
        depth = max((qos.depth for qos in topic.qos), default=0)
        if depth > MAX_DEPTH:
            tell('replay_bag', f'warning: {topic.shown} has depth {depth}, cut to {MAX_DEPTH}')
    publishers = {
        topic: node.create_publisher(
            kind,
            remap.get(topic.name, topic.name),
            publisher_qos(topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        for topic, kind in topics.items()
    }
    if args.wait_for_subscribers is not None:
        wait_for_subscribers(publishers.values(), args.wait_for_subscribers, stop)
    sleep_until(time.monotonic() + args.delay, stop)
    player = Player(bag, publishers, args.rate, args.start_offset, stop, args.quiet)
    with clock_publisher(node, args.clock, player.now_ns), _log(args.log) as player.log:
        while player.play() and args.loop:
            pass
    for publisher in publishers.values():
        if not stop():
            publisher.wait_for_all_acked(ACKNOWLEDGED_WITHIN)
    for reason, count in (*player.unfit.items(), *bag.lost.items()):
        tell('replay_bag', f'warning: {count} messages were left out: {reason}')
    print(f'{player.published} messages published, at most {player.max_late_s * 1e3:.0f} ms late')


def playable(
    bag: Bag, wanted: Sequence[str], remap: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[Topic, Any], dict[Topic, str]]:
    """The wanted topics (all where none are named) with their message classes, and what hinders.

    Raises:
        BagError: a wanted topic is not in the bag.
    """
    names = set(wanted)
    for name in names:
        bag.topic(name)
    chosen = [topic for topic in bag.topics if not names or topic.name in names]
    topics: dict[Topic, Any] = {}
    skipped: dict[Topic, str] = {}
    types: dict[str, str] = {}
    for topic in chosen:
        name = remap.get(topic.name, topic.name)
        kind = name_problem(topic.name, name) or message_class(topic)
        if isinstance(kind, str) and is_video(topic):
            kind += '; --decode-video publishes its frames as images'
            kind += '' if can_decode() else f' (pip install {with_extra("demo")})'
        if not isinstance(kind, str) and types.setdefault(name, topic.msgtype) != topic.msgtype:
            kind = f'{shown(name)} is published with type {types[name]} already'
        if isinstance(kind, str):
            skipped[topic] = kind
        else:
            topics[topic] = kind
    return topics, skipped


def name_problem(old: str, name: str) -> str:
    """Why a topic cannot be published under a name, '' where it can."""
    reason = ''
    if not name.isascii() or not name.isprintable():
        reason = 'only letters, digits, underscores and slashes'
    else:
        try:
            validate_full_topic_name(name if name.startswith('/') else f'/{name}')
        except InvalidTopicNameException as error:
            # The first line says why, the others repeat the name.
            reason = str(error).partition('\n')[0].strip(':')
    if not reason:
        return ''
    return (
        f'ROS 2 does not allow its name ({reason}); publish it under another one: '
        f"--remap '{shown(old)}:=/another_name'"
    )


def message_class(topic: Topic) -> Any:
    """The Python class of a topic's type, or why there is none."""
    found = _MSGTYPE.fullmatch(topic.msgtype)
    if topic.serialization_format != 'cdr' or not found:
        return (
            f'{quoted(topic.msgtype)} in {quoted(topic.serialization_format)} is no ROS 2 message'
        )
    package, name = found.groups()
    try:
        # Looked up before: importing runs code, and a bag may name any module there is.
        spec = find_spec(package)
        places = spec.submodule_search_locations if spec else None
        if not any(Path(place, 'msg', '__init__.py').is_file() for place in places or ()):
            return f'type {topic.shown_type} is not installed (no package {shown(package)})'
        return getattr(import_module(f'{package}.msg'), name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = shown(str(error), 300)
        return f'type {topic.shown_type} is not installed ({reason})'


def publisher_qos(topic: Topic) -> QoSProfile:
    """What the recorded publishers offered, the most where several offered different things.

    A deeper queue than MAX_DEPTH is cut to it. Deadline, lifespan and liveliness were promises
    about the live system and are not made again.
    """
    offered = topic.qos or (RELIABLE,)
    reliable = any(qos.reliability != 'best_effort' for qos in offered)
    latched = any(qos.latched for qos in offered)
    keep_all = all(qos.history == 'keep_all' for qos in offered)
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_ALL if keep_all else QoSHistoryPolicy.KEEP_LAST,
        depth=min(max(qos.depth for qos in offered) or RELIABLE.depth, MAX_DEPTH),
        reliability=(
            QoSReliabilityPolicy.RELIABLE if reliable else QoSReliabilityPolicy.BEST_EFFORT
        ),
        durability=(
            QoSDurabilityPolicy.TRANSIENT_LOCAL if latched else QoSDurabilityPolicy.VOLATILE
        ),
    )


def sleep_until(deadline_s: float, stop: Stop) -> None:
    """Sleep until a time of the monotonic clock, or until asked to stop."""
    while not stop():
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            return
        time.sleep(min(left_s, SLICE_S))


def wait_for_subscribers(
    publishers: Iterable[Publisher], names: Sequence[str], stop: Stop
) -> None:
    """Wait until each of the named topics has a subscriber, or any topic where none is named.

    Raises:
        BagError: a name that is not published.
    """
    by_name = {publisher.topic_name: publisher for publisher in publishers}
    unknown = sorted(set(names) - set(by_name))
    if unknown:
        raise BagError(
            f'--wait-for-subscribers of {", ".join(unknown)}, expected topics that are published: '
            f'{", ".join(by_name)}'
        )
    enough = all if names else any
    awaited = [by_name[name] for name in names or by_name]

    def there() -> bool:
        # A topic that is named twice waits for two.
        return enough(
            p.get_subscription_count() >= max(1, names.count(p.topic_name)) for p in awaited
        )

    if not there():
        wanted = ', '.join(publisher.topic_name for publisher in awaited)
        print(f'waiting for subscribers of {wanted}', file=sys.stderr)
    while not stop() and not there():
        time.sleep(SLICE_S)
    sleep_until(time.monotonic() + SETTLE_S, stop)


class Player:
    """Publishes the messages of a bag when they are due."""

    def __init__(
        self,
        bag: Bag,
        publishers: Mapping[Topic, Publisher],
        rate: float,
        start_offset_s: float,
        stop: Stop,
        quiet: bool,
    ) -> None:
        self.published = 0
        self.max_late_s = 0.0
        #: Messages that cannot be published, by reason.
        self.unfit: Counter[str] = Counter()
        #: Where to write when messages were sent; None to keep no record.
        self.log: TextIO | None = None
        self._bag = bag
        self._publishers = publishers
        self._rate = rate
        # From 0 where nothing is left out: the first message may not have the earliest stamp.
        offset_ns = round(start_offset_s * SECOND_NS)
        self._begin_ns = bag.start_ns + offset_ns if offset_ns else 0
        self._stop = stop
        self._quiet = quiet
        #: Time of the bag and of the monotonic clock where they were first known together.
        self._start: tuple[int, float] | None = None

    def now_ns(self) -> int | None:
        """Time of the bag now, None before its first message is known."""
        if self._start is None:
            return None
        start_ns, started_s = self._start
        return start_ns + round((time.monotonic() - started_s) * self._rate * SECOND_NS)

    def play(self) -> bool:
        """Play to the end; False where it was stopped before or nothing was published."""
        published_before = self.published
        names = {topic.name for topic in self._publishers}
        total = sum(self._bag.counts[topic] for topic in self._publishers)
        self._start = None
        with tqdm(total=total, unit='msg', disable=self._quiet or None) as progress:
            for message in self._bag.messages(names):
                if message.topic in self._publishers:
                    reason = message_problem(message)
                    if reason:
                        self.unfit[reason] += 1
                    else:
                        self._publish(message)
                    progress.update()
                if self._stop():
                    return False
        return self.published > published_before

    def _publish(self, message: RawMessage) -> None:
        if message.stamp_ns < self._begin_ns:
            if not any(qos.latched for qos in message.topic.qos):
                return
            due_s = time.monotonic()
        else:
            # Not before: to read what is left out takes its time.
            if self._start is None:
                self._start = self._begin_ns or message.stamp_ns, time.monotonic()
            start_ns, started_s = self._start
            # Each deadline counts from the start: being late once delays nothing that follows.
            due_s = started_s + max(0, message.stamp_ns - start_ns) / SECOND_NS / self._rate
            sleep_until(due_s, self._stop)
        if self._stop():
            return
        sent_ns = time.time_ns()
        self._publishers[message.topic].publish(message.cdr)
        self.published += 1
        if self.log is not None:
            self.log.write(f'{message.topic.shown}\t{message.stamp_ns}\t{sent_ns}\n')
        self.max_late_s = max(self.max_late_s, time.monotonic() - due_s)


def message_problem(message: RawMessage) -> str:
    """Why a message cannot be published, '' where it can."""
    if len(message.cdr) < MIN_CDR_BYTES:
        return f'{message.topic.shown} has messages of less than {MIN_CDR_BYTES} bytes'
    if message.cdr[0]:
        return f'{message.topic.shown} has messages that are no CDR, the format of ROS 2'
    if not 0 <= message.stamp_ns < MAX_STAMP_S * SECOND_NS:
        return f'{message.topic.shown} has stamps outside of 0 to 2^31 s, the time of ROS 2'
    return ''


@contextmanager
def _log(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open('w', encoding='utf-8') as stream:
        yield stream


@contextmanager
def clock_publisher(
    node: Node, rate_hz: float | None, now_ns: Callable[[], int | None]
) -> Iterator[None]:
    """Publish a time on /clock in the background, at `rate_hz` if that is not None."""
    if rate_hz is None:
        yield
        return
    publisher = node.create_publisher(Clock, CLOCK_TOPIC, QoSProfile(depth=1))
    done = threading.Event()

    def publish() -> None:
        due_s = time.monotonic()
        while not done.wait(max(0.0, due_s - time.monotonic())):
            time_ns = now_ns()
            if time_ns is not None:
                clock = Clock()
                clock.clock.sec, clock.clock.nanosec = divmod(time_ns, SECOND_NS)
                publisher.publish(clock)
            due_s += 1 / rate_hz

    thread = threading.Thread(target=publish, name='clock')
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == '__main__':
    sys.exit(main())
