# SPDX-License-Identifier: Apache-2.0
"""Confusion matrices of the report: shares of each true class, and the most frequent errors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from training.report.records import Record

FILE = 'confusion.json'


@dataclass(frozen=True)
class ConfusionMatrix:
    """Pixel counts, (C, C); rows are the truth, columns the prediction."""

    classes: tuple[str, ...]
    counts: npt.NDArray[np.float64]

    def rows(self) -> list[tuple[str, int, list[float]]]:
        """Return each class with its pixel count and the share predicted as each class."""
        totals = self.counts.sum(axis=1)
        shares = self.counts / np.maximum(totals, 1)[:, None]
        return [
            (name, int(total), row)
            for name, total, row in zip(self.classes, totals, shares.tolist(), strict=True)
        ]

    def most_frequent_errors(self, count: int = 3) -> list[str]:
        """Describe the most frequent errors, by their share of the true class."""
        errors = sorted(
            (
                (share, truth, predicted)
                for truth, _, row in self.rows()
                for predicted, share in zip(self.classes, row, strict=True)
                if truth != predicted and share > 0
            ),
            key=lambda error: -error[0],
        )
        return [
            f'{100 * share:.1f} % of {truth} classified as {predicted}'
            for share, truth, predicted in errors[:count]
        ]


def read_confusion(record: Record) -> ConfusionMatrix | str:
    """Read the table of a run; returns a sentence with the reason if there is none."""
    try:
        content = record.artifacts.read_json(FILE)
        if content is None:
            return f'{record.title} has no confusion matrix: {FILE} is not among its files.'
        return _checked(content)
    except (ValueError, KeyError, TypeError) as error:
        return f'The confusion matrix of {record.title} cannot be read: {FILE}, {error}.'


def _checked(content: Any) -> ConfusionMatrix:
    classes = tuple(str(name) for name in content['classes'])
    counts = np.array(content['counts'], np.float64)
    if counts.shape != (len(classes), len(classes)) or not np.isfinite(counts).all():
        raise ValueError(
            f'counts of shape {counts.shape} for {len(classes)} classes; expected a square matrix '
            f'of finite numbers'
        )
    return ConfusionMatrix(classes, counts)
