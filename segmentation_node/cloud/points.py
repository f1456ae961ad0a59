# SPDX-License-Identifier: Apache-2.0
"""Points of a cloud: their fields, and the arrays that they are built in."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import BoolArray, UInt8Array
from segmentation_node.cloud.camera import check_same_view
from segmentation_node.cloud.geometry import PointSource
from segmentation_node.cloud.selection import PointSelection, selected

#: Names and types of the values of a point; x, y, z are in meters. `rgb` is packed as PCL does,
#: blue in the lowest byte; `label` is uint32 as in PCL. `confidence` is from 0 to 1, NaN if
#: unknown; `instance` 0 is none.
FIELDS: Final = (
    ('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<u4'),
    ('label', '<u4'), ('confidence', '<f4'), ('instance', '<u4'),
)  # fmt: skip
POINT: Final = np.dtype(list(FIELDS))
_WORDS: Final = POINT.itemsize // 4

Points = npt.NDArray[Any]


@dataclass(frozen=True)
class Pixels:
    """Labels, (H, W) uint8, with the other images of the same view; None if not available.

    `confidence` is uint8, 255 is certain; `instances` uint16; `image_rgb` (H, W, 3) uint8. Each
    may have its own size. Colors are those of `image_rgb`, or else of `palette`, (256, 3) uint8.
    """

    labels: UInt8Array
    palette: UInt8Array | None = None
    confidence: UInt8Array | None = None
    instances: npt.NDArray[np.uint16] | None = None
    image_rgb: UInt8Array | None = None


class CloudBuilder:
    """Builds clouds in memory that is reused; for one thread."""

    def __init__(self) -> None:
        self._points: Points = np.empty((0, 0), POINT)

    def build(
        self,
        geometry: PointSource,
        pixels: Pixels,
        selection: PointSelection,
        ids: UInt8Array | None = None,
        *,
        organized: bool = False,
    ) -> Points:
        """Return the selected points of an image.

        Args:
            geometry: coordinates; the cloud has a point for each of its pixels.
            pixels: labels and colors; in another size, a point takes those of the pixel that
                contains its center.
            selection: points to keep.
            ids: table of `PointSelection.ids`; None keeps all classes.
            organized: keep the others, too, with NaN coordinates.

        Returns:
            POINT array: (N,), or (H, W) if organized, which is valid until the next call.

        Raises:
            CloudError: geometry and pixels have different aspect ratios.
        """
        if self._points.shape != geometry.size_hw:
            self._points = np.empty(geometry.size_hw, POINT)
        points = self._points
        labels = _at_size(pixels.labels, geometry.size_hw, 'label mask')
        keep = geometry.write(points)
        points['label'] = labels
        _write_colors(points, labels, pixels)
        confidence = _write_confidence(points, pixels)
        _write_instances(points, pixels)
        keep &= selection.within_range(points)
        if ids is not None:
            keep &= selected(labels, ids)
        if selection.least_confidence and confidence is not None:
            keep &= confidence >= selection.least_confidence
        return _blanked(points, keep) if organized else _compact(points, keep)


def _write_colors(points: Points, labels: UInt8Array, pixels: Pixels) -> None:
    if pixels.image_rgb is not None:
        points['rgb'] = packed_rgb(_at_size(pixels.image_rgb, points.shape, 'color image'))
    elif pixels.palette is not None:
        packed = packed_rgb(pixels.palette[None])[0]
        np.take(packed, labels, out=points['rgb'], mode='clip')
    else:
        points['rgb'] = 0


def _write_confidence(points: Points, pixels: Pixels) -> UInt8Array | None:
    if pixels.confidence is None:
        points['confidence'] = np.nan
        return None
    confidence = _at_size(pixels.confidence, points.shape, 'confidence')
    np.divide(confidence, np.float32(255), out=points['confidence'], dtype=np.float32)
    return confidence


def _write_instances(points: Points, pixels: Pixels) -> None:
    if pixels.instances is None:
        points['instance'] = 0
    else:
        points['instance'] = _at_size(pixels.instances, points.shape, 'instance mask')


def packed_rgb(image_rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    """Pack (H, W, 3) uint8 RGB into (H, W) uint32, red << 16 | green << 8 | blue."""
    bgra = np.asarray(cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGRA))
    words: npt.NDArray[np.uint32] = bgra.view('<u4')[..., 0] & np.uint32(0xFFFFFF)
    return words


def _at_size(pixels: npt.NDArray[Any], size_hw: Any, name: str) -> npt.NDArray[Any]:
    """Return the pixel that contains the center of each point, (H, W) or (H, W, C)."""
    height, width = size_hw
    if pixels.shape[:2] == (height, width):
        return pixels
    check_same_view((height, width), (pixels.shape[0], pixels.shape[1]), name)
    rows, columns = _centers(height, pixels.shape[0]), _centers(width, pixels.shape[1])
    return pixels[rows[:, None], columns]


@lru_cache(maxsize=16)
def _centers(count: int, pixels: int) -> npt.NDArray[np.intp]:
    """Return the index of the pixel under the center of each of `count` points in a line."""
    return (2 * np.arange(count) + 1) * pixels // (2 * count)


def _blanked(points: Points, keep: BoolArray) -> Points:
    for axis in ('x', 'y', 'z'):
        np.copyto(points[axis], np.nan, where=~keep)
    return points


def _compact(points: Points, keep: BoolArray) -> Points:
    # As rows of words: NumPy copies structures field by field.
    words = points.view('<u4').reshape(-1, _WORDS)
    kept = np.take(words, np.flatnonzero(keep), axis=0)
    return kept.view(POINT).reshape(-1)
