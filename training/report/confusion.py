# SPDX-License-Identifier: Apache-2.0
"""Confusion tables as they are shown: shares of each true class, and the worst mistakes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.report.records import Record

FILE = 'confusion.json'


@dataclass(frozen=True)
class ConfusionTable:
    """Pixel counts (C, C), rows are the truth and columns the prediction."""

    classes: tuple[str, ...]
    counts: npt.NDArray[np.float64]

    def rows(self) -> list[tuple[str, int, list[float]]]:
        """Class, its pixels, and the shares of them that each class was predicted for."""
        totals = self.counts.sum(axis=1)
        shares = self.counts / np.maximum(totals, 1)[:, None]
        return [
            (name, int(total), row)
            for name, total, row in zip(self.classes, totals, shares.tolist(), strict=True)
        ]

    def mistakes(self, count: int = 3) -> list[str]:
        """The most frequent mistakes in words, by their share of the true class."""
        found = sorted(
            (
                (share, truth, predicted)
                for truth, _, row in self.rows()
                for predicted, share in zip(self.classes, row, strict=True)
                if truth != predicted and share > 0
            ),
            key=lambda mistake: -mistake[0],
        )
        return [
            f'{100 * share:.1f} % of {truth} taken for {predicted}'
            for share, truth, predicted in found[:count]
        ]


def read_confusion(record: Record) -> ConfusionTable | str:
    """The table of a run, or a sentence that says why there is none."""
    try:
        content = record.artifacts.read_json(FILE)
        if content is None:
            return f'{record.title} has no confusion table: {FILE} is not among its files.'
        return _checked(content)
    except (ValueError, KeyError, TypeError) as error:
        return f'{record.title} has a confusion table that cannot be read: {FILE}, {error}.'


def _checked(content: Any) -> ConfusionTable:
    classes = tuple(str(name) for name in content['classes'])
    counts = np.array(content['counts'], np.float64)
    if counts.shape != (len(classes), len(classes)) or not np.isfinite(counts).all():
        raise ValueError(f'{counts.shape} counts of {len(classes)} classes')
    return ConfusionTable(classes, counts)
