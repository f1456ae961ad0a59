# SPDX-License-Identifier: Apache-2.0
"""Command: score label images against the truth, file by file."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.bags.bounds import tell
from segmentation_node.bags.sources import LABEL_SUFFIXES
from segmentation_node.cli import (
    EXIT_INCOMPLETE,
    HelpFormatter,
    add_quiet_option,
    add_scored_scheme_option,
)
from segmentation_node.errors import DatasetError, ImageError, SchemeError, SegmentationError
from segmentation_node.folders.image_folder import FoundFiles, find_images, listed, read_bounded
from segmentation_node.folders.result_folder import LABEL_INFO_FILE
from segmentation_node.images import cityscapes
from segmentation_node.images.label_files import decode_labels
from segmentation_node.labels import MAX_JSON_BYTES, LabelScheme, described_scheme, load_scheme
from segmentation_node.scoring import LabelComparison, SetScores, table

#: Name endings of an image and its truth in Cityscapes.
IMAGE_END: Final = f'_{cityscapes.PICTURE}'
TRUTH_END: Final = f'_{cityscapes.LABELS}'


@dataclass(frozen=True)
class LabelFiles:
    """Label images by the names of their frames, and their label scheme."""

    source: Path
    files: dict[str, Path]
    scheme: LabelScheme
    left_out: FoundFiles


def open_labels(
    path: Path, scheme: str | None, option: str, given: LabelScheme | None = None
) -> LabelFiles:
    """Find label images.

    Args:
        path: a folder of label images, or one that segment_images wrote.
        scheme: label scheme; None is that of label_info.json beside them.
        option: name of the command-line option of `scheme`, for messages.
        given: a scheme that is not installed and that label_info.json may name.

    Raises:
        DatasetError: not a folder, no label image in it, or the label scheme is unknown.
        SchemeError: no such scheme.
    """
    if not path.is_dir():
        raise DatasetError(f'{path} is not a folder; give a folder of label images')
    folder = path / topics.LABEL_MASK if (path / LABEL_INFO_FILE).is_file() else path
    named = None if scheme is None else load_scheme(scheme)
    described = _described(folder, named or given)
    if named is not None and described is not None and named != described:
        raise DatasetError(
            f'{folder} has ids of {described.name}, as {LABEL_INFO_FILE} says, but {option} is '
            f'{named.name}; leave {option} out'
        )
    found = find_images([folder], LABEL_SUFFIXES)
    if any(image.key.endswith(TRUTH_END) for image in found.images):
        # Beside them are the same labels in colors and by instances.
        found.others += [i.path for i in found.images if not i.key.endswith(TRUTH_END)]
        found.images = [i for i in found.images if i.key.endswith(TRUTH_END)]
    files = {i.key.removesuffix(TRUTH_END).removesuffix(IMAGE_END): i.path for i in found.images}
    known = named or described
    if known is None:
        raise DatasetError(
            f'the label scheme of {folder} is unknown: there is no {LABEL_INFO_FILE}; give '
            f'{option} NAME, for example cityscapes34 or camvid11, or a .yaml file'
        )
    return LabelFiles(folder, files, known, found)


def _described(folder: Path, given: LabelScheme | None) -> LabelScheme | None:
    """Return the scheme of label_info.json beside a label mask, None without one."""
    beside = folder.parent if folder.resolve().name == topics.LABEL_MASK else folder
    for file in (folder / LABEL_INFO_FILE, beside / LABEL_INFO_FILE):
        if file.is_file():
            with file.open('rb') as stream:
                content = stream.read(MAX_JSON_BYTES + 1)
            try:
                return described_scheme(content.decode(errors='replace'), given)
            except SchemeError as error:
                raise SchemeError(f'{file}: {error}') from error
    return None


def score_images(
    predicted: LabelFiles,
    truth: LabelFiles,
    label_scheme: LabelScheme | None = None,
    quiet: bool = True,
) -> SetScores:
    """Compare label images with the truth of the same name.

    Args:
        predicted: label masks.
        truth: ground truth.
        label_scheme: scheme to score in; that of the label masks where None.
        quiet: show no progress bar.

    Raises:
        DatasetError: no frame has both, a file cannot be read, or nothing in it can be scored.
        SchemeError: the schemes cannot be compared; another `label_scheme` may be coarse enough.
    """
    comparison = LabelComparison(truth.scheme, predicted.scheme, label_scheme)
    common = [name for name in truth.files if name in predicted.files]
    if not common:
        raise DatasetError(
            f'no label mask in {predicted.source} has the name of its truth in {truth.source}: '
            f'there are {_some(predicted)} and {_some(truth)}; expected equal names below both '
            f'folders'
        )
    for name in tqdm(common, 'scoring', unit='image', disable=quiet or None):
        comparison.add(
            _read(truth.files[name], truth.scheme),
            _read(predicted.files[name], predicted.scheme),
            f'{predicted.files[name]} and {truth.files[name]}',
        )
    scores = comparison.scores(str(truth.source))
    return SetScores(scores, len(common), len(truth.files), len(predicted.files))


def _read(path: Path, scheme: LabelScheme) -> UInt8Array:
    try:
        return decode_labels(read_bounded(path), scheme)
    except (ImageError, OSError) as error:
        raise DatasetError(f'{path}: {error}') from error


def _some(labels: LabelFiles) -> str:
    return ', '.join(path.name for path in list(labels.files.values())[:2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='score_images',
        description='Score label masks, for example of segment_images, against the truth.',
        epilog='Files are matched by their names below both folders, without the endings of '
        f'Cityscapes. Exit status: 0 all truth scored; 1 error; {EXIT_INCOMPLETE} done, but some '
        'truth has no label mask and is listed',
        formatter_class=HelpFormatter,
    )
    parser.add_argument(
        'predicted', type=Path, metavar='FOLDER',
        help='output of segment_images, or any folder of label images',
    )  # fmt: skip
    parser.add_argument(
        '--truth', type=Path, required=True, metavar='FOLDER', help='label images of the truth'
    )
    parser.add_argument(
        '--truth-scheme', metavar='NAME|FILE',
        help='label scheme of the truth: camvid11, cityscapes34, ...; default: that of '
        f'{LABEL_INFO_FILE} beside it',
    )  # fmt: skip
    parser.add_argument(
        '--predicted-scheme', metavar='NAME|FILE', help='the same for the label masks'
    )
    add_scored_scheme_option(parser)
    add_quiet_option(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        given = None if args.label_scheme is None else load_scheme(args.label_scheme)
        predicted = open_labels(args.predicted, args.predicted_scheme, '--predicted-scheme', given)
        truth = open_labels(args.truth, args.truth_scheme, '--truth-scheme', given)
        for labels in (predicted, truth):
            labels.left_out.tell_left_out('score_images', 'a label image')
        result = score_images(predicted, truth, given, args.quiet)
    except (SegmentationError, OSError) as error:
        tell('score_images', error)
        return 1
    print(table(result))
    spare, missing = _without(predicted, truth), _without(truth, predicted)
    if spare:
        tell('score_images', f'not scored, without truth: {listed(spare)}')
    if missing:
        tell('score_images', f'not scored, without a label mask: {listed(missing)}')
    return EXIT_INCOMPLETE if missing else 0


def _without(some: LabelFiles, others: LabelFiles) -> list[Path]:
    return [path for name, path in some.files.items() if name not in others.files]


if __name__ == '__main__':
    sys.exit(main())
