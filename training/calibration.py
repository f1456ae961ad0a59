# SPDX-License-Identifier: Apache-2.0
"""Whether a confidence of 0.8 is right in 8 of 10 pixels.

Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from segmentation_node.metrics import UNCOUNTED, LabelImage, Target

#: Bins of equal width, as many as in the paper.
BINS: Final = 15


@dataclass(frozen=True)
class Bin:
    """Pixels whose confidence lies above `low` (0: from there on) and up to `high`.

    `confidence` and `accuracy` are means over the pixels, NaN where there are none.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


@dataclass
class Calibration:
    """Pixels by confidence as published (255 = certain), and those of them that are right.

    Both (256,) int64: nothing is lost before the bins are drawn.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    right: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, target: Target, predicted: LabelImage, confidence: LabelImage) -> None:
        """Count the pixels of one frame, (H, W) each, whose truth is not UNCOUNTED."""
        counted = target != UNCOUNTED
        values = confidence[counted]
        self.pixels += np.bincount(values, minlength=256)
        self.right += np.bincount(values[target[counted] == predicted[counted]], minlength=256)

    def table(self, bins: int = BINS) -> list[Bin]:
        """The reliability table: one row a bin, from low to high confidence."""
        values = np.arange(256)
        # Ceiling in integers: 255 * low < value <= 255 * high, exactly.
        bin_of = np.maximum(-(-values * bins // 255) - 1, 0)
        pixels, right, confidence = (
            np.bincount(bin_of, weights, minlength=bins)
            for weights in (self.pixels, self.right, self.pixels * values)
        )
        return [
            Bin(
                i / bins,
                (i + 1) / bins,
                int(n),
                float(total / 255 / n) if n else math.nan,
                float(hits / n) if n else math.nan,
            )
            for i, (n, hits, total) in enumerate(zip(pixels, right, confidence, strict=True))
        ]

    def ece(self, bins: int = BINS) -> float:
        """Expected calibration error: mean gap of accuracy and confidence; NaN of none."""
        total = int(self.pixels.sum())
        if not total:
            return math.nan
        filled = (b for b in self.table(bins) if b.pixels)
        return sum(b.pixels * abs(b.accuracy - b.confidence) for b in filled) / total
