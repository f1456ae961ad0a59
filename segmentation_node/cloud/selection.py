# SPDX-License-Identifier: Apache-2.0
"""Selection of points by class, range and confidence."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import BoolArray, UInt8Array
from segmentation_node.cloud.geometry import square, squared_range
from segmentation_node.errors import SchemeError, SettingError, quoted
from segmentation_node.labels import MAX_CLASSES, LabelScheme


@dataclass(frozen=True)
class PointSelection:
    """Points that a cloud contains.

    Classes are names or ids in text. No class in `keep_classes` means all; `drop_classes` are
    removed from them. Ranges are distances from the sensor in meters; a `max_range` of 0 means no
    limit. Confidence is from 0 to 1.
    """

    keep_classes: Sequence[str] = ()
    drop_classes: Sequence[str] = ()
    drop_void: bool = False
    min_range: float = 0.0
    max_range: float = 0.0
    min_confidence: float = 0.0

    def __post_init__(self) -> None:
        if self.max_range and self.min_range > self.max_range:
            raise SettingError(
                f'min_range is {self.min_range:g} and max_range is {self.max_range:g}; increase '
                f'max_range, or set it to 0 for no limit'
            )

    @property
    def needs_scheme(self) -> bool:
        """True if classes are selected, whose ids are those of the label scheme."""
        return bool(self.drop_void or any(self.keep_classes) or any(self.drop_classes))

    def ids(self, scheme: LabelScheme) -> UInt8Array:
        """Return 1 for each id that is kept and 0 for the others, (256,) uint8.

        Raises:
            SettingError: the scheme lacks a class.
        """
        keep = [_id_of(name, scheme) for name in self.keep_classes if name]
        drop = [_id_of(name, scheme) for name in self.drop_classes if name]
        table = np.full(MAX_CLASSES, not keep, np.uint8)
        table[keep] = 1
        table[drop] = 0
        if self.drop_void:
            table[scheme.void_id] = 0
        return table

    @cached_property
    def least_confidence(self) -> int:
        """Lowest byte of confidence that is kept."""
        return int(np.ceil(self.min_confidence * 255 - 1e-9))

    def within_range(self, points: npt.NDArray[Any]) -> BoolArray | bool:
        """Return which points are in range, of their shape; True if there is no limit."""
        if not self.min_range and not self.max_range:
            return True
        with np.errstate(over='ignore', invalid='ignore'):
            squared = squared_range(points)
            inside: BoolArray = squared >= self.min_range**2
            return inside & (squared <= square(self.max_range))


def selected(labels: UInt8Array, ids: UInt8Array) -> BoolArray:
    """Return which labels, (H, W), are kept according to a table of ids, (256,)."""
    return np.asarray(cv2.LUT(labels, ids)).view(np.bool_)


def _id_of(name: str, scheme: LabelScheme) -> int:
    try:
        return scheme.id_of(name)
    except SchemeError as error:
        ids = {str(c.id): c.id for c in scheme.classes}
        if name in ids:
            return ids[name]
        raise SettingError(
            f'class {quoted(name)} is unknown: {error}; their ids are {", ".join(ids)}'
        ) from None
