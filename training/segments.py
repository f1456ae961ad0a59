# SPDX-License-Identifier: Apache-2.0
"""Segments: class and instance of a pixel as one number.

A segment is an instance of a countable class, or all pixels of another class in an image. Pixels
of a countable class without an instance are a group: objects that were not told apart.
"""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segmentation_node.arrays import BoolArray, UInt16Array
from segmentation_node.labels import IGNORE, LabelClass, LabelScheme

#: Segment of each pixel, or of each of some segments: its class in the lower 8 bits, and the
#: number of its instance above them, 0 for none. Negative numbers are no segments.
Segments = npt.NDArray[np.int32]

CLASS_BITS: Final = 8
_CLASSES: Final = (1 << CLASS_BITS) - 1
#: Added to the instances of one image, none of them is an instance of another image.
_OF_ANOTHER_IMAGE: Final = 1 << CLASS_BITS + 16


def pack(classes: npt.NDArray[Any], instances: UInt16Array, countable: BoolArray) -> Segments:
    """Return the segments of pixels.

    Args:
        classes: (H, W) ids or channels of classes, 0 to 255.
        instances: (H, W) numbers of instances, 0 for none.
        countable: classes whose instances are segments of their own, (256,).

    Returns:
        (H, W), below 2^24.
    """
    counted = np.where(countable[classes], instances, 0)
    return counted.astype(np.int32) << CLASS_BITS | classes.astype(np.int32)


def ids_of(classes: Iterable[LabelClass]) -> BoolArray:
    """Return which ids those of the classes are, (256,)."""
    chosen = np.zeros(256, np.bool_)
    chosen[[c.id for c in classes]] = True
    return chosen


def countable_channels(scheme: LabelScheme) -> BoolArray:
    """Return which channels of a scheme are those of countable classes, (256,)."""
    countable = np.zeros(256, np.bool_)
    countable[: len(scheme.learned)] = scheme.countable_of(scheme.channel_ids)
    return countable


def classes_of(segments: Any) -> Any:
    """Return the classes of segments, an array or a tensor of integers; labels are unchanged."""
    return segments & _CLASSES


def instances_of(segments: Any) -> Any:
    """Return the numbers of the instances of segments, an array or a tensor of integers."""
    return segments >> CLASS_BITS


def of_another_image(segments: Tensor) -> Tensor:
    """Return int64 segments whose instances differ from those of every other image."""
    is_instance: Tensor = instances_of(segments) > 0
    return segments + _OF_ANOTHER_IMAGE * is_instance


def without_groups(segments: Tensor, countable: Tensor) -> Tensor:
    """Replace groups by IGNORE; `countable` are the channels of countable classes, (N,) int64."""
    is_group = torch.isin(segments, countable)  # without an instance, a segment is its channel
    return segments.masked_fill(is_group, IGNORE)


class Overlaps(NamedTuple):
    """Pixels that T segments of one image share with P segments of another, (T, P) int64."""

    true: Segments  # (T,)
    predicted: Segments  # (P,)
    pixels: npt.NDArray[np.int64]  # (T, P)


def overlaps(true: Segments, predicted: Segments) -> Overlaps:
    """Count the pixels that the segments of two (H, W) images share."""
    both = true.astype(np.int64) << 32 | predicted.astype(np.uint32)
    pairs, counts = np.unique(both, return_counts=True)
    rows, row = np.unique((pairs >> 32).astype(np.int32), return_inverse=True)
    columns, column = np.unique(pairs.astype(np.uint32).view(np.int32), return_inverse=True)
    pixels = np.zeros((len(rows), len(columns)), np.int64)
    pixels[row, column] = counts
    return Overlaps(rows, columns, pixels)
