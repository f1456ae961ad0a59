# SPDX-License-Identifier: Apache-2.0
"""Command that exports a model as graph files, which run without PyTorch."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segmentation_node.cli import HelpFormatter, add_quiet_option, count
from segmentation_node.errors import SegmentationError
from segmentation_node.runtimes.choices import DEFAULT_MODEL
from segmentation_node.runtimes.graph_files import AGREEMENT, FILES, MAX_MIOU_LOSS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='export_model',
        description='Export a model as graph files for images of any size, in fp32 (which also '
        'serves bf16 and fp16) and int8, to a checkpoint folder that the node can run '
        '(model:=FOLDER). A graph is written only if its labels are accurate enough: with '
        f'--truth, its mean IoU may be at most {100 * MAX_MIOU_LOSS:g} points below that of '
        f'PyTorch; without, {AGREEMENT["fp32"]:.1%} of the pixels in fp32, and '
        f'{AGREEMENT["int8"]:.0%} in int8, must get the same label as with PyTorch in fp32.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        '--model', default=DEFAULT_MODEL, help='bundled name, checkpoint folder, or hub id'
    )
    parser.add_argument(
        '--format', choices=tuple(FILES), default='openvino', help='format of the graph'
    )
    parser.add_argument(
        '--precision', choices=('all', 'fp32', 'int8'), default='all',
        help='precisions to export; int8 is calibrated on the images',
    )  # fmt: skip
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument(
        '--images', type=Path, metavar='FOLDER', action='append',
        help='folder of images like those of the camera; may be repeated',
    )  # fmt: skip
    images.add_argument('--bag', type=Path, metavar='BAG', help='recording of the camera')
    parser.add_argument('--topic', metavar='NAME', help='camera topic, if the bag has several')
    parser.add_argument(
        '--count', type=count, default=100, metavar='N',
        help='maximum number of images, spread evenly over the folders or the bag',
    )  # fmt: skip
    truth = parser.add_argument_group('evaluation against ground truth instead of PyTorch')
    truth.add_argument(
        '--truth', type=Path, metavar='FOLDER',
        help='labeled frames: a Cityscapes tree, or a folder with images/ and labels/',
    )  # fmt: skip
    truth.add_argument(
        '--truth-scheme', metavar='NAME',
        help='label scheme of the ids in --truth: camvid11, ...; optional for a Cityscapes tree',
    )  # fmt: skip
    truth.add_argument('--truth-split', default='val', metavar='NAME', help='split of --truth')
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='FOLDER',
        help='checkpoint to write; graphs are added to an existing one with the same weights',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except (SegmentationError, OSError) as error:
        print(f'export_model: {error}', file=sys.stderr)
        return 1
    return 0


def _run(args: argparse.Namespace) -> None:
    # Imported here because it takes seconds, which --help and argument errors need not wait for.
    from segmentation_node.benchmark.input_frames import labeled_frames
    from segmentation_node.export.calibration_images import (
        images_of_bag,
        images_of_folders,
    )
    from segmentation_node.export.exporting import PRECISIONS, Request, export_model

    if args.images is not None:
        images = images_of_folders(args.images, args.count)
    else:
        images = images_of_bag(args.bag, args.topic, args.count)
    truth = None
    if args.truth is not None:
        truth = labeled_frames(args.truth, args.truth_scheme, args.truth_split, None)
    precisions = PRECISIONS if args.precision == 'all' else (args.precision,)
    request = Request(args.model, images, args.format, precisions, truth)
    for exported in export_model(request, args.output, quiet=args.quiet):
        info = exported.info
        print(f'{args.output}: {args.format} {exported.kind}, {exported.bytes / 1e6:.1f} MB')
        print(f'  evaluated on {info.judged_on}')
        print(f'  labeled as by PyTorch in fp32: {_per_cent(info.agreement)}')
        if info.miou:
            print(f'  mean IoU: {_per_cent(info.miou)}')


def _per_cent(figures: dict[str, float]) -> str:
    return ', '.join(f'{name} {figure:.2%}' for name, figure in figures.items())


if __name__ == '__main__':
    sys.exit(main())
