# SPDX-License-Identifier: Apache-2.0
"""Resampled scores of a run, from the pixel counts of its validation images."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from segmentation_node.arrays import Float64Array
from segmentation_node.errors import ForeignError
from training.bootstrap import MIN_FRAMES, Interval, interval_of, resampled_miou
from training.frame_counts import FRAME_COUNTS_FILE, FrameCounts, parse_frame_counts

#: Maximum difference between the mIoU of the counts and that of the run, by rounding.
TOLERANCE: Final = 1e-6


@dataclass(frozen=True)
class ResampledScore:
    """mIoU of one validation set in each resample of its images, identified by `images`."""

    images: str
    frames: int
    values: Float64Array

    @cached_property
    def interval(self) -> Interval:
        """Return the confidence interval of mIoU."""
        return interval_of(self.values)


@dataclass(frozen=True)
class ResampledScores:
    """Resampled scores by validation set, that which determines the best epoch first.

    `reason` is a clause on why there are none, else empty.
    """

    by_set: Mapping[str, ResampledScore] = field(default_factory=dict)
    reason: str = ''

    @property
    def first(self) -> ResampledScore | None:
        """Resampled score of the set that determines the best epoch."""
        return next(iter(self.by_set.values()), None)


def read_samples(content: bytes | None, miou: float | None) -> ResampledScores:
    """Resample the images of a run.

    Args:
        content: the run's file of counts; None if it has none.
        miou: mIoU of the first validation set, which the counts must have.
    """
    if content is None:
        return ResampledScores(
            reason=f'the counts of each image are missing ({FRAME_COUNTS_FILE}), which runs of '
            f'older versions do not have'
        )
    try:
        sets = parse_frame_counts(content)
    except ForeignError as error:
        return ResampledScores(reason=f'{FRAME_COUNTS_FILE} cannot be read: {error}')
    reason = _problem(next(iter(sets.values()), None), miou)
    if reason:
        return ResampledScores(reason=f'{FRAME_COUNTS_FILE} {reason}')
    return ResampledScores({name: _sample(f) for name, f in sets.items() if len(f) >= MIN_FRAMES})


def _problem(first: FrameCounts | None, miou: float | None) -> str:
    if first is None or len(first) < MIN_FRAMES:
        return f'has fewer than {MIN_FRAMES} images'
    if miou is None or not abs(first.miou() - miou) <= TOLERANCE:
        return f'belongs to other figures: its mIoU is {first.miou():.4f}'
    return ''


def _sample(frames: FrameCounts) -> ResampledScore:
    return ResampledScore(frames.images, len(frames), resampled_miou(frames))
