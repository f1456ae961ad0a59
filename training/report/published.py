# SPDX-License-Identifier: Apache-2.0
"""Comparison of runs with published figures for the same classes and data set."""

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
class PublishedComparison:
    """Runs and published figures in one label scheme; `note` limits the comparison."""

    label_scheme: str
    note: str
    table: Table


def comparisons(records: Sequence[Record]) -> list[PublishedComparison]:
    """Return a comparison for each label scheme that has both runs and published figures."""
    tables = []
    for scheme, known in _published().items():
        rows = [
            (record.name, percent(record.at_best(f'mIoU/{name}')),
             f'{data}, also used to choose the epoch', _trained(record), 'this repository')
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
            tables.append(PublishedComparison(scheme, known['note'], Table(COLUMNS, tuple(rows))))
    return tables


@cache
def _published() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding='utf-8')))


def _val_sets(record: Record) -> dict[str, str]:
    """Return data set and split of each validation set, by its name in the metrics."""
    fields = record.inner('val')
    names = [key.removesuffix('.set') for key in fields if key.endswith('.set')]
    return {name: f'{fields[f"{name}.set"]} {fields.get(f"{name}.split", "")}' for name in names}


def _trained(record: Record) -> str:
    """Describe the initial weights and the training data of a run."""
    source = record.param('initial') or record.param('initial_encoder')
    source = 'ImageNet' if source.startswith('imagenet') else source
    sets = [value for key, value in record.inner('train').items() if key.endswith('.set')]
    part = 'weights' if record.param('initial') else 'encoder'
    start = f'{part} from {source}' if source else 'from scratch'
    return f'{start}; on {" and ".join(sets)}'
