# SPDX-License-Identifier: Apache-2.0
"""Command that renders a drive through a procedural street in the layout of Cityscapes."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from segmentation_node.cli import size_wh
from segmentation_node.errors import SegmentationError, SettingError
from training.scenes.render import Renderer, check_size
from training.scenes.street import Street
from training.scenes.write import SequenceName, write_sequence


def scene_size_wh(text: str) -> tuple[int, int]:
    """Parse WxH; the size must be large enough to render."""
    size = size_wh(text)
    try:
        check_size(*size)
    except SettingError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m training.scenes',
        description='Render a drive through a procedural street with labels, in the folder layout '
        'of Cityscapes. The same seed gives the same files.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('output', type=Path, help='output folder; created if missing')
    parser.add_argument('--split', default='val', help='split: train, val or test')
    parser.add_argument('--city', default='proctown', help='city name in paths')
    parser.add_argument('--sequence', type=int, default=0, help='sequence number')
    parser.add_argument('--frames', type=int, default=30, help='number of frames to render')
    parser.add_argument('--rate-hz', type=float, default=10.0, help='frames per second')
    parser.add_argument(
        '--size',
        type=scene_size_wh,
        default='1024x512',
        metavar='WxH',
        help='image size in pixels',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the street; 0 or greater')
    parser.add_argument(
        '--sequence-layout',
        action='store_true',
        help='write pictures to leftImg8bit_sequence/ instead of leftImg8bit/',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the sequence if it exists'
    )
    parser.add_argument('--quiet', action='store_true', help='show no progress bar')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    # On the many small regions of a frame, OpenCV's threads cost more time than they save.
    cv2.setNumThreads(1)
    try:
        name = SequenceName(
            args.output, args.split, args.city, args.sequence, args.sequence_layout
        )
        written = list(
            write_sequence(
                name,
                Street(args.seed),
                Renderer(*args.size),
                args.frames,
                args.rate_hz,
                args.overwrite,
                not args.quiet,
            )
        )
    except (SegmentationError, OSError) as error:
        print(f'scenes: {error}', file=sys.stderr)
        return 1
    print(f'{len(written)} frames in {written[0].parent}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
