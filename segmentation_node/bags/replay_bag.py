# SPDX-License-Identifier: Apache-2.0
"""Command: replay a bag in real time, where there is no `ros2 bag play`."""

import argparse
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
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
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name
from rosgraph_msgs.msg import Clock

from segmentation_node.bags.bounds import shown, tell
from segmentation_node.bags.keyboard import DOWN, RIGHT, SPACE, UP, has_keyboard, keys
from segmentation_node.bags.messages import MAX_STAMP_S, SECOND_NS, is_video
from segmentation_node.bags.options import add_input_options
from segmentation_node.bags.player import (
    RATE_STEP,
    SLICE_S,
    Extent,
    PlayClock,
    Player,
    Stop,
    sleep_until,
)
from segmentation_node.bags.publisher_qos import MAX_DEPTH, read_overrides, recorded_qos
from segmentation_node.bags.qos import RELIABLE
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.cli import (
    HelpFormatter,
    add_quiet_option,
    not_negative,
    positive,
    rate_hz,
    topic_name,
)
from segmentation_node.errors import BagError, SegmentationError, SettingError, quoted
from segmentation_node.images.video import can_decode
from segmentation_node.interrupt import stop_on_signal
from segmentation_node.paths import with_extra

CLOCK_TOPIC: Final = '/clock'
DEFAULT_CLOCK_HZ: Final = 40.0
#: A subscriber that we see may not see us yet, and would miss the first message.
SETTLE_S: Final = 0.3
ACKNOWLEDGED_WITHIN: Final = Duration(seconds=2)
#: A type of ROS 2 messages; package and name become those of a Python module and class.
_MSGTYPE: Final = re.compile(r'([a-z][a-z0-9_]*)/msg/([A-Z][A-Za-z0-9]*)')


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
    _add_selection(parser)
    parser.add_argument(
        '-m', '--remap', nargs='+', type=remapping, metavar='OLD:=NEW', default=[],
        help='publish topic OLD as NEW; OLD may be a name that ROS 2 does not allow',
    )  # fmt: skip
    parser.add_argument(
        '-d', '--delay', type=not_negative, default=0.0, metavar='SECONDS',
        help='wait before the first message, in each loop',
    )  # fmt: skip
    parser.add_argument(
        '--wait-for-subscribers', nargs='*', type=topic_name, metavar='TOPIC',
        help='begin when these topics, as published, have a subscriber each, or as many as times '
        'the topic is named; any topic where none is named',
    )  # fmt: skip
    parser.add_argument(
        '--qos-profile-overrides-path', type=Path, metavar='FILE',
        help='YAML file of QoS profiles by topic, instead of those that were recorded',
    )  # fmt: skip
    parser.add_argument(
        '-p', '--start-paused', action='store_true', help='begin when SPACE is pressed'
    )
    parser.add_argument(
        '--disable-keyboard-controls', action='store_true',
        help='ignore keys: SPACE pauses and resumes, RIGHT publishes the next message while '
        f'paused, UP and DOWN change the rate by {RATE_STEP:g}',
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
    parser.add_argument(
        '--decode-images', action='store_true',
        help='publish CompressedImage as sensor_msgs/msg/Image under its name without /compressed',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--playback-duration', type=_duration_s, metavar='SECONDS',
        help='play this much of the bag from the start offset on; to the end without it',
    )  # fmt: skip
    until = parser.add_mutually_exclusive_group()
    until.add_argument(
        '--playback-until-sec', type=_until_ns, dest='until_ns', metavar='SECONDS',
        help='play to this time of the recording, in seconds since 1970; the later one counts '
        'where --playback-duration is given, too',
    )  # fmt: skip
    until.add_argument(
        '--playback-until-nsec', type=int, dest='until_ns', metavar='NANOSECONDS',
        help='the same in nanoseconds',
    )  # fmt: skip
    parser.add_argument(
        '--topics', nargs='+', metavar='TOPIC', default=[], help='only these; all without it'
    )
    parser.add_argument(
        '-e', '--regex', type=_pattern, metavar='REGEX',
        help='only topics whose whole names match, beside those of --topics',
    )  # fmt: skip
    parser.add_argument(
        '--exclude-topics', nargs='+', metavar='TOPIC', default=[], help='none of these'
    )
    parser.add_argument(
        '-x', '--exclude-regex', type=_pattern, metavar='REGEX',
        help='no topic whose whole name matches',
    )  # fmt: skip


def _duration_s(text: str) -> float | None:
    """Parse seconds above 0; negative ones are no limit, as `ros2 bag play` has it."""
    return None if text.startswith('-') and positive(text[1:]) else positive(text)


def _until_ns(text: str) -> int:
    try:
        if not abs(float(text)) < MAX_STAMP_S:
            raise ValueError('out of range')
        # Exactly: a float holds times of today to a quarter of a microsecond.
        return round(Decimal(text) * SECOND_NS)
    except (ValueError, ArithmeticError):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no time; expected seconds since 1970, below 2^31'
        ) from None


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no regular expression ({error}); expected one like /camera/.*'
        ) from None


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
            open_bag(args.input, args.salvage, args.decode_video, args.decode_images) as bag,
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
    controls = has_keyboard() and not args.disable_keyboard_controls
    if args.start_paused and not controls:
        raise SettingError(
            '--start-paused waits for a key, but standard input is no terminal or its keys are '
            'disabled; leave it out, or use --wait-for-subscribers'
        )
    overrides = {}
    if args.qos_profile_overrides_path is not None:
        overrides = read_overrides(args.qos_profile_overrides_path)
    extent = play_extent(bag, args.start_offset, args.playback_duration, args.until_ns)
    remap = dict(args.remap)
    selection = Selection(args.topics, args.regex, args.exclude_topics, args.exclude_regex)
    topics, skipped = playable(selection.of(bag, without_clock=args.clock is not None), remap)
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
    _tell_qos(topics, overrides)
    publishers = {
        topic: node.create_publisher(
            kind,
            remap.get(topic.name, topic.name),
            overrides.get(topic.name) or recorded_qos(topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        for topic, kind in topics.items()
    }
    if args.wait_for_subscribers is not None:
        wait_for_subscribers(publishers.values(), args.wait_for_subscribers, stop)
    clock = PlayClock(args.rate, paused=args.start_paused)
    player = Player(bag, publishers, clock, extent, stop, args.quiet)
    with (
        _keyboard(clock, args.quiet) if controls else nullcontext(),
        clock_publisher(node, args.clock, clock.now_ns),
        _log(args.log) as player.log,
    ):
        sleep_until(time.monotonic() + args.delay, stop)
        while player.play() and args.loop:
            sleep_until(time.monotonic() + args.delay, stop)
    for publisher in publishers.values():
        if not stop():
            publisher.wait_for_all_acked(ACKNOWLEDGED_WITHIN)
    for reason, count in (*player.unfit.items(), *bag.lost.items()):
        tell('replay_bag', f'warning: {count} messages were left out: {reason}')
    if not (player.published or stop()):
        raise BagError(
            f'nothing to publish: the selected part of {bag.path} has no messages of the selected '
            f'topics; choose another part or other topics, it has {bag.listing()}'
        )
    print(f'{player.published} messages published, at most {player.max_late_s * 1e3:.0f} ms late')


def _tell_qos(topics: Collection[Topic], overrides: Mapping[str, QoSProfile]) -> None:
    """Warn of QoS that is not published as the bag or the user says."""
    for name in overrides.keys() - {topic.name for topic in topics}:
        tell(
            'replay_bag', f'warning: a QoS profile is given for {shown(name)}, which is not played'
        )
    for topic in topics:
        if topic.name in overrides:
            continue
        if topic.qos_is_damaged:
            tell(
                'replay_bag',
                f'warning: {topic.shown} has QoS profiles that make no sense; it is published '
                f'{RELIABLE.reliability} and {RELIABLE.durability}, with depth {RELIABLE.depth}',
            )
        depth = max((qos.depth for qos in topic.qos), default=0)
        if depth > MAX_DEPTH:
            tell('replay_bag', f'warning: {topic.shown} has depth {depth}, cut to {MAX_DEPTH}')


@contextmanager
def _keyboard(clock: PlayClock, quiet: bool) -> Iterator[None]:
    """Control a clock by keys."""
    actions = {
        SPACE: clock.toggle,
        RIGHT: clock.step,
        UP: lambda: clock.change_rate(RATE_STEP),
        DOWN: lambda: clock.change_rate(-RATE_STEP),
    }
    if not quiet:
        tell(
            'replay_bag',
            'SPACE pauses and resumes, RIGHT publishes the next message while paused, '
            'UP and DOWN change the rate',
        )
    with keys(actions):
        yield


def play_extent(
    bag: Bag, start_offset_s: float, duration_s: float | None, until_ns: int | None
) -> Extent:
    """Return what to play of a bag.

    Args:
        bag: whose first message the offset counts from.
        start_offset_s: left out at the beginning.
        duration_s: from there on; None is to the end.
        until_ns: last time to play, negative or None is the end; with a duration, the later end
            counts.

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
    # From 0 where nothing is left out: the first message may not have the earliest stamp.
    return Extent(begin_ns if start_offset_s else 0, end_ns)


@dataclass(frozen=True)
class Selection:
    """Topics to play, by name or by a pattern of the whole name; what is excluded is out."""

    topics: Collection[str] = ()
    regex: re.Pattern[str] | None = None
    exclude_topics: Collection[str] = ()
    exclude_regex: re.Pattern[str] | None = None

    def of(self, bag: Bag, *, without_clock: bool = False) -> list[Topic]:
        """Return the selected topics of a bag.

        Args:
            bag: to select from.
            without_clock: leave out the recorded time, beside which another is published.

        Raises:
            BagError: a topic that is named is not in the bag, or no topic is left.
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


def playable(
    chosen: Iterable[Topic], remap: Mapping[str, str] = MappingProxyType({})
) -> tuple[dict[Topic, Any], dict[Topic, str]]:
    """Return the chosen topics with their message classes, and those that cannot be played."""
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
