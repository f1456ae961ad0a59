# SPDX-License-Identifier: Apache-2.0
"""Options of commands that read one split of a data set."""

import argparse
from pathlib import Path

from segmentation_node.cli import count
from segmentation_node.errors import SettingError
from training.config import Experiment, Use, catalog, load_experiment
from training.datasets import open_files
from training.labeled_frames import FileFrames


def add_set_options(parser: argparse.ArgumentParser, seeded: str = '--count') -> None:
    """Add --set, --split, --subset, --count, --seed, --data-root and --experiment.

    `seeded` names everything that the seed determines.
    """
    sets = parser.add_argument_group('data set')
    sets.add_argument('--set', metavar='NAME', help=f'data set: {", ".join(catalog())}')
    sets.add_argument('--split', metavar='NAME', help='train, val, ...')
    sets.add_argument(
        '--subset', metavar='NAME', help='named subset of the data set, such as study_300'
    )
    sets.add_argument(
        '--count', type=count, metavar='N',
        help='random subset of N frames (default: all frames)',
    )  # fmt: skip
    sets.add_argument(
        '--seed', type=number_from_0, default=0, metavar='N', help=f'random seed for {seeded}'
    )
    sets.add_argument(
        '--data-root', type=Path, metavar='FOLDER', help='folder of the data sets (default: data)'
    )
    sets.add_argument(
        '--experiment', type=Path, metavar='FILE', help='experiment that defines more data sets'
    )


def open_frames(args: argparse.Namespace, *, instances: bool = False) -> FileFrames:
    """Open the frames that the options describe, with instances if wanted and available.

    Raises:
        DatasetError: no images, images without labels, or fewer images than requested.
        SettingError, SchemeError: the experiment, the data set or its scheme is unknown, or
            options exclude each other.
    """
    if args.subset is not None and (args.count is not None or args.seed):
        raise SettingError(
            f'--subset {args.subset} determines the images; omit --count and --seed'
        )
    use = Use(set=args.set, split=args.split, subset=args.subset, count=args.count, seed=args.seed)
    part = '' if args.count is None else f', {args.count} frames by seed {args.seed}'
    part += '' if args.subset is None else f', subset {args.subset}'
    files = open_files(_experiment(args), use, instances=instances)
    return FileFrames(files, f'{args.set} {args.split}{part}')


def open_split(args: argparse.Namespace, name: str, split: str) -> FileFrames:
    """Open all frames of another set and split; raises like `open_frames`."""
    use = Use(set=name, split=split)
    return FileFrames(open_files(_experiment(args), use), f'{name} {split}')


def _experiment(args: argparse.Namespace) -> Experiment:
    """Return the experiment whose data sets are known, with the data root of the options."""
    if args.experiment is not None:
        experiment = load_experiment(args.experiment, [])
    else:
        # Only the data sets of the catalog are needed, no validated experiment.
        experiment = Experiment.model_construct()
    if args.data_root is None:
        return experiment
    return experiment.model_copy(update={'data_root': str(args.data_root)})


def number_from_0(text: str) -> int:
    """Parse a count that may be 0."""
    return 0 if text == '0' else count(text)
