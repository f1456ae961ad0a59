# SPDX-License-Identifier: Apache-2.0
"""What others have published, beside own runs in the same classes on the same data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from training.report.charts import Table
from training.report.records import Record
from training.report.summary import percent

FILE: Final = Path(__file__).parents[1] / 'published.yaml'
COLUMNS: Final = ('Model', 'mIoU in %', 'Scored on', 'Trained', 'Source')


@dataclass(frozen=True)
class Comparison:
    """Own runs and published figures in one label scheme; `note` says what they do not tell."""

    label_scheme: str
    note: str
    table: Table


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """A comparison for each label scheme with published figures that any run was scored in."""
    found = []
    for scheme, known in _published().items():
        rows = [
            (record.name, percent(record.at_best(f'mIoU/{name}')), f'{data}; chose the epoch',
             _trained(record), 'here')
            for record in records
            if record.param('label_scheme') == scheme
            for name, data in _val_sets(record).items()
            if data.split()[0] in known['data']
        ]  # fmt: skip
        if rows:
            rows += [
                (row['model'], ('about ' if row.get('about') else '') + f'{row["miou"]:.1f}',
                 row['scored_on'], row['trained'], row['source'])
                for row in known['figures']
            ]  # fmt: skip
            found.append(Comparison(scheme, known['note'], Table(COLUMNS, tuple(rows))))
    return found


@cache
def _published() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding='utf-8')))


def _val_sets(record: Record) -> dict[str, str]:
    """Data set and split of each validation set, by the name that figures go by."""
    fields = record.inner('val')
    names = [key.removesuffix('.set') for key in fields if key.endswith('.set')]
    return {name: f'{fields[f"{name}.set"]} {fields.get(f"{name}.split", "")}' for name in names}


def _trained(record: Record) -> str:
    """What the network started with, and what it saw."""
    start = record.param('initial') or record.param('initial_encoder')
    start = 'ImageNet' if start.startswith('imagenet') else start
    sets = [value for key, value in record.inner('train').items() if key.endswith('.set')]
    what = 'weights' if record.param('initial') else 'encoder'
    begun = f'{what} from {start}' if start else 'from scratch'
    return f'{begun}; on {" and ".join(sets)}'
