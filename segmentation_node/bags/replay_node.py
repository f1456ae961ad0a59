# SPDX-License-Identifier: Apache-2.0
"""Node that publishes a bag: its start and end, its clock, and the wait for subscribers."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

from segmentation_node.bags.messages import SECOND_NS
from segmentation_node.bags.playback_part import CLOCK_TOPIC
from segmentation_node.bags.player import SLICE_S, Stop, sleep_until
from segmentation_node.errors import BagError

#: A subscriber that is discovered may not have discovered the publisher yet.
SETTLE_S: Final = 0.3


def split_ros_args(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at --ros-args.

    rclpy must not see ours: it takes OLD:=NEW for a remapping of its own, before --ros-args too.
    """
    at = argv.index('--ros-args') if '--ros-args' in argv else len(argv)
    return list(argv[:at]), list(argv[at:])


@contextmanager
def ros_node(argv: Sequence[str]) -> Iterator[Node]:
    """Run a node that only publishes; the caller handles signals.

    It spins in the background so that incompatible QoS of subscriptions is logged.
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


@contextmanager
def clock_publisher(
    node: Node, rate_hz: float | None, now_ns: Callable[[], int | None]
) -> Iterator[None]:
    """Publish a time on /clock in the background at `rate_hz`; None publishes nothing."""
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
