# SPDX-License-Identifier: Apache-2.0
"""Comparison of runs with and without augmentation, in pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.bootstrap import Interval
from training.config import OUTER
from training.report.comparability import Aspect, group
from training.report.confidence import difference_interval
from training.report.records import Record

#: Fields that may differ within a pair, because they do not affect the result.
HARMLESS: Final = frozenset({*OUTER, 'augment', 'study'})
METRICS: Final = (('mIoU', 'mIoU'), ('Dice', 'Dice'), ('pixel_acc', 'Pixel accuracy'))


@dataclass(frozen=True)
class Change:
    """One figure without and with augmentation; `interval` is that of the gain, if known."""

    title: str
    off: float | None
    on: float | None
    interval: Interval | None = None

    @property
    def gain(self) -> float | None:
        """Difference that augmentation makes; None if a figure is missing."""
        return None if self.off is None or self.on is None else self.on - self.off


@dataclass(frozen=True)
class AugmentationPair:
    """Two runs of one family; `differing` are the other fields in which they differ."""

    family: str
    off: Record
    on: Record
    differing: tuple[str, ...]

    @property
    def changes(self) -> list[Change]:
        """Scores at each run's best epoch."""
        interval = difference_interval([self.on], [self.off])
        return [
            Change(
                title, self.off.at_best(name), self.on.at_best(name),
                interval if name == 'mIoU' else None,
            )
            for name, title in METRICS
        ]  # fmt: skip


def pairs(records: Sequence[Record]) -> list[AugmentationPair]:
    """Pair each run without augmentation with the most similar run of its family with it.

    Only runs with comparable scores form a pair.
    """
    matched = []
    for off in records:
        if not _has_augment(off, 'false'):
            continue
        partners = [on for on in records if _has_augment(on, 'true') and _comparable(off, on)]
        if partners:
            on = min(partners, key=lambda partner: len(_differing(off, partner)))
            matched.append(
                AugmentationPair(off.param('family'), off, on, tuple(_differing(off, on)))
            )
    return matched


def _has_augment(record: Record, augment: str) -> bool:
    return record.param('augment').lower() == augment


def _comparable(off: Record, on: Record) -> bool:
    same_family = off.param('family') == on.param('family') != ''
    return same_family and group(off, Aspect.QUALITY) == group(on, Aspect.QUALITY)


def _differing(a: Record, b: Record) -> list[str]:
    keys = sorted({*a.params, *b.params} - HARMLESS)
    # A field added later is missing in older runs, and None in newer runs that do not set it.
    return [key for key in keys if a.param(key, 'None') != b.param(key, 'None')]
