# SPDX-License-Identifier: Apache-2.0
"""Command that measures networks, segmenter and node side by side in one run.

The node requires ROS 2 (the extra `ros`, or an installation); without it, the rest is measured.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segmentation_node.benchmark.input_frames import size_text
from segmentation_node.benchmark.report import lines, write_pages
from segmentation_node.benchmark.run import BOTH, FULL, MODELS, OVERLOAD, PARTS, BenchmarkRun
from segmentation_node.benchmark.stream_processes import DEFAULT, TRANSPORTS
from segmentation_node.cli import HelpFormatter, count, positive, rate_hz, size_wh
from segmentation_node.errors import SegmentationError
from segmentation_node.processes import end_on_signals
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import PRECISIONS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='benchmark',
        description='Measure the speed and label quality of the network alone, the segmenter, the '
        'node over DDS, and a commonly written node, in alternation.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        '--model', action='append', default=[], metavar='MODEL',
        help='bundled name, checkpoint folder, or hub id; may be repeated; default: '
        f'{" and ".join(MODELS)}',
    )  # fmt: skip
    for name, choices in (('runtime', RUNTIMES[1:]), ('precision', PRECISIONS[1:])):
        parser.add_argument(
            f'--{name}', action='append', default=[], choices=choices,
            help=f'{name} to measure; may be repeated; default: all',
        )  # fmt: skip
    parser.add_argument(
        '--device', default='auto', help='cpu, cuda, cuda:1; auto uses a GPU if available'
    )
    parser.add_argument(
        '--only', action='append', default=[], choices=PARTS,
        help='measure this part and the label quality; may be repeated',
    )  # fmt: skip
    _add_scale_options(parser)
    frames = parser.add_argument_group('input frames')
    frames.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='images to measure with, scaled to each size, instead of the bundled street',
    )  # fmt: skip
    frames.add_argument(
        '--data', type=Path, metavar='FOLDER',
        help='labeled frames to score: a Cityscapes tree, or a folder with images/ and labels/',
    )  # fmt: skip
    frames.add_argument(
        '--data-scheme', metavar='NAME',
        help='label scheme of the ids in --data: camvid11, ...; optional for a Cityscapes tree',
    )  # fmt: skip
    frames.add_argument('--data-split', default='val', metavar='NAME', help='split of --data')
    parser.add_argument(
        '--output', type=Path, default=Path('benchmark_output'), metavar='FOLDER',
        help='folder for results.json, results.md and results.png',
    )  # fmt: skip
    return parser


def _add_scale_options(parser: argparse.ArgumentParser) -> None:
    scale = parser.add_argument_group('scope of the measurement')
    scale.add_argument(
        '--quick', action='store_true',
        help='short run that checks that everything works; its figures are not representative',
    )  # fmt: skip
    scale.add_argument(
        '--sizes', nargs='+', type=size_wh, metavar='WxH',
        help=f'image sizes; default: {" ".join(map(size_text, FULL.sizes))}',
    )  # fmt: skip
    scale.add_argument(
        '--rounds', type=count, metavar='N',
        help=f'measurements of each variant; default: {FULL.rounds}',
    )  # fmt: skip
    scale.add_argument(
        '--seconds', type=positive, metavar='S',
        help=f'duration of each measurement; default: {FULL.seconds:g}',
    )  # fmt: skip
    scale.add_argument(
        '--frames', type=count, metavar='N', help=f'frames of each size; default: {FULL.frames}'
    )
    scale.add_argument(
        '--rate-hz', type=rate_hz, default=30.0, metavar='HZ',
        help=f'camera rate; raised to {OVERLOAD:g} times the throughput of the fastest variant',
    )  # fmt: skip
    scale.add_argument(
        '--cameras', type=count, default=4, metavar='N',
        help='cameras on one node, compared with as many nodes; 1 skips this part',
    )  # fmt: skip
    scale.add_argument(
        '--transport', choices=(*TRANSPORTS, BOTH), default=DEFAULT,
        help='Fast DDS with default settings, with the profile for large frames, or both',
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        with end_on_signals():
            results = BenchmarkRun(args).run()
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
