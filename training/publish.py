# SPDX-License-Identifier: Apache-2.0
"""Keep the record of finished runs with the code: figures, settings and scores, no images.

    python -m training.publish runs/unet_camvid8 runs/unet_camvid11

Each becomes a folder in training/results, and the table there is written anew. What the store of
the runs knew comes with them: training/README.md says how they become a report again.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from segmentation_node.errors import SegmentationError, SettingError
from training.config import load_experiment
from training.tracking import Run
from training.train import EXPERIMENT_FILE

RESULTS: Final = Path(__file__).with_name('results')
#: What is neither weights nor made of the images of a data set, which may not be passed on.
KEPT: Final = (
    EXPERIMENT_FILE, 'metrics.jsonl', 'artifacts/confusion.json',
    'artifacts/evaluation/*/scores.json',
)  # fmt: skip


def publish(folder: Path, into: Path = RESULTS) -> Path:
    """Copy the record of a finished run; returns the new folder.

    Raises:
        SettingError: it is no run, or has not ended well.
    """
    if not (folder / 'run.json').is_file():
        raise SettingError(f'{folder} is no folder of a run; it has no run.json')
    run = Run(folder)
    if run.status != 'FINISHED':
        raise SettingError(
            f'{folder} holds a run that is {run.status or "running"}, expected a finished one; '
            f'train it to its end'
        )
    record = into / folder.name
    shutil.rmtree(record, ignore_errors=True)
    for pattern in KEPT:
        for path in folder.glob(pattern):
            copy = record / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    text = json.dumps(run.description(), indent=1)
    (record / 'run.json').write_text(f'{text}\n', encoding='utf-8')
    return record


def table(results: Path = RESULTS) -> str:
    """The best epoch of every record, IoU in per cent, as Markdown, one table a label scheme."""
    by_scheme: dict[str, list[str]] = {}
    for folder in sorted(path.parent for path in results.glob(f'*/{EXPERIMENT_FILE}')):
        experiment = load_experiment(folder / EXPERIMENT_FILE, [])
        history = Run(folder).history()
        best = max(history, key=lambda row: row['mIoU'])
        ious = {k.removeprefix('IoU/'): v for k, v in best.items() if k.startswith('IoU/')}
        rows = by_scheme.setdefault(experiment.label_scheme, list(_head(ious)))
        epoch = f'{best["epoch"] + 1} of {experiment.epochs}'
        shares = (best[key] for key in ('mIoU', 'Dice', 'pixel_acc'))
        rows.append(_row(folder.name, epoch, *map(_percent, (*shares, *ious.values()))))
    sections = (f'## {scheme}\n\n' + '\n'.join(rows) for scheme, rows in by_scheme.items())
    return '\n\n'.join(sections)


def _head(ious: dict[str, Any]) -> Iterator[str]:
    names = ('run', 'best epoch', 'mIoU', 'Dice', 'pixel accuracy', *ious)
    yield _row(*names)
    yield _row(*('---' for _ in names))


def _row(*cells: str) -> str:
    return f'| {" | ".join(cells)} |'


def _percent(share: float) -> str:
    return f'{100 * share:.1f}'


def main(argv: list[str] | None = None) -> int:
    """Command line: publish runs and write the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('runs', nargs='*', type=Path, metavar='RUN', help='folder of a run')
    parser.add_argument('--results', type=Path, default=RESULTS, help='where the records are kept')
    arguments = parser.parse_args(argv)
    try:
        for folder in arguments.runs:
            print(publish(folder, arguments.results))
        page = (
            '# Results\n\nWritten by `python -m training.publish`. Scores in per cent at the best '
            'epoch on the first\nvalidation set of each experiment, which also chose the epoch.'
            f'\n\n{table(arguments.results)}\n'
        )
        (arguments.results / 'README.md').write_text(page, encoding='utf-8')
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
