# SPDX-License-Identifier: Apache-2.0
"""Calibration of the confidence: reliability table, expected calibration error, and ranking.

With perfect calibration, 8 of 10 pixels with a confidence of 0.8 are correct. Guo, Pleiss, Sun,
Weinberger, "On Calibration of Modern Neural Networks", ICML 2017. With perfect ranking, all wrong
pixels are less confident than all correct ones. Geifman, Uziel, El-Yaniv, "Bias-Reduced
Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019. The temperature that calibrates a
model is fitted to the same counts.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

from segmentation_node.arrays import UInt8Array
from segmentation_node.metrics import UNCOUNTED, Target
from segmentation_node.networks.confidence import TEMPERATURES, calibrated, confidence_table

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

    def __add__(self, other: 'Calibration') -> 'Calibration':
        return Calibration(self.pixels + other.pixels, self.right + other.right)

    def at(self, temperature: float) -> 'Calibration':
        """Return the same pixels under the confidence that a temperature publishes."""
        values = confidence_table(temperature)
        pixels, right = (np.zeros(256, np.int64) for _ in range(2))
        np.add.at(pixels, values, self.pixels)
        np.add.at(right, values, self.right)
        return Calibration(pixels, right)

    def temperature(self) -> float:
        """Return the temperature under which the correctness of the pixels is most likely.

        The counts must be those of temperature 1. Without any pixel the temperature is 1.
        """
        if not self.pixels.any():
            return 1.0
        wrong = self.pixels - self.right

        def surprise(log_temperature: float) -> float:
            chances = calibrated(math.exp(log_temperature))
            tiny = np.finfo(float).tiny  # chances round to 0 and 1 at low temperatures
            right, not_right = np.maximum(chances, tiny), np.maximum(1 - chances, tiny)
            return -float(self.right @ np.log(right) + wrong @ np.log(not_right))

        low, high = map(math.log, TEMPERATURES)
        found = minimize_scalar(surprise, bounds=(low, high), method='bounded')
        return round(float(np.clip(math.exp(found.x), *TEMPERATURES)), 4)

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
