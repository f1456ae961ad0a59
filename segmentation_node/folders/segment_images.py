# SPDX-License-Identifier: Apache-2.0
"""Command: segment image files, without a bag."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from segmentation_node.bags.bounds import tell
from segmentation_node.cli import (
    EXIT_INCOMPLETE,
    HelpFormatter,
    Report,
    add_bits_option,
    add_model_options,
    add_outputs_option,
    add_quiet_option,
    count,
    load_segmenter,
)
from segmentation_node.errors import DatasetError, ImageError, MemoryLimitError, SegmentationError
from segmentation_node.folders.image_folder import ImageFile, find_images, read_bounded
from segmentation_node.folders.result_folder import LABEL_INFO_FILE, PICTURES, ResultFolder
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.files import decode_file
from segmentation_node.interrupt import stop_on_signal
from segmentation_node.runtimes.memory import keep_freed_memory

if TYPE_CHECKING:
    from segmentation_node.images.rendering import Rendered
    from segmentation_node.segmenter import Segmenter


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='segment_images',
        description='Segment image files (JPEG, PNG, TIFF, WebP) and write a folder for each kind '
        f'of picture, with files named like their images, and {LABEL_INFO_FILE}, which describes '
        'the ids in the label masks.',
        epilog=f'exit status: 0 all images segmented; 1 error; {EXIT_INCOMPLETE} done, but some '
        'images could not be read and are listed; 130 interrupted, finished results are complete',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        'inputs', nargs='+', type=Path, metavar='FOLDER|FILE',
        help='images, or folders, which are searched recursively without hidden files',
    )  # fmt: skip
    parser.add_argument(
        '-o', '--output', type=Path, required=True, metavar='FOLDER', help='where to write'
    )
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace the pictures of an earlier run; other files are never deleted',
    )  # fmt: skip
    add_outputs_option(parser, PICTURES)
    parser.add_argument(
        '--upright', action='store_true',
        help='rotate photographs by their orientation tag; label masks then have the size of '
        'the rotated picture',
    )  # fmt: skip
    parser.add_argument(
        '--limit', type=count, metavar='N', help='only the first N images; all without it'
    )
    add_bits_option(parser)
    add_model_options(parser)
    add_quiet_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    keep_freed_memory()
    try:
        return _run(args)
    except (SegmentationError, OSError) as error:
        tell('segment_images', error)
        return 1


def _run(args: argparse.Namespace) -> int:
    found = find_images(args.inputs)
    images = found.images[: args.limit]
    folder = ResultFolder(args.output, args.outputs, images)
    folder.check(args.overwrite, args.inputs)
    found.tell_left_out('segment_images', 'an image')
    segmenter = load_segmenter(args)
    samples = Samples(args.bits_per_sample)
    render = partial(
        _rendered, segmenter, args.upright, samples, args.overlay_alpha, args.outlines
    )
    folder.begin(segmenter.scheme)
    progress = tqdm(total=len(images), unit='image', disable=args.quiet or None)
    with stop_on_signal() as stop, progress:
        report = segment_images(images, render, folder, lambda: bool(stop), progress.update)
    samples.end()
    for line in report.malformed:
        tell('segment_images', f'malformed: {line}')
    print(report.summary(len(images), 'images', args.output, interrupted=bool(stop)))
    return stop.exit_status or (EXIT_INCOMPLETE if report.malformed else 0)


def _rendered(
    segmenter: 'Segmenter',
    upright: bool,
    samples: Samples,
    overlay_alpha: float,
    outlines: bool,
    path: Path,
) -> 'Rendered':
    image_rgb = decode_file(read_bounded(path), upright=upright, samples=samples)
    return segmenter.render(image_rgb, overlay_alpha, outlines=outlines)


def segment_images(
    images: Sequence[ImageFile],
    render: 'Callable[[Path], Rendered]',
    folder: ResultFolder,
    stop: Callable[[], bool] = lambda: False,
    done: Callable[[int], Any] = lambda _: None,
) -> Report:
    """Segment images one by one and write their pictures.

    Args:
        images: files to read.
        render: segments one file; its ImageError, MemoryLimitError and OSError are reported.
        folder: where to write.
        stop: asked before each image.
        done: told 1 after each image.

    Raises:
        DatasetError: the disk is full; earlier results are complete.
    """
    report = Report()
    for image in images:
        if stop():
            break
        try:
            rendered = render(image.path)
        except (ImageError, MemoryLimitError, OSError) as error:
            report.miss(image.path, error)
        else:
            _write(image, rendered, folder, report)
        done(1)
    return report


def _write(image: ImageFile, rendered: 'Rendered', folder: ResultFolder, report: Report) -> None:
    try:
        folder.write(image.key, rendered)
    except ImageError as error:
        report.miss(image.path, error)
    except OSError as error:
        raise DatasetError(
            f'cannot write the pictures of {image.path} to {folder.path} ({error}); those of '
            f'{report.segmented} images are whole: free some space, or choose another --output'
        ) from error
    else:
        report.add(rendered.out_of_domain)


if __name__ == '__main__':
    sys.exit(main())
