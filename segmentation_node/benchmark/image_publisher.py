# SPDX-License-Identifier: Apache-2.0
"""Command: publish image files as cameras would, at a steady rate, over and over.

On stdout it writes a line of JSON every quarter of a second: how many frames were sent.
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

#: As many camera drivers have it; whoever subscribes best effort gets it as well.
CAMERA_QOS: Final = QoSProfile(depth=10)
REPORT_PERIOD_S: Final = 0.25


def frame_id(stamp_ns: int, sent_ns: int) -> str:
    """A frame_id that tells stamp and time of sending, for whoever gets it back with a mask.

    Nodes copy it even where they stamp masks anew. The time is of the monotonic clock, which
    all processes of a machine share.
    """
    return f'camera_{stamp_ns}_{sent_ns}'


def times_of(frame_id: str) -> tuple[int, int]:
    """Stamp and time of sending in nanoseconds, of what `frame_id` made."""
    _, stamp_ns, sent_ns = frame_id.split('_')
    return int(stamp_ns), int(sent_ns)


def _send(publisher: Publisher, message: Any) -> None:
    stamp_ns, sent_ns = time.time_ns(), time.monotonic_ns()
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.header.frame_id = frame_id(stamp_ns, sent_ns)
    publisher.publish(message)


def _run(publishers: Sequence[Publisher], messages: Sequence[Any], hz: float,
         stop: StopRequest) -> None:  # fmt: skip
    """Send frames to the cameras in turn, `hz` of them a second in all."""
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
        # What comes too late is not made up for, as no camera would.
        due_s = max(due_s + 1 / hz, now_s)
        time.sleep(due_s - now_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog='camera', description='Publish images until a signal.')
    parser.add_argument('images', type=Path, nargs='+', help='files, all of one size')
    parser.add_argument('--topic', action='append', required=True, help='one for each camera')
    parser.add_argument('--rate-hz', type=rate_hz, required=True, help='of all cameras together')
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
