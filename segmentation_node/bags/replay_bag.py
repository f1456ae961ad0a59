# SPDX-License-Identifier: Apache-2.0
"""Command: replay a bag in real time, where there is no `ros2 bag play`."""

import argparse
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, TextIO

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions

from segmentation_node.bags.bounds import shown, tell
from segmentation_node.bags.keyboard import DOWN, RIGHT, SPACE, UP, has_keyboard, keys
from segmentation_node.bags.options import add_input_options
from segmentation_node.bags.playable import playable
from segmentation_node.bags.playback_part import (
    CLOCK_TOPIC,
    Selection,
    add_selection_options,
    play_extent,
)
from segmentation_node.bags.player import (
    RATE_STEP,
    PlayClock,
    Player,
    Stop,
    sleep_until,
)
from segmentation_node.bags.publisher_qos import MAX_DEPTH, read_overrides, recorded_qos
from segmentation_node.bags.qos import RELIABLE
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.replay_node import (
    clock_publisher,
    ros_node,
    split_ros_args,
    wait_for_subscribers,
)
from segmentation_node.bags.topic import Topic
from segmentation_node.cli import (
    HelpFormatter,
    add_quiet_option,
    not_negative,
    positive,
    rate_hz,
    topic_name,
)
from segmentation_node.errors import BagError, SegmentationError, SettingError
from segmentation_node.interrupt import stop_on_signal

DEFAULT_CLOCK_HZ: Final = 40.0
ACKNOWLEDGED_WITHIN: Final = Duration(seconds=2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='replay_bag',
        description='Publish the messages of a bag in real time, unchanged and with the recorded '
        'QoS. Options of "ros2 bag play" have the same meaning here.',
        epilog='Ctrl-C ends it with status 0.',
        formatter_class=HelpFormatter,
    )
    add_input_options(parser)
    parser.add_argument('-r', '--rate', type=positive, default=1.0, help='times real time')
    parser.add_argument('-l', '--loop', action='store_true', help='begin again at the end')
    parser.add_argument(
        '--start-offset', type=not_negative, default=0.0, metavar='SECONDS',
        help='skip this much of the beginning; latched messages in it are published at once',
    )  # fmt: skip
    parser.add_argument(
        '--clock', type=rate_hz, nargs='?', const=DEFAULT_CLOCK_HZ, metavar='HZ',
        help=f'publish the time of the bag on {CLOCK_TOPIC} (default: {DEFAULT_CLOCK_HZ:g} Hz), '
        'for nodes with use_sim_time',
    )  # fmt: skip
    add_selection_options(parser)
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
        help='wait until each of these published topics has a subscriber (name a topic twice to '
        'wait for two); without names, until any topic has one',
    )  # fmt: skip
    parser.add_argument(
        '--qos-profile-overrides-path', type=Path, metavar='FILE',
        help='YAML file of QoS profiles by topic, which replace the recorded ones',
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
        help='log each message: a line of topic, time in the bag and time of sending, in '
        'nanoseconds, separated by tabs',
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


def remapping(text: str) -> tuple[str, str]:
    """Parse OLD:=NEW."""
    old, mark, new = text.partition(':=')
    if not mark or not old:
        raise argparse.ArgumentTypeError(f'{text!r} is not a remapping; expected OLD:=NEW')
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


def _replay(args: argparse.Namespace, bag: Bag, node: Node, stop: Stop) -> None:
    controls = has_keyboard() and not args.disable_keyboard_controls
    if args.start_paused and not controls:
        raise SettingError(
            '--start-paused waits for a key, but standard input is not a terminal or its keys are '
            'disabled; leave it out, or use --wait-for-subscribers'
        )
    overrides = {}
    if args.qos_profile_overrides_path is not None:
        overrides = read_overrides(args.qos_profile_overrides_path)
    extent = play_extent(bag, args.start_offset, args.playback_duration, args.until_ns)
    remap = dict(args.remap)
    topics = _replayed_topics(args, bag, remap)
    _tell_qos(topics, overrides)
    publishers = {
        topic: node.create_publisher(
            message_class,
            remap.get(topic.name, topic.name),
            overrides.get(topic.name) or recorded_qos(topic),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        for topic, message_class in topics.items()
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
    _report(player, bag, stop)


def _replayed_topics(
    args: argparse.Namespace, bag: Bag, remap: Mapping[str, str]
) -> dict[Topic, Any]:
    """Return the selected topics with their message classes; warns of those that are skipped."""
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
    return topics


def _tell_qos(topics: Collection[Topic], overrides: Mapping[str, QoSProfile]) -> None:
    """Warn of QoS that differs from the bag or the overrides."""
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
                f'warning: {topic.shown} has invalid QoS profiles; it is published '
                f'reliable and volatile, with depth {RELIABLE.depth}',
            )
        depth = max((qos.depth for qos in topic.qos), default=0)
        if depth > MAX_DEPTH:
            tell('replay_bag', f'warning: {topic.shown} has depth {depth}, cut to {MAX_DEPTH}')


def _report(player: Player, bag: Bag, stop: Stop) -> None:
    """Print the number of published messages; raises BagError where there was none to publish."""
    for reason, count in (*player.unfit.items(), *bag.lost.items()):
        tell('replay_bag', f'warning: {count} messages were left out: {reason}')
    if not (player.published or stop()):
        raise BagError(
            f'nothing to publish: the selected part of {bag.path} has no messages of the selected '
            f'topics; choose another part or other topics, it has {bag.listing()}'
        )
    print(f'{player.published} messages published, at most {player.max_late_s * 1e3:.0f} ms late')


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


@contextmanager
def _log(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    with path.open('w', encoding='utf-8') as stream:
        yield stream


if __name__ == '__main__':
    sys.exit(main())
