# SPDX-License-Identifier: Apache-2.0
"""Command-line options that select the frames of a data set."""

import argparse
from pathlib import Path

from segmentation_node.cli import count
from training.config import Experiment, Use, catalog, load_experiment
from training.datasets import open_files
from training.labeled_frames import FileFrames


def add_set_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_set` reads."""
    sets = parser.add_argument_group('data set')
    sets.add_argument('--set', metavar='NAME', help=f'data set: {", ".join(catalog())}')
    sets.add_argument('--split', metavar='NAME', help='train, val, ...')
    sets.add_argument(
        '--count', type=count, metavar='N',
        help='random subset of N frames (default: all frames)',
    )  # fmt: skip
    sets.add_argument(
        '--seed', type=number_from_0, default=0, metavar='N', help='random seed for --count'
    )
    sets.add_argument(
        '--data-root', type=Path, metavar='FOLDER', help='folder of the data sets (default: data)'
    )
    sets.add_argument(
        '--experiment', type=Path, metavar='FILE', help='experiment that defines more data sets'
    )


def open_set(
    args: argparse.Namespace, name: str | None = None, split: str | None = None
) -> FileFrames:
    """Return the selected frames, or those of another set and split.

    Raises DatasetError or SettingError if there are none.
    """
    if name is not None:
        args = argparse.Namespace(**vars(args) | {'set': name, 'split': split, 'count': None})
    if args.experiment is not None:
        experiment = load_experiment(args.experiment, [])
    else:
        # Only the data sets of the catalog are needed, no validated experiment.
        experiment = Experiment.model_construct()
    if args.data_root is not None:
        experiment = experiment.model_copy(update={'data_root': str(args.data_root)})
    use = Use(set=args.set, split=args.split, count=args.count, seed=args.seed)
    part = '' if args.count is None else f', {args.count} frames by seed {args.seed}'
    return FileFrames(open_files(experiment, use), f'{args.set} {args.split}{part}')


def number_from_0(text: str) -> int:
    """Convert the text of an option to an integer that is not negative."""
    return 0 if text == '0' else count(text)
