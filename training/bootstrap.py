# SPDX-License-Identifier: Apache-2.0
"""Confidence intervals by bootstrap over images (Efron, "Bootstrap Methods", Ann. Stat. 1979).

The images of a validation set are drawn again and again, with replacement and as many as there
are; the score of each draw shows how much it depends on the choice of images. All runs get the
same draws, so that differences between runs on the same images are paired.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from segmentation_node.arrays import Float64Array
from training.frame_counts import FrameCounts, PixelCounts, mean_iou

RESAMPLES: Final = 10_000
SEED: Final = 0
LEVEL: Final = 0.95
#: A single image has no spread.
MIN_FRAMES: Final = 2
#: Maximum number of draws in memory at once.
_DRAWS: Final = 2**22


@dataclass(frozen=True)
class Interval:
    """Confidence interval of a figure, at LEVEL."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f'{self.low:.4f} to {self.high:.4f}'


def resampled_miou(frames: FrameCounts) -> Float64Array:
    """Return the mIoU of each resample, (RESAMPLES,); the draws depend on the number of images.

    Raises:
        ValueError: there are fewer images than MIN_FRAMES.
    """
    if len(frames) < MIN_FRAMES:
        raise ValueError(f'{len(frames)} images; expected at least {MIN_FRAMES}')
    parts = [mean_iou(_sums(times, frames.counts)) for times in _resamples(len(frames))]
    return np.concatenate(parts)


def _resamples(frames: int) -> Iterator[Float64Array]:
    """Yield how often each image is drawn, (R, N), in parts of R resamples."""
    rng = np.random.default_rng(SEED)
    most = max(1, _DRAWS // frames)
    for first in range(0, RESAMPLES, most):
        rows = min(most, RESAMPLES - first)
        drawn = rng.integers(frames, size=(rows, frames)) + frames * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * frames)
        yield times.reshape(rows, frames).astype(np.float64)


def _sums(times: Float64Array, counts: PixelCounts) -> Float64Array:
    """Return the counts of each resample, (R, 3, K); they are whole numbers, and exact."""
    frames, kinds, classes = counts.shape
    return (times @ counts.reshape(frames, -1).astype(np.float64)).reshape(-1, kinds, classes)


def interval_of(resampled: Float64Array) -> Interval:
    """Return the percentile interval of the figure of each resample, (R,)."""
    low, high = np.nanquantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))
