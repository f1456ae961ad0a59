# SPDX-License-Identifier: Apache-2.0
"""Keep the record of finished runs with the code: figures, settings and scores, no images.

    python -m training.publish runs/unet_camvid8 runs/unet_camvid11

Each becomes a folder in training/results, and the tables there are written anew. What the store of
the runs knew comes with them: docs/training.md says how they become a report again.
"""

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from segmentation_node.checkpoint import SPEC_FILE
from segmentation_node.errors import SegmentationError, SettingError
from training.report.augmentation import Pair, pairs
from training.report.comparability import VAL_FINGERPRINT
from training.report.published import comparisons
from training.report.records import Record, class_names, read_folder
from training.report.summary import percent
from training.tracking import Run
from training.train import EXPERIMENT_FILE

RESULTS: Final = Path(__file__).with_name('results')
#: What is neither weights nor made of the images of a data set, which may not be passed on.
KEPT: Final = (
    EXPERIMENT_FILE, 'metrics.jsonl', 'artifacts/confusion.json',
    'artifacts/evaluation/*/scores.json', f'artifacts/checkpoint/{SPEC_FILE}',
)  # fmt: skip


def publish(folder: Path, into: Path = RESULTS) -> Path:
    """Copy the record of a finished run; returns the new folder.

    Raises:
        SettingError: it is no run, has not ended well, or has no scores.
    """
    folder = folder.resolve()  # "." has no name of its own
    record = into.resolve() / folder.name
    if not (folder / 'run.json').is_file():
        raise SettingError(f'{folder} is no folder of a run; it has no run.json')
    if folder == record:
        raise SettingError(f'{folder} is the record itself; give the folder that the run is in')
    run = Run(folder)
    if run.status != 'FINISHED':
        raise SettingError(
            f'{folder} holds a run that is {run.status or "running"}, expected a finished one; '
            f'train it to its end'
        )
    if not any('mIoU' in row for row in run.history()):
        raise SettingError(
            f'{folder} has no evaluated epoch; of a search, publish a trial, or what it found'
        )
    shutil.rmtree(record, ignore_errors=True)
    for pattern in KEPT:
        for path in folder.glob(pattern):
            copy = record / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    text = json.dumps(run.description(), indent=1)
    (record / 'run.json').write_text(f'{text}\n', encoding='utf-8')
    return record


def page(results: Path = RESULTS) -> str:
    """What the records come to, as Markdown."""
    return '\n'.join(_page(results))


def _page(results: Path) -> Iterator[str]:
    yield '# Results'
    yield ''
    yield (
        'Written by `python -m training.publish`. Scores in per cent at the best epoch on the '
        'first\nvalidation set of each experiment, which also chose the epoch.'
    )
    folders = sorted(path.parent for path in results.glob(f'*/{EXPERIMENT_FILE}'))
    records = [read_folder(folder) for folder in folders]
    alike: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        alike.setdefault((record.param('label_scheme'), _val_set(record)), []).append(record)
    for (scheme, val_set), members in alike.items():
        yield from _section(f'{scheme} on {val_set}', _best_epochs(members))
    yield from _section(
        'Augmentation',
        _augmentation(pairs(records)),
        'Pairs of runs of one family on the same validation images, each at its best epoch.',
    )
    for found in comparisons(records):
        title = f'{found.label_scheme}, beside published figures'
        yield from _section(title, [found.table.columns, *found.table.rows], found.note)


def _val_set(record: Record) -> str:
    """Name and fingerprint of the first validation set, which the scores are on."""
    name = next(key.split('.')[1] for key in record.params if key.startswith('val.'))
    return f'{name} ({record.tags[VAL_FINGERPRINT].split()[0]})'


def _best_epochs(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    classes = class_names(records, 'IoU')
    yield 'run', 'best epoch', 'mIoU', 'Dice', 'pixel accuracy', *classes
    for record in records:
        figures = ('mIoU', 'Dice', 'pixel_acc', *(f'IoU/{name}' for name in classes))
        epoch = f'{record.best_epoch} of {record.param("epochs")}'
        yield record.name, epoch, *(percent(record.at_best(name)) for name in figures)


def _augmentation(found: Sequence[Pair]) -> Iterator[Sequence[str]]:
    if found:
        yield (
            'with it',
            'without it',
            'score',
            'with',
            'without',
            'difference',
            'differ as well in',
        )
    for pair in found:
        for change in pair.changes:
            scores = (percent(change.on), percent(change.off), percent(change.gain, '+'))
            differing = ', '.join(pair.differing) or 'nothing'
            yield pair.on.name, pair.off.name, change.title, *scores, differing


def _section(title: str, rows: Iterable[Sequence[str]], remark: str = '') -> Iterator[str]:
    """A heading and a table whose first row is its head; nothing where there is no row."""
    lines = [f'| {" | ".join(cells)} |' for cells in rows]
    if lines:
        yield from ('', f'## {title}', '')
        if remark:
            yield from (*textwrap.wrap(remark, 100), '')
        yield lines[0]
        yield f'|{" --- |" * (lines[0].count(" | ") + 1)}'
        yield from lines[1:]


def main(argv: list[str] | None = None) -> int:
    """Command line: publish runs and write the tables of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='*', type=Path, metavar='RUN', help='folder of a run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='where the records are kept')
    arguments = parser.parse_args(argv)
    try:
        for folder in arguments.runs:
            print(publish(folder, arguments.results))
        (arguments.results / 'README.md').write_text(f'{page(arguments.results)}\n', 'utf-8')
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
