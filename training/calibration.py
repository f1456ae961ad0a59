# SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence: reliability table, expected calibration error, and ranking.

With perfect calibration, 8 of 10 pixels with a confidence of 0.8 are correct. Guo, Pleiss, Sun,
Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. With perfect ranking, all wrong
pixels are less confident than all correct ones. Geifman, Uziel, El-Yaniv, "Bias-Reduced
Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.metrics import UNCOUNTED, Target

#: Number of bins of equal width, as in the paper.
BINS: Final = 15


@dataclass(frozen=True)
class Bin:
    """Pixels with a confidence in (`low`, `high`]; the first bin includes 0.

    `confidence` and `accuracy` are means over the pixels, NaN for an empty bin.
    """

    low: float
    high: float
    pixels: int
    confidence: float
    accuracy: float


@dataclass
class Calibration:
    """Pixels by confidence as published (255 = certain), all of them and the correct ones.

    Both are (256,) int64, so that the choice of bins loses nothing.
    """

    pixels: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    right: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, target: Target, predicted: UInt8Array, confidence: UInt8Array) -> None:
        """Count the pixels of one frame, (H, W) each, whose truth is not UNCOUNTED."""
        counted = target != UNCOUNTED
        values = confidence[counted]
        self.pixels += np.bincount(values, minlength=256)
        self.right += np.bincount(values[target[counted] == predicted[counted]], minlength=256)

    def table(self, bins: int = BINS) -> list[Bin]:
        """Return the reliability table: one row per bin, from low to high confidence."""
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
        """Return the expected calibration error, the mean gap of accuracy and confidence.

        The error is NaN if no pixel was counted.
        """
        total = int(self.pixels.sum())
        if not total:
            return math.nan
        filled = (b for b in self.table(bins) if b.pixels)
        return sum(b.pixels * abs(b.accuracy - b.confidence) for b in filled) / total

    def mean_confidence(self) -> float:
        """Return the mean confidence of the pixels, NaN if no pixel was counted."""
        total = int(self.pixels.sum())
        return float(self.pixels @ np.arange(256)) / (255 * total) if total else math.nan

    def aurc(self) -> float:
        """Return the area under the risk-coverage curve, in [0, 1]; 0 is best.

        The risk is the share of wrong pixels among those that are at least as confident as a
        pixel, and the area is its mean over all pixels. Pixels of equal confidence enter the
        curve together. The area is NaN if no pixel was counted.
        """
        kept = np.cumsum(self.pixels[::-1])  # (256,), from the highest confidence to the lowest
        if not kept[-1]:
            return math.nan
        wrong = np.cumsum((self.pixels - self.right)[::-1])
        return float(self.pixels[::-1] @ (wrong / np.maximum(kept, 1)) / kept[-1])
