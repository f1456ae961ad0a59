# SPDX-License-Identifier: Apache-2.0
"""Command: export a model for another runtime, if it labels as the network does."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from segmentation_node.bags.options import (
    HelpFormatter,
    add_input_size_option,
    add_quiet_option,
    count,
)
from segmentation_node.choices import DEFAULT_MODEL
from segmentation_node.errors import SegmentationError
from segmentation_node.exports import AGREEMENT, FORMATS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='export_model',
        description='Export a model as a graph, pixels in and labels out, for images of one size: '
        'into a new checkpoint folder that the node runs (model:=FOLDER), with the graph in its '
        'folder exports/. The graph is written only if it labels the given images as the network '
        'does in PyTorch: '
        + ', '.join(f'{share:.1%} of the pixels in {name}' for name, share in AGREEMENT.items())
        + '.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        '--model', default=DEFAULT_MODEL, help='bundled name, checkpoint folder, or hub id'
    )
    parser.add_argument('--format', choices=FORMATS, default='openvino', help='of the graph')
    parser.add_argument(
        '--precision', choices=tuple(AGREEMENT), default='fp32',
        help='fp32 also serves to run in bf16 or fp16; int8 is calibrated on the images',
    )  # fmt: skip
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument(
        '--images', type=Path, metavar='FOLDER', help='images of the camera, all of one size'
    )
    images.add_argument('--bag', type=Path, metavar='BAG', help='a recording of the camera')
    parser.add_argument('--topic', metavar='NAME', help='camera topic, where the bag has several')
    parser.add_argument(
        '--count', type=count, default=100, metavar='N',
        help='how many images to take at most, from all over the folder or bag',
    )  # fmt: skip
    add_input_size_option(parser)
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='FOLDER',
        help='checkpoint to write; an export of the same model that is there gets the graph, too',
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
    # Imported late: it takes seconds that --help and wrong arguments need not wait for.
    from segmentation_node.export.exporting import Request, export_model
    from segmentation_node.export.images import images_of_bag, images_of_folder

    request = Request(args.model, args.format, args.precision, args.input_size)
    if args.images is not None:
        images = images_of_folder(args.images, args.count)
    else:
        images = images_of_bag(args.bag, args.topic, args.count)
    export = export_model(request, images, args.output, quiet=args.quiet)
    height, width = export.image_hw
    print(
        f'{args.output} has {request.model} as {export.format} in {export.precision} for images '
        f'of {width} x {height}: {export.agreement:.2%} of the pixels of {export.images} images '
        f'are labelled as by the network'
    )


if __name__ == '__main__':
    sys.exit(main())
