# SPDX-License-Identifier: Apache-2.0
"""Runs with augmentation against runs without it, in pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from training.config import OUTER
from training.report.comparability import Topic, group
from training.report.records import Record

#: Fields that may differ within a pair without changing what the run does.
HARMLESS: Final = frozenset({*OUTER, 'augment', 'study'})
METRICS: Final = (('mIoU', 'mIoU'), ('Dice', 'Dice'), ('pixel_acc', 'Pixel accuracy'))


@dataclass(frozen=True)
class Change:
    """One figure without and with augmentation."""

    title: str
    off: float | None
    on: float | None

    @property
    def gain(self) -> float | None:
        """What augmentation adds."""
        return None if self.off is None or self.on is None else self.on - self.off


@dataclass(frozen=True)
class Pair:
    """Two runs of one family; `differing` are the other fields that they differ in."""

    family: str
    off: Record
    on: Record
    differing: tuple[str, ...]

    @property
    def changes(self) -> list[Change]:
        """The scores at each run's best epoch."""
        return [
            Change(title, self.off.at_best(name), self.on.at_best(name)) for name, title in METRICS
        ]


def pairs(records: Sequence[Record]) -> list[Pair]:
    """Each run without augmentation beside the most similar one with it, by family.

    Only runs whose scores may be compared make a pair.
    """
    found = []
    for off in records:
        if not _is(off, 'false'):
            continue
        partners = [on for on in records if _is(on, 'true') and _match(off, on)]
        if partners:
            on = min(partners, key=lambda partner: len(_differing(off, partner)))
            found.append(Pair(off.param('family'), off, on, tuple(_differing(off, on))))
    return found


def _is(record: Record, augment: str) -> bool:
    return record.param('augment').lower() == augment


def _match(off: Record, on: Record) -> bool:
    same_family = off.param('family') == on.param('family') != ''
    return same_family and group(off, Topic.QUALITY) == group(on, Topic.QUALITY)


def _differing(a: Record, b: Record) -> list[str]:
    keys = sorted({*a.params, *b.params} - HARMLESS)
    # A field that came later is not there in older runs, and None in those that do without it.
    return [key for key in keys if a.param(key, 'None') != b.param(key, 'None')]
