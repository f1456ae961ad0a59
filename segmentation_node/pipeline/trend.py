# SPDX-License-Identifier: Apache-2.0
"""Newest value, mean and trend of a figure that every frame has."""

from collections import deque

import numpy as np


class Trend:
    """The newest values of a figure, and how they change."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Append a value; the oldest is dropped when the series is full."""
        self._values.append(value)

    def summary(self) -> dict[str, float | int | None]:
        """Return newest value, mean, trend and number of frames; None for what is unknown.

        The trend is the mean of the newer half minus that of the older half. With an odd number of
        values, the one in the middle is in neither.
        """
        values = np.array(self._values)
        half = len(values) // 2
        return {
            'newest': float(values[-1]) if len(values) else None,
            'mean': float(values.mean()) if len(values) else None,
            'trend': float(values[-half:].mean() - values[:half].mean()) if half else None,
            'frames': len(values),
        }
