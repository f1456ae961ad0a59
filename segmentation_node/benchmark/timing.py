# SPDX-License-Identifier: Apache-2.0
"""Statistics of measured times, and the alternating order of measurements."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

Item = TypeVar('Item')
#: Shown on pages where nothing was measured.
NO_NUMBER: Final = '-'


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a number of values; NaN if there are none."""

    median: float
    q1: float
    q3: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return the median and quartiles, interpolated between neighbors."""
    q1, median, q3 = percentiles(values, 25, 50, 75)
    return Spread(median, q1, q3, len(values))


def percentiles(values: Sequence[float], *which: float) -> list[float]:
    """Return percentiles, interpolated between neighbors; NaN if there are no values."""
    return np.percentile(values, which).tolist() if len(values) else [float('nan')] * len(which)


def alternating(items: Sequence[Item], rounds: int) -> Iterator[tuple[int, Item]]:
    """Yield every item once per round, with the number of the round.

    Interference from other processes thus affects all items alike. Each round begins with a
    different item, so that no item always follows the same one.
    """
    for number in range(rounds):
        first = number % len(items) if items else 0
        for item in (*items[first:], *items[:first]):
            yield number, item


def rate_hz(times_s: Sequence[float]) -> float:
    """Return the events per second between the first and the last; NaN if fewer than two."""
    if len(times_s) < 2:
        return float('nan')
    span_s = max(times_s) - min(times_s)
    return (len(times_s) - 1) / span_s if span_s > 0 else float('nan')


def three_digits(value: float) -> str:
    """Format a number with three significant digits, but keep all digits of its integer part."""
    if math.isnan(value):
        return NO_NUMBER
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f'{value:.{min(max(digits, 0), 3)}f}'
