# SPDX-License-Identifier: Apache-2.0
"""Repeated trainings: runs that differ only in their seed."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from training.config import OUTER
from training.report.comparability import Aspect, group
from training.report.records import Record

#: Fields that do not tell repeated trainings apart.
IGNORED: Final = frozenset({*OUTER, 'seed', 'study'})


@dataclass(frozen=True)
class Repeats:
    """Runs of one experiment with different seeds, at least one; all have an mIoU."""

    records: tuple[Record, ...]

    @property
    def title(self) -> str:
        """Title of the first run, with the number of the others."""
        more = len(self.records) - 1
        others = f' and {more} more {"seed" if more == 1 else "seeds"}' if more else ''
        return self.records[0].title + others

    @property
    def letters(self) -> str:
        """Letters of the runs."""
        return ', '.join(record.letter for record in self.records)

    @property
    def seeds(self) -> str:
        """Seeds of the runs."""
        return ', '.join(record.param('seed', '0') for record in self.records)

    @property
    def mious(self) -> list[float]:
        """Score of each run."""
        return [v for r in self.records if (v := r.at_best('mIoU')) is not None]

    @property
    def miou(self) -> float:
        """Mean score."""
        return fmean(self.mious)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the scores; None for a single run."""
        return stdev(self.mious) if len(self.mious) > 1 else None


def repeats(records: Sequence[Record]) -> list[Repeats]:
    """Group the runs that have an mIoU; a run without repeats is a group of one.

    A second run with the same seed is no repeat, because it has the same result.
    """
    groups: dict[Hashable, list[Record]] = {}
    seen: dict[Hashable, int] = {}
    for record in records:
        if record.at_best('mIoU') is None:
            continue
        key = _key(record)
        with_seed = (key, record.param('seed', '0'))
        seen[with_seed] = seen.get(with_seed, 0) + 1
        groups.setdefault((key, seen[with_seed]), []).append(record)
    return [Repeats(tuple(members)) for members in groups.values()]


def _key(record: Record) -> Hashable:
    # A field added later is missing in older runs, and None in newer runs that do not set it.
    fields = {k: v for k, v in record.params.items() if k not in IGNORED and v != 'None'}
    return tuple(sorted(fields.items())), group(record, Aspect.QUALITY), record.status
