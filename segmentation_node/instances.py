# SPDX-License-Identifier: Apache-2.0
"""Instances of an image: the objects of countable classes that a model tells apart."""

from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import cv2
import numpy as np

from segmentation_node.arrays import BoolArray, Float32Array, UInt8Array, UInt16Array
from segmentation_node.errors import SettingError

#: Kinds of segmentation that a checkpoint is trained for. A panoptic model labels every pixel and
#: tells objects apart, a model of instances labels objects only.
SEMANTIC: Final = 'semantic'
PANOPTIC: Final = 'panoptic'
INSTANCE: Final = 'instance'
TASKS: Final = (SEMANTIC, PANOPTIC, INSTANCE)

DEFAULT_MIN_INSTANCE_SCORE: Final = 0.5
DEFAULT_MIN_INSTANCE_OVERLAP: Final = 0.8


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for the segments of a panoptic model or a model of instances, each in [0, 1].

    A segment with a score below `score` is dropped. So is one of a panoptic model if better ones
    leave it no more than the share `overlap` of its mask.
    """

    score: float = DEFAULT_MIN_INSTANCE_SCORE
    overlap: float = DEFAULT_MIN_INSTANCE_OVERLAP

    def __post_init__(self) -> None:
        for name in ('score', 'overlap'):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(
                    f'the minimum {name} of instances is {getattr(self, name)}; expected a number '
                    f'from 0 to 1'
                )


DEFAULT_THRESHOLDS: Final = Thresholds()


class Box(NamedTuple):
    """Smallest rectangle around the visible pixels of an instance, in pixels."""

    x: int
    y: int
    width: int
    height: int


class Segment(NamedTuple):
    """One instance: its value in the mask, published class id, score in [0, 1], and box."""

    id: int
    class_id: int
    score: float
    box: Box


def outlines_of(ids: UInt16Array) -> BoolArray:
    """Return the pixels of instances beside a pixel of another one or of none, (H, W).

    `ids` is the number of the instance of each pixel, 0 where there is none, (H, W) uint16.
    """
    edges = np.zeros(ids.shape, np.bool_)
    for axis in (0, 1):
        rest, ahead = np.moveaxis(ids, axis, 0), np.moveaxis(edges, axis, 0)
        differs = rest[1:] != rest[:-1]
        ahead[:-1] |= differs
        ahead[1:] |= differs
    edges &= ids > 0
    return edges


@dataclass(frozen=True)
class Instances:
    """Instances of one image.

    `ids` is the number of the instance of each pixel from 1, and 0 where there is none, (H, W)
    uint16. Instance n has the class `class_ids[n - 1]`, (N,) uint8, and the score `scores[n - 1]`,
    (N,) float32. An instance need not have pixels.
    """

    ids: UInt16Array
    class_ids: UInt8Array
    scores: Float32Array

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Instances that have pixels, by descending score."""
        found = []
        for index in np.flatnonzero(np.bincount(self.ids.ravel())[1:]).tolist():
            box = Box(*cv2.boundingRect((self.ids == index + 1).view(np.uint8)))
            class_id, score = int(self.class_ids[index]), float(self.scores[index])
            found.append(Segment(index + 1, class_id, score, box))
        return tuple(sorted(found, key=lambda segment: -segment.score))

    @cached_property
    def outlines(self) -> BoolArray:
        """Outlines of the instances, as `outlines_of`."""
        return outlines_of(self.ids)

    def published(self, lut: UInt8Array | None, hidden: BoolArray | None) -> 'Instances':
        """Return the instances with the class ids of another scheme, and without some pixels.

        Args:
            lut: published id of each class id, (256,) uint8; None leaves them unchanged.
            hidden: pixels that belong to no instance, (H, W); None hides none.
        """
        if lut is None and hidden is None:
            return self
        ids = self.ids if hidden is None else np.where(hidden, np.uint16(0), self.ids)
        return Instances(ids, self.class_ids if lut is None else lut[self.class_ids], self.scores)
