# SPDX-License-Identifier: Apache-2.0
"""Copy the records of finished runs to training/results: figures, settings, scores, no images.

    python -m training.publish runs/unet_camvid8 runs/unet_camvid11
    python -m training.publish runs/search/deeplabv3plus

Each run becomes a folder there, each search a folder in `searches`, and the tables are updated.
A folder includes the description of the run in MLflow; docs/training.md shows how to recreate the
report.
"""

import argparse
import json
import math
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from segmentation_node.checkpoint import SPEC_FILE
from segmentation_node.errors import SegmentationError, SettingError
from training.frame_counts import FRAME_COUNTS_FILE
from training.parallel_coordinates import PARALLEL_FILE
from training.report.augmentation import AugmentationPair, pairs
from training.report.charts import Table
from training.report.comparability import VAL_FINGERPRINT
from training.report.confidence import (
    difference_table,
    footnotes,
    points_interval,
    repeats_table,
    scored,
)
from training.report.published import comparisons
from training.report.records import Record, class_names, read_folder
from training.report.repeats import repeats
from training.report.summary import percent
from training.robustness_report import TITLES
from training.robustness_results import IN_RUN, MEANS, RESULTS_FILE, RobustnessResults
from training.robustness_results import percent as percent_or_dash
from training.search_results import (
    BEST_FILE,
    SPACE_FILE,
    TABLE_FILE,
    best_of,
    cells,
    format_values,
    read_table,
)
from training.tracking import Run
from training.train import EXPERIMENT_FILE

RESULTS: Final = Path(__file__).with_name('results')
#: Files without weights and without images of a data set, which may not be redistributed.
KEPT: Final = (
    EXPERIMENT_FILE, 'metrics.jsonl', 'artifacts/confusion.json', f'artifacts/{FRAME_COUNTS_FILE}',
    'artifacts/evaluation/*/scores.json', f'artifacts/evaluation/*/{FRAME_COUNTS_FILE}',
    f'artifacts/checkpoint/{SPEC_FILE}', f'{IN_RUN}/{RESULTS_FILE}',
)  # fmt: skip
#: Files of a search.
KEPT_OF_SEARCH: Final = (
    SPACE_FILE, EXPERIMENT_FILE, 'metrics.jsonl', f'artifacts/{TABLE_FILE}',
    f'artifacts/{PARALLEL_FILE}', f'artifacts/{BEST_FILE}',
)  # fmt: skip
#: Invitation to repeat a training.
REPEAT: Final = """
One training does not show how much of a score is chance. Repeat it with other seeds and publish
the runs; the tables then show mean and spread:

```bash
for seed in 0 1 2; do
  python -m training.train training/configs/unet_camvid8.yaml runs/unet_seed$seed seed=$seed
done
python -m training.publish runs/unet_seed*
```"""
#: Folder of the searches in the results.
SEARCHES: Final = 'searches'


def publish(folder: Path, into: Path = RESULTS) -> Path:
    """Copy the record of a finished run or search; returns the new folder.

    Raises:
        SettingError: the folder is not that of a run or search, it is unfinished, or it has no
            scores.
    """
    folder = folder.resolve()  # "." has no name
    is_search = (folder / SPACE_FILE).is_file()
    record = (into / SEARCHES if is_search else into).resolve() / folder.name
    if not (folder / 'run.json').is_file():
        raise SettingError(f'{folder} is not the folder of a run (run.json is missing)')
    if folder == record:
        raise SettingError(f'{folder} is a published record; give the folder of the run')
    run = Run(folder)
    if run.status != 'FINISHED':
        raise SettingError(
            f'{folder} contains a run with status {run.status or "RUNNING"}, expected FINISHED; '
            f'complete the {"search" if is_search else "training"}'
        )
    if is_search:
        _check_search(folder)
    elif not any('mIoU' in row for row in run.history()):
        raise SettingError(
            f'{folder} has no evaluated epoch; of a search, publish one of its trials'
        )
    shutil.rmtree(record, ignore_errors=True)
    _copy(folder, record, KEPT_OF_SEARCH if is_search else KEPT)
    text = json.dumps(run.description(), indent=1)
    (record / 'run.json').write_text(f'{text}\n', encoding='utf-8')
    return record


def _check_search(folder: Path) -> None:
    missing = [name for name in KEPT_OF_SEARCH if not (folder / name).is_file()]
    if missing:
        raise SettingError(
            f'{folder} is a search without {", ".join(missing)}: no trial has a score, or it is '
            f'from an older version; repeat its command, which writes the files'
        )


def _copy(folder: Path, record: Path, kept: Sequence[str]) -> None:
    for pattern in kept:
        for path in folder.glob(pattern):
            copy = record / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def page(results: Path = RESULTS) -> str:
    """Return the tables of all records as Markdown."""
    return '\n'.join(_page(results))


def _page(results: Path) -> Iterator[str]:
    yield '# Results'
    yield ''
    yield (
        'Written by `python -m training.publish`. Scores are percentages at the best epoch on the '
        'first\nvalidation set of each experiment, which also determined that epoch.'
    )
    yield REPEAT
    folders = sorted(path.parent for path in results.glob(f'*/{EXPERIMENT_FILE}'))
    records = [read_folder(folder) for folder in folders]
    alike: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        alike.setdefault((record.param('label_scheme'), _val_set(record)), []).append(record)
    for (scheme, val_set), members in alike.items():
        yield from _section(f'{scheme} on {val_set}', _best_epochs(members))
    yield from _confidence(records)
    yield from _section(
        'Robustness',
        _robustness(folders),
        'mIoU under corruption, by training.robustness: "15 corruptions" is the mean over noise, '
        'blur, weather and digital at 5 severities. A dash marks figures that were not measured.',
    )
    yield from _section(
        'Augmentation',
        _augmentation(pairs(records)),
        'Pairs of runs of one family on the same validation images, each at its best epoch.',
    )
    for found in comparisons(records):
        title = f'{found.label_scheme}, compared with published figures'
        yield from _section(title, [found.table.columns, *found.table.rows], found.note)
    for path in sorted(results.glob(f'{SEARCHES}/*/{SPACE_FILE}')):
        yield from _search(path.parent)


def _confidence(records: Sequence[Record]) -> Iterator[str]:
    remark = (
        'Intervals at 95 % by bootstrap over the validation images: they cover the choice of the '
        'images, not chance in training. '
    )
    yield from ('', '## Confidence', '')
    yield from textwrap.wrap(remark + ' '.join(footnotes(records)), 100)
    rows = [
        (record.name, f'{record.at_best("mIoU"):.4f}', str(record.samples.first.interval))
        for record in records
        if record.samples.first is not None
    ]
    yield from _table([('run', 'mIoU', '95 % interval'), *rows] if rows else [])
    yield from _section(
        'Differences',
        _of(difference_table([scored(record) for record in records])),
        'Pairs of runs on the same images; they cannot be told apart if the interval contains 0.',
    )
    yield from _section('Repeated trainings', _of(repeats_table(repeats(records))))


def _of(found: Table | None) -> list[Sequence[str]]:
    return [] if found is None else [found.columns, *found.rows]


def _search(folder: Path) -> Iterator[str]:
    """Yield the trials of a published search, its picture, and the chosen values."""
    try:
        rows = read_table((folder / 'artifacts' / TABLE_FILE).read_bytes())
    except ValueError as error:
        raise SettingError(
            f'{folder}/artifacts/{TABLE_FILE}: {error}; publish the search again'
        ) from error
    fields = list(dict.fromkeys(name for row in rows for name in row.values))
    place = f'{SEARCHES}/{folder.name}/artifacts'
    best = best_of(rows)
    chosen = 'None.' if best is None else f'Trial {best.number}: {format_values(best.values)}.'
    yield from _section(
        f'Search {folder.name}',
        cells(rows, fields),
        f'{chosen} The configuration is in `training/results/{place}/{BEST_FILE}`.',
    )
    yield from ('', f'![Parallel coordinates of the trials]({place}/{PARALLEL_FILE})')


def _val_set(record: Record) -> str:
    """Return name and fingerprint of the first validation set, to which the scores refer."""
    name = next(key.split('.')[1] for key in record.params if key.startswith('val.'))
    return f'{name} ({record.tags[VAL_FINGERPRINT].split()[0]})'


def _best_epochs(records: Sequence[Record]) -> Iterator[Sequence[str]]:
    classes = class_names(records, 'IoU')
    yield 'run', 'best epoch', 'mIoU', 'Dice', 'pixel accuracy', *classes
    for record in records:
        figures = ('mIoU', 'Dice', 'pixel_acc', *(f'IoU/{name}' for name in classes))
        epoch = f'{record.best_epoch} of {record.param("epochs")}'
        yield record.name, epoch, *(percent(record.at_best(name)) for name in figures)


def _robustness(folders: Sequence[Path]) -> Iterator[Sequence[str]]:
    """Yield the means of each record; nothing if none was measured."""
    measured = {
        folder.name: RobustnessResults.read(folder / IN_RUN)
        for folder in folders
        if (folder / IN_RUN / RESULTS_FILE).is_file()
    }
    if measured:
        names = MEANS
        yield 'run', 'frames', *(TITLES.get(name, name) for name in names)
        for folder in folders:
            results = measured.get(folder.name)
            model = None if results is None else results.models.get(folder.name)
            frames = (
                '-' if results is None or model is None else f'{results.frames}, {results.data}'
            )
            values = dict.fromkeys(names, math.nan) if model is None else model.summary()
            yield folder.name, frames, *map(percent_or_dash, values.values())


def _augmentation(found: Sequence[AugmentationPair]) -> Iterator[Sequence[str]]:
    if found:
        yield (
            'augmented run', 'plain run', 'score', 'with', 'without', 'gain',
            'other differences',
        )  # fmt: skip
    for pair in found:
        for change in pair.changes:
            gain = percent(change.gain, '+')
            if change.interval is not None:
                gain += f' ({points_interval(change.interval)})'
            scores = (percent(change.on), percent(change.off), gain)
            differing = ', '.join(pair.differing) or 'none'
            yield pair.on.name, pair.off.name, change.title, *scores, differing


def _section(title: str, rows: Iterable[Sequence[str]], remark: str = '') -> Iterator[str]:
    """Yield a heading and a table with the first row as its header; nothing without rows."""
    lines = list(_table(rows))
    if lines:
        yield from ('', f'## {title}')
        if remark:
            yield from ('', *textwrap.wrap(remark, 100))
        yield from lines


def _table(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield an empty line and a table with the first row as its header; nothing without rows."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    if lines:
        yield from ('', lines[0], f'|{" --- |" * (lines[0].count(" | ") + 1)}', *lines[1:])


def main(argv: list[str] | None = None) -> int:
    """Run the command line: publish runs and update the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='*', type=Path, metavar='RUN', help='folder of a run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='folder of the records')
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
