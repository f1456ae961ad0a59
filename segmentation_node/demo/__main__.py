# SPDX-License-Identifier: Apache-2.0
"""Command that demonstrates the node, on a machine with or without a ROS installation.

It starts the node as a separate process, replays a bag in real time, records the node's output,
then draws and scores the recording.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from segmentation_node.cli import HelpFormatter, count, rate_hz, topic_name
from segmentation_node.demo.footage import Footage, bag_footage, images_footage, street_footage
from segmentation_node.demo.results import DemoOutcome, contact_sheet, table, write_overlays
from segmentation_node.demo.session import DemoSession
from segmentation_node.errors import SegmentationError
from segmentation_node.images.files import encode_png
from segmentation_node.processes import DemoError, end_on_signals
from segmentation_node.ros.domain import DOMAINS, unused_domain
from segmentation_node.runtimes.choices import DEFAULT_MODEL

STAGES: Final = 5


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.demo',
        description='Send footage through the segmentation node in real time and write the '
        'results: a recording, a video, a contact sheet and a table.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        '--model', default=DEFAULT_MODEL, help='bundled name, checkpoint folder, or hub id'
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        '--bag',
        type=Path,
        metavar='PATH',
        help='bag with a camera, instead of the bundled street',
    )
    source.add_argument(
        '--images',
        type=Path,
        metavar='FOLDER',
        help='folder of images, instead of the bundled street',
    )
    parser.add_argument(
        '--topic',
        type=topic_name,
        metavar='NAME',
        help='camera topic, if the bag has several',
    )
    parser.add_argument(
        '--output',
        type=Path,
        default=Path('demo_output'),
        metavar='FOLDER',
        help='folder for the results',
    )
    parser.add_argument(
        '--frames', type=count, metavar='N', help='number of frames of the street; default: all'
    )
    parser.add_argument(
        '--rate-hz', type=rate_hz, default=10.0, metavar='HZ',
        help='frame rate of the street or the images',
    )  # fmt: skip
    parser.add_argument(
        '--domain-id', type=int, metavar='ID', choices=DOMAINS,
        help='ROS_DOMAIN_ID to use; default: an unused one',
    )  # fmt: skip
    parser.add_argument(
        '--large-frames', action='store_true',
        help='use the Fast DDS profile for large frames (config/transport_fastdds.xml)',
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.topic is not None and args.bag is None:
        parser.error('--topic requires --bag')
    try:
        with end_on_signals():
            _check_rclpy()
            _show(_run_node(args), args.output)
    except (SegmentationError, OSError) as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\ndemo: interrupted; nothing is left running', file=sys.stderr)
        return 130
    return 0


def _check_rclpy() -> None:
    if importlib.util.find_spec('rclpy') is None:
        raise DemoError(
            'rclpy, the Python library of ROS 2, is not installed; install it with "make demo" or '
            'pip install -e ".[ros]"'
        )


def _footage(args: argparse.Namespace) -> Footage:
    work = args.output / 'work'
    if args.bag is not None:
        return bag_footage(args.bag, args.topic)
    if args.images is not None:
        return images_footage(args.images, work, args.rate_hz)
    return street_footage(args.frames, args.rate_hz)


def _run_node(args: argparse.Namespace) -> DemoOutcome:
    footage = _footage(args)
    domain_id = unused_domain() if args.domain_id is None else args.domain_id
    print(f'{args.model} on {footage.title}; ROS_DOMAIN_ID={domain_id}')
    with DemoSession(footage, args.model, args.output, domain_id, args.large_frames) as session:
        with _stage(1, 'prepare the footage while the node loads its model'):
            footage.prepare(session.check)
        with _stage(2, 'wait until the node is active'):
            session.wait_until_active()
        with _stage(3, "replay the bag in real time and record the node's output"):
            outcome = session.replay()
    if not outcome.counts['published']:
        raise DemoError(
            f'the node published no mask for {outcome.sent} frames; frame counts: '
            f'{outcome.counts}; log of the node:\n{session.node.log_text()}'
        )
    return outcome


def _show(outcome: DemoOutcome, output: Path) -> None:
    with _stage(4, 'read the recording and score it against the ground truth'):
        recording = outcome.recording()
        scores = recording.scores()
    sheet, video = output / 'contact_sheet.png', output / 'overlay.mp4'
    with _stage(5, 'draw the contact sheet and the video'):
        title = f'{outcome.model}: {outcome.footage.title}'
        sheet.write_bytes(encode_png(contact_sheet(recording, title, scores)))
        codec = write_overlays(recording, video)
    figures = table(outcome, recording, scores)
    (output / 'figures.txt').write_text(figures + '\n', encoding='utf-8')
    print(f'\n{figures}\n')
    print(f'  {sheet}\n  {video}  {codec}\n  {recording.path}  ROS 2 bag with all topics')


@contextmanager
def _stage(number: int, what: str) -> Iterator[None]:
    print(f'[{number}/{STAGES}] {what} ...', flush=True)
    started_s = time.monotonic()
    yield
    print(f'      {time.monotonic() - started_s:.1f} s', flush=True)


if __name__ == '__main__':
    sys.exit(main())
