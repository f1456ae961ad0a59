# SPDX-License-Identifier: Apache-2.0
"""Command: measure networks, segmenter and node side by side, in one run.

The node needs ROS 2 (the extra `ros`, or an installation); without it the rest is measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segmentation_node.bags.options import HelpFormatter, count, positive, rate_hz
from segmentation_node.benchmark.frames import size_text
from segmentation_node.benchmark.report import lines, write_pages
from segmentation_node.benchmark.session import BOTH, FULL, MODELS, OVERLOAD, PARTS, Session
from segmentation_node.benchmark.streams import DEFAULT, TRANSPORTS
from segmentation_node.choices import PRECISIONS
from segmentation_node.demo.processes import end_on_signals
from segmentation_node.errors import SegmentationError
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.scenes.make_scenes import scene_size_wh


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='benchmark',
        description='Measure the bare network, the segmenter, the node over DDS, and a node as it '
        'is commonly written, in turns; with what their labels are worth.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        '--model', action='append', default=[], metavar='MODEL',
        help='bundled name, checkpoint folder, or hub id; may be repeated; without it '
        f'{" and ".join(MODELS)}',
    )  # fmt: skip
    for name, choices in (('runtime', RUNTIMES[1:]), ('precision', PRECISIONS[1:])):
        parser.add_argument(
            f'--{name}', action='append', default=[], choices=choices,
            help='may be repeated; all without it',
        )  # fmt: skip
    parser.add_argument('--device', default='auto', help='cpu, cuda, cuda:1; auto takes a GPU')
    parser.add_argument(
        '--only', action='append', default=[], choices=PARTS,
        help='measure this part, and what labels are worth; may be repeated',
    )  # fmt: skip
    _add_scale_options(parser)
    frames = parser.add_argument_group('what is shown')
    frames.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='images to measure with, scaled to the sizes, instead of a rendered street',
    )  # fmt: skip
    frames.add_argument(
        '--data', type=Path, metavar='FOLDER',
        help='labeled frames to score on: a Cityscapes tree, or images/ and labels/',
    )  # fmt: skip
    frames.add_argument(
        '--data-scheme', metavar='NAME',
        help='what the ids in --data mean: camvid11, ...; not needed for a Cityscapes tree',
    )  # fmt: skip
    frames.add_argument('--data-split', default='val', metavar='NAME', help='of --data')
    parser.add_argument(
        '--output', type=Path, default=Path('benchmark_output'), metavar='FOLDER',
        help='for results.json, results.md and results.png',
    )  # fmt: skip
    return parser


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    scale = parser.add_argument_group('how much is measured')
    scale.add_argument(
        '--quick', action='store_true', help='little, to see that it works; no figures to quote'
    )
    scale.add_argument(
        '--sizes', nargs='+', type=scene_size_wh, metavar='WxH',
        help=f'of the images; {" ".join(map(size_text, FULL.sizes))} without it',
    )  # fmt: skip
    scale.add_argument('--rounds', type=count, metavar='N', help=f'turns of each; {FULL.rounds}')
    scale.add_argument(
        '--seconds', type=positive, metavar='S', help=f'of each turn; {FULL.seconds:g}'
    )
    scale.add_argument('--frames', type=count, metavar='N', help=f'of each size; {FULL.frames}')
    scale.add_argument(
        '--rate-hz', type=rate_hz, default=30.0, metavar='HZ',
        help=f'of the camera; raised to {OVERLOAD:g} times what the fastest can do',
    )  # fmt: skip
    scale.add_argument(
        '--cameras', type=count, default=4, metavar='N',
        help='on one node, against as many nodes; 1 leaves that out',
    )  # fmt: skip
    scale.add_argument(
        '--transport', choices=(*TRANSPORTS, BOTH), default=DEFAULT,
        help='Fast DDS as it comes, with the profile for large frames, or both in turns',
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        with end_on_signals():
            results = Session(args).run()
            files = write_pages(results, args.output)
    except (SegmentationError, OSError) as error:
        print(f'\nbenchmark: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nbenchmark: interrupted; nothing is left running', file=sys.stderr)
        return 130
    print('\n' + '\n'.join(lines(results)) + '\n')
    print('\n'.join(f'  {file}' for file in files))
    return 0


if __name__ == '__main__':
    sys.exit(main())
