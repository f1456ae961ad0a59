# SPDX-License-Identifier: Apache-2.0
"""Check a tree in the layout of Cityscapes, and list the studies that it can run.

    python -m training.check_dataset data/cityscapes
    python -m training.check_dataset data/cityscapes --full

By default, only the headers of the files and a few label images are read, which finds missing,
truncated and misplaced files. `--full` decodes every file. The exit status is 1 if the tree can
run none of the studies.
"""

import argparse
import struct
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node.cli import HelpFormatter, add_quiet_option
from segmentation_node.errors import DatasetError, ImageError, SegmentationError
from segmentation_node.images import cityscapes
from segmentation_node.images.files import check_size, image_size
from segmentation_node.labels import LabelScheme, load_scheme
from training.config import catalog, load_experiment
from training.datasets import (
    LAYOUTS,
    FilePair,
    LabeledFiles,
    named_subset,
    paired,
    without_image,
    without_labels,
)
from training.polygons import read_annotation

#: Data set of the catalog whose layout, label scheme and subsets apply.
DATASET: Final = 'cityscapes'
CONFIGS: Final = Path(__file__).with_name('configs')
#: Splits that a study uses. The files of others, such as test, are only counted: they may have no
#: labels.
STUDY_SPLITS: Final = ('train', 'val')
#: Number of label files of a split whose ids are checked without --full.
SAMPLE: Final = 8
#: Number of problems listed per split.
LISTED: Final = 10

_PNG_START: Final = b'\x89PNG\r\n\x1a\n'
_PNG_END: Final = b'\0\0\0\0IEND\xaeB`\x82'


@dataclass
class SplitCheck:
    """Images of a split with their labels, and the problems found."""

    name: str
    pairs: list[FilePair]
    unlabeled: list[FilePair]
    spare: list[Path]
    invalid: dict[FilePair, str] = field(default_factory=dict)

    def labeled(self) -> list[FilePair]:
        """Return the images that have labels."""
        missing = {*self.unlabeled}
        return [pair for pair in self.pairs if pair not in missing]

    def problems(self) -> list[str]:
        """Return a line for each problem of a split that studies use."""
        if self.name not in STUDY_SPLITS:
            return []
        return [
            *(f'{pair.image} has no labels (expected {pair.labels})' for pair in self.unlabeled),
            *(f'{path} has no image' for path in self.spare),
            *self.invalid.values(),
        ]

    def obstacle(self, count: int) -> str:
        """Return the reason why the split cannot provide a subset of `count` images, or ''."""
        if self.unlabeled or self.spare:
            return f'{self.name} has {len(self.unlabeled) + len(self.spare)} unpaired files'
        if len(self.pairs) < count:
            return f'{self.name} has {len(self.pairs)} of {count} images'
        invalid = [pair for pair in named_subset(self.pairs, count) if pair in self.invalid]
        return f'{self.name} has {len(invalid)} invalid images' if invalid else ''


def check_split(
    root: Path, split: str, scheme: LabelScheme, *, full: bool = False, quiet: bool = True
) -> SplitCheck:
    """Check the files of a split: their headers, or with `full` their whole content."""
    found = LAYOUTS['cityscapes'](root, split)
    pairs = paired(found)
    check = SplitCheck(split, pairs, without_labels(pairs), without_image(found, pairs))
    labeled = check.labeled() if split in STUDY_SPLITS else []
    files = LabeledFiles(tuple(labeled), scheme, str(root))
    step = 1 if full else max(1, len(labeled) // SAMPLE)
    for index, pair in enumerate(
        tqdm(labeled, f'checking {split}', unit='image', disable=quiet or None)
    ):
        if text := _problem(files, pair, whole=index % step == 0):
            check.invalid[pair] = text
    return check


def _problem(files: LabeledFiles, pair: FilePair, *, whole: bool) -> str:
    """Return what is wrong with an image and its labels, or ''; `whole` decodes both."""
    try:
        if whole:
            files.read(pair)
        else:
            check_headers(pair)
    except DatasetError as error:
        return str(error)
    return ''


def check_headers(pair: FilePair) -> None:
    """Compare the sizes of an image and its labels.

    Raises:
        DatasetError: a file cannot be read or is truncated, or the sizes differ.
    """
    image = _size_hw(pair.image)
    labels = read_annotation(pair.labels).size_hw if pair.drawn else _size_hw(pair.labels)
    if image != labels:
        raise DatasetError(f'{pair.labels} has size {labels}, but its image {image}')


def _size_hw(path: Path) -> tuple[int, int]:
    try:
        width, height = _png_size(path) or image_size(path.read_bytes())
        check_size(width, height)
    except (OSError, ImageError) as error:
        raise DatasetError(f'{path} cannot be read: {error}') from error
    return height, width


def _png_size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG that begins and ends as it should, None for other files."""
    with path.open('rb') as stream:
        start = stream.read(24)
        stream.seek(max(0, path.stat().st_size - len(_PNG_END)))
        end = stream.read()
    if start[:8] != _PNG_START or start[12:16] != b'IHDR' or end != _PNG_END:
        return None
    width, height = struct.unpack('>II', start[16:24])
    return width, height


def splits_of(root: Path) -> list[str]:
    """Return the splits of a tree; raises DatasetError if it has none."""
    folder = cityscapes.folder(root, cityscapes.PICTURE)
    splits = sorted(p.name for p in folder.glob('[!.]*') if p.is_dir())
    if not splits:
        raise DatasetError(
            f'{root} has no splits; expected {cityscapes.PICTURE}/SPLIT/CITY/*.png and '
            f'gtFine/SPLIT/CITY/*.png: give the folder that contains {cityscapes.PICTURE}'
        )
    return splits


def table(checks: Sequence[SplitCheck]) -> Iterator[str]:
    """Yield lines with the numbers of images and of their labels, by split and city."""
    yield _row('split', 'city', 'images', 'label images', 'polygons')
    for check in checks:
        labeled = check.labeled()
        images, stored, drawn = (
            Counter(pair.image.parent.name for pair in pairs)
            for pairs in (
                check.pairs,
                [pair for pair in labeled if not pair.drawn],
                [pair for pair in labeled if pair.drawn],
            )
        )
        for city in sorted(images):
            yield _row(check.name, city, images[city], stored[city], drawn[city])
        yield _row(check.name, 'all', images.total(), stored.total(), drawn.total())


def _row(*cells: object) -> str:
    return '{:8} {:20} {:>8} {:>14} {:>10}'.format(*cells)


def problems(checks: Sequence[SplitCheck]) -> Iterator[str]:
    """Yield the first problems of each split, and the number of the others."""
    for check in checks:
        lines = check.problems()
        yield from (f'{check.name}: {line}' for line in lines[:LISTED])
        if len(lines) > LISTED:
            yield f'{check.name}: and {len(lines) - LISTED} more problems'


def obstacles(checks: Sequence[SplitCheck]) -> dict[str, str]:
    """Return the reason why the tree cannot run a study, or '', by name of its subset."""
    by_split = {split: SplitCheck(split, [], [], []) for split in STUDY_SPLITS}
    by_split |= {check.name: check for check in checks}
    return {
        name: '; '.join(filter(None, (by_split[s].obstacle(n) for s, n in sizes.items())))
        for name, sizes in catalog()[DATASET].subsets.items()
    }


def experiments(subset: str) -> list[str]:
    """Return the names of the experiments in `training/configs` that train on a subset."""
    loaded = {path.stem: load_experiment(path, []) for path in sorted(CONFIGS.glob('*.yaml'))}
    return [
        name
        for name, experiment in loaded.items()
        if any(use.set == DATASET and use.subset == subset for use in experiment.train)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    scheme = load_scheme(catalog()[DATASET].scheme)
    try:
        checks = [
            check_split(args.root, split, scheme, full=args.full, quiet=args.quiet)
            for split in splits_of(args.root)
        ]
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print('\n'.join([*table(checks), *problems(checks)]))
    reasons = obstacles(checks)
    for subset, reason in reasons.items():
        state = f'cannot run: {reason}' if reason else f'can run: {", ".join(experiments(subset))}'
        print(f'{subset} {state}')
    return int(all(reasons.values()))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='check_dataset',
        description='Check a tree in the layout of Cityscapes, and list the studies that it can '
        'run.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('root', type=Path, metavar='FOLDER', help='folder with leftImg8bit')
    parser.add_argument(
        '--full', action='store_true',
        help='decode every file, instead of headers and a few label images',
    )  # fmt: skip
    add_quiet_option(parser)
    return parser


if __name__ == '__main__':
    sys.exit(main())
