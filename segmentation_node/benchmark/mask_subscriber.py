# SPDX-License-Identifier: Apache-2.0
"""Command that subscribes to the outputs of nodes and records when each label mask arrives.

Several times a second it writes a line of JSON to stdout: number of label masks by camera, and the
last diagnostics by node. On SIGINT or SIGTERM it writes the times of all masks to a file.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from segmentation_node import topics
from segmentation_node.benchmark.image_publisher import times_of
from segmentation_node.interrupt import stop_on_signal

REPORT_PERIOD_S: Final = 0.1
#: Reliable and deep enough that no mask is lost while another is counted.
QOS: Final = QoSProfile(depth=10)


class Subscriber(Node):
    """Node that receives every message and keeps the times of the label masks."""

    def __init__(self, label_masks: Sequence[str], others: Sequence[str]) -> None:
        super().__init__('subscriber')
        #: Camera, times of sending and receiving (monotonic, ns), and True if the stamp is kept.
        self.masks: list[tuple[int, int, int, bool]] = []
        self._counts = [0] * len(label_masks)
        self._status: dict[str, dict[str, str]] = {}
        for camera, topic in enumerate(label_masks):
            self.create_subscription(Image, topic, partial(self._on_mask, camera), QOS)
        for topic in others:
            self.create_subscription(Image, topic, self._on_other, QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, QOS)
        self.create_timer(REPORT_PERIOD_S, self._report)

    def _on_mask(self, camera: int, message: Image) -> None:
        received_ns = time.monotonic_ns()
        stamp = message.header.stamp
        stamp_ns, sent_ns = times_of(message.header.frame_id)
        kept = int(stamp.sec) * 10**9 + int(stamp.nanosec) == stamp_ns
        self.masks.append((camera, sent_ns, received_ns, kept))
        self._counts[camera] += 1

    def _on_other(self, _message: Image) -> None:
        """Ignore the message; receiving it is the load to measure."""

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name.rpartition('/')[2] == topics.NODE_NAME:
                self._status[status.name] = {value.key: value.value for value in status.values}

    def _report(self) -> None:
        print(json.dumps({'masks': self._counts, 'status': self._status}), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='subscriber', description='Receive masks until SIGINT or SIGTERM.'
    )
    parser.add_argument('output', type=Path, help='file for the times of the label masks')
    parser.add_argument('--label-mask', action='append', required=True, metavar='TOPIC')
    parser.add_argument('--other', action='append', default=[], metavar='TOPIC')
    args = parser.parse_args(argv)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node, executor = Subscriber(args.label_mask, args.other), SingleThreadedExecutor()
        executor.add_node(node)
        with stop_on_signal() as stop:
            while not stop:
                executor.spin_once(timeout_sec=REPORT_PERIOD_S)
        args.output.write_text(json.dumps(node.masks), encoding='utf-8')
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
