# SPDX-License-Identifier: Apache-2.0
"""Settings and origins of the runs as tables, one column for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.records import Record

#: Text for a setting that a run does not have.
NOT_SET: Final = 'not set'


@dataclass(frozen=True)
class Sheet:
    """Rows in which the runs differ, with a value per run, and rows that are the same in all."""

    differing: tuple[tuple[str, tuple[str, ...]], ...]
    same: tuple[tuple[str, str], ...]


def sheet(mappings: Sequence[Mapping[str, str]]) -> Sheet:
    """Arrange the mappings of the runs in rows by name."""
    names = sorted({name for mapping in mappings for name in mapping})
    rows = [(name, tuple(m.get(name, NOT_SET) for m in mappings)) for name in names]
    return Sheet(
        tuple((name, values) for name, values in rows if len(set(values)) > 1),
        tuple((name, values[0]) for name, values in rows if len(set(values)) == 1),
    )


def origins(record: Record) -> dict[str, str]:
    """Return the origin of a run: its tags, and start, status, study and id in MLflow."""
    return {
        'started': f'{record.started:%Y-%m-%d %H:%M} UTC',
        'status': record.status.lower(),
        'study': record.study,
        'run id': record.id,
        **record.tags,
    }
