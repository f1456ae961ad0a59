# SPDX-License-Identifier: Apache-2.0
"""Command that publishes image files like cameras, at a constant rate, in a loop.

Every quarter of a second it writes a line of JSON to stdout: the number of frames sent.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any, Final

import rclpy
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Header

from segmentation_node.cli import rate_hz
from segmentation_node.errors import SegmentationError
from segmentation_node.images.files import read_image
from segmentation_node.interrupt import StopRequest, stop_on_signal
from segmentation_node.ros.mask_messages import ImageBuffer

#: QoS of many camera drivers: reliable, so that best-effort subscribers receive frames, too.
CAMERA_QOS: Final = QoSProfile(depth=10)
REPORT_PERIOD_S: Final = 0.25


def frame_id(stamp_ns: int, sent_ns: int) -> str:
    """Return a frame_id that contains the stamp and the time of sending.

    Masks return it to the subscriber: nodes copy it even if they change the stamp. The time is
    that of the monotonic clock, which all processes on a machine share.
    """
    return f'camera_{stamp_ns}_{sent_ns}'


def times_of(frame_id: str) -> tuple[int, int]:
    """Return the stamp and the time of sending, in nanoseconds, from a `frame_id`."""
    _, stamp_ns, sent_ns = frame_id.split('_')
    return int(stamp_ns), int(sent_ns)


def _send(publisher: Publisher, message: Any) -> None:
    stamp_ns, sent_ns = time.time_ns(), time.monotonic_ns()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id(stamp_ns, sent_ns)
    publisher.publish(message)


def _run(publishers: Sequence[Publisher], messages: Sequence[Any], hz: float,
         stop: StopRequest) -> None:  # fmt: skip
    """Publish frames on the topics in turn; `hz` is the total rate."""
    due_s = reported_s = time.monotonic()
    # Every camera sees every frame.
    turns = cycle(product(messages, publishers))
    for sent, (message, publisher) in enumerate(turns, 1):
        if stop:
            return
        _send(publisher, message)
        now_s = time.monotonic()
        if now_s - reported_s >= REPORT_PERIOD_S or sent == 1:
            reported_s = now_s
            print(json.dumps({'sent': sent}), flush=True)
        # Like a camera, it does not catch up on delayed frames.
        due_s = max(due_s + 1 / hz, now_s)
        time.sleep(due_s - now_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='camera', description='Publish images until SIGINT or SIGTERM.'
    )
    parser.add_argument('images', type=Path, nargs='+', help='image files of equal size')
    parser.add_argument(
        '--topic', action='append', required=True, help='topic of a camera; may be repeated'
    )
    parser.add_argument('--rate-hz', type=rate_hz, required=True, help='total rate of all cameras')
    args = parser.parse_args(argv)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        messages = [
            ImageBuffer('rgb8').message(read_image(path), Header()) for path in args.images
        ]
        node = rclpy.create_node('camera')
        kind = type(messages[0])
        publishers = [node.create_publisher(kind, topic, CAMERA_QOS) for topic in args.topic]
        with stop_on_signal() as stop:
            _run(publishers, messages, args.rate_hz, stop)
    except (SegmentationError, OSError) as error:
        print(f'camera: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
