# SPDX-License-Identifier: Apache-2.0
"""Command that records topics of the ROS graph into a bag and reports its progress.

It replaces `ros2 bag record` where ROS 2 comes from pip. Topics are given with type and QoS, so
that no message is missed during discovery. Every quarter of a second it writes a line of JSON to
stdout: number of messages by topic, and the last diagnostics of the node.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import Qos

from segmentation_node import topics
from segmentation_node.bags.messages import known_topic
from segmentation_node.bags.playable import message_class
from segmentation_node.bags.publisher_qos import recorded_qos
from segmentation_node.bags.qos import qos_profile
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError
from segmentation_node.interrupt import StopRequest, stop_on_signal

#: Queue size, for times when the disk is busy: some seconds of a camera.
DEPTH: Final = 60
#: QoS of subscriptions by their name on the command line.
QOS: Final[Mapping[str, Qos]] = MappingProxyType(
    {
        'best_effort': qos_profile(depth=DEPTH, reliability='best_effort'),
        'reliable': qos_profile(depth=DEPTH),
        'latched': qos_profile(depth=DEPTH, durability='transient_local'),
    }
)
REPORT_PERIOD_S: Final = 0.25


class Wanted(NamedTuple):
    """Topic to record: name, type, for example sensor_msgs/msg/Image, and a key of QOS."""

    name: str
    msgtype: str
    qos: str


class Recorder(Node):
    """Node that records serialized messages, with the times of sending and receiving."""

    def __init__(self, writer: BagWriter, wanted: Sequence[Wanted]) -> None:
        super().__init__('recorder')
        self._writer = writer
        self._counts: Counter[str] = Counter({topic.name: 0 for topic in wanted})
        self._status: dict[str, str] = {}
        self._reports = 0
        for topic in wanted:
            self._subscribe(topic)
        self.create_timer(REPORT_PERIOD_S, self._report)

    def _subscribe(self, wanted: Wanted) -> None:
        topic = known_topic(wanted.name, wanted.msgtype, QOS[wanted.qos])
        kind = message_class(topic)
        if isinstance(kind, str):
            raise BagError(f'{topic.name} cannot be recorded: {kind}')
        self._writer.add_topic(topic)
        self.create_subscription(
            kind,
            topic.name,
            partial(self._on_message, topic, kind),
            recorded_qos(topic),
            raw=True,
        )

    def _on_message(self, topic: Topic, kind: Any, cdr: bytes, info: Mapping[str, int]) -> None:
        received_ns = info['received_timestamp'] or time.time_ns()
        self._writer.write(topic, received_ns, cdr, info['source_timestamp'] or received_ns)
        self._counts[topic.name] += 1
        if kind is DiagnosticArray:
            self._note(deserialize_message(cdr, kind))

    def _note(self, message: Any) -> None:
        for status in message.status:
            if status.name.rpartition('/')[2] == topics.NODE_NAME:
                values = {value.key: value.value for value in status.values}
                self._status = {**values, 'message': status.message}
                self._reports += 1

    def _report(self) -> None:
        line = {'recorded': self._counts, 'status': self._status, 'reports': self._reports}
        print(json.dumps(line), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='recorder', description='Record topics into a bag until SIGINT or SIGTERM.'
    )
    parser.add_argument('output', type=Path, help='bag to write; an existing one is replaced')
    parser.add_argument(
        '--topic', nargs=3, action='append', required=True, metavar=('NAME', 'TYPE', 'QOS'),
        help='for example /image sensor_msgs/msg/Image best_effort; QOS is one of '
        f'{", ".join(QOS)}',
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    unknown = sorted({qos for _, _, qos in args.topic} - set(QOS))
    if unknown:
        parser.error(f'unknown QOS {", ".join(unknown)}; use one of {", ".join(QOS)}')
    # A signal ends the recording before ROS: shutting down the context while a message is being
    # received would crash the process.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with stop_on_signal() as stop, BagWriter(args.output, overwrite=True) as writer:
            _record(writer, [Wanted(*topic) for topic in args.topic], stop)
    except BagError as error:
        print(f'recorder: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


def _record(writer: BagWriter, wanted: Sequence[Wanted], stop: StopRequest) -> None:
    recorder, executor = Recorder(writer, wanted), SingleThreadedExecutor()
    executor.add_node(recorder)
    try:
        while not stop:
            executor.spin_once(timeout_sec=REPORT_PERIOD_S)
    finally:
        executor.shutdown()
        recorder.destroy_node()


if __name__ == '__main__':
    sys.exit(main())
