# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals of scores and of their differences, by bootstrap over the images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np

from segmentation_node.arrays import Float64Array
from training.bootstrap import Interval, interval_of
from training.report.charts import Table
from training.report.records import Record
from training.report.repeats import Repeats
from training.report.samples import ResampledScore
from training.report.summary import ABSENT

#: Fewer images give intervals that are too narrow.
FEW_FRAMES: Final = 30
COLUMNS: Final = ('Better run', 'Other run', 'Difference, points', '95 % interval', 'Result')
TIE: Final = 'cannot be told apart'


class Scored(NamedTuple):
    """Score of a run; `sample` is None if the counts of its images are missing."""

    title: str
    miou: float | None
    sample: ResampledScore | None


@dataclass(frozen=True)
class Difference:
    """Difference in mIoU between two runs on the same images."""

    better: str
    other: str
    miou: float
    interval: Interval

    @property
    def is_tie(self) -> bool:
        """True if the data cannot tell the runs apart."""
        return 0 in self.interval


def scored(record: Record) -> Scored:
    """Return the score of a run on the set that determines its best epoch."""
    return Scored(record.title, record.at_best('mIoU'), record.samples.first)


def score_interval(records: Sequence[Record]) -> Interval | None:
    """Return the interval of the mean mIoU of runs on the same images; None if unknown."""
    values = _resampled([record.samples.first for record in records])
    return None if values is None else interval_of(values)


def difference_interval(ours: Sequence[Record], theirs: Sequence[Record]) -> Interval | None:
    """Return the interval of the difference of two mean mIoU; None unless it can be computed."""
    one, other = ([record.samples.first for record in records] for records in (ours, theirs))
    return _difference(one, other)


def _difference(
    ours: Sequence[ResampledScore | None], theirs: Sequence[ResampledScore | None]
) -> Interval | None:
    one, other, both = map(_resampled, (ours, theirs, [*ours, *theirs]))
    return None if one is None or other is None or both is None else interval_of(one - other)


def _resampled(samples: Sequence[ResampledScore | None]) -> Float64Array | None:
    """Return the mean mIoU in each resample; None if images differ or counts are missing."""
    known = [sample for sample in samples if sample is not None]
    if len(known) < len(samples) or len({sample.images for sample in known}) != 1:
        return None
    return np.asarray(np.mean([sample.values for sample in known], axis=0), np.float64)


def differences(runs: Sequence[Scored]) -> list[Difference]:
    """Return the differences of all pairs of runs on the same images, the largest first."""
    return sorted(_differences(runs), key=lambda difference: -difference.miou)


def _differences(runs: Sequence[Scored]) -> Iterator[Difference]:
    ranked = sorted((r for r in runs if r.miou is not None), key=lambda run: -(run.miou or 0))
    for better, other in combinations(ranked, 2):
        interval = _difference([better.sample], [other.sample])
        if interval is not None:
            lead = (better.miou or 0) - (other.miou or 0)
            yield Difference(better.title, other.title, lead, interval)


def difference_table(runs: Sequence[Scored]) -> Table | None:
    """Return the differences as a table; None if there are none."""
    rows = tuple(
        (d.better, d.other, points(d.miou), points_interval(d.interval),
         TIE if d.is_tie else 'better')
        for d in differences(runs)
    )  # fmt: skip
    remark = 'One of twenty intervals misses the truth by chance alone.'
    return Table(COLUMNS, rows, remark) if rows else None


def repeats_table(groups: Sequence[Repeats]) -> Table | None:
    """Return mean and spread of repeated trainings as a table; None if there are none."""
    rows = tuple(
        (f'{found.letters} ({found.records[0].name})', found.seeds, f'{found.miou:.4f}',
         f'{found.deviation:.4f}', f'{min(found.mious):.4f} to {max(found.mious):.4f}',
         _interval_of(found))
        for found in groups
        if found.deviation is not None
    )  # fmt: skip
    columns = ('Runs', 'Seeds', 'Mean mIoU', 'Standard deviation', 'Range', '95 % interval')
    return Table(columns, rows) if rows else None


def _interval_of(found: Repeats) -> str:
    interval = score_interval(found.records)
    return ABSENT if interval is None else str(interval)


def footnotes(records: Sequence[Record]) -> list[str]:
    """Return sentences on missing and on doubtful intervals."""
    missing: dict[str, list[str]] = {}
    for record in records:
        if record.at_best('mIoU') is not None and record.samples.reason:
            missing.setdefault(record.samples.reason, []).append(record.title)
    notes = [
        f'No interval for {", ".join(titles)}: {reason}.' for reason, titles in missing.items()
    ]
    samples = [(record.title, record.samples.first) for record in records]
    few = [title for title, s in samples if s is not None and s.frames < FEW_FRAMES]
    if few:
        notes.append(
            f'The intervals of {", ".join(few)} are from fewer than {FEW_FRAMES} images and '
            f'therefore too narrow.'
        )
    return notes


def points(difference: float) -> str:
    """Format a difference of scores in percentage points."""
    return f'{100 * difference:+.2f}'


def points_interval(interval: Interval) -> str:
    """Format the interval of a difference in percentage points."""
    return f'{points(interval.low)} to {points(interval.high)}'
