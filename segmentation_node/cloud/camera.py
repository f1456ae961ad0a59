# SPDX-License-Identifier: Apache-2.0
"""Pinhole camera of a rectified image, in the arithmetic of image_geometry."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np

from segmentation_node.arrays import Float64Array
from segmentation_node.errors import CalibrationError, CloudError, quoted

#: Matrix of the intrinsics: P of rectified images, or K of images that need no rectification.
INTRINSICS: Final = ('P', 'K')


class CameraInfoMessage(Protocol):
    """Fields of sensor_msgs/CameraInfo that describe its geometry."""

    height: int
    width: int
    d: Any
    k: Any
    p: Any
    binning_x: int
    binning_y: int
    roi: Any


@dataclass(frozen=True)
class Pinhole:
    """Camera without distortion: focal lengths and principal point in pixels.

    The center of the first pixel is at (0, 0), as in image_geometry.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size_hw: tuple[int, int]

    @classmethod
    def from_info(cls, info: CameraInfoMessage, intrinsics: str = 'P') -> 'Pinhole':
        """Return the camera that a CameraInfo describes, with its binning and region of interest.

        Args:
            info: object with the fields of sensor_msgs/CameraInfo.
            intrinsics: one of INTRINSICS.

        Raises:
            CalibrationError: the camera is not calibrated, a value is not finite, or K is chosen
                for a distorted image.
        """
        fx, fy, cx, cy = _numbers(info, intrinsics)
        binning_x, binning_y = max(1, int(info.binning_x)), max(1, int(info.binning_y))
        left, top, width, height = _region(info)
        size_hw = (height // binning_y, width // binning_x)
        if min(size_hw) < 1:
            raise CalibrationError(
                f'the calibration describes an image of {size_hw[1]} x {size_hw[0]} pixels; the '
                f'driver must set width, height and roi of its camera_info'
            )
        return cls(
            fx / binning_x,
            fy / binning_y,
            (cx - left) / binning_x,
            (cy - top) / binning_y,
            size_hw,
        )

    def scaled_to(self, size_hw: tuple[int, int]) -> 'Pinhole':
        """Return the camera for an image of the same view in another size.

        The borders of both images are the same rays; so a center c becomes s * (c + 0.5) - 0.5.

        Raises:
            CloudError: the size has another aspect ratio.
        """
        if size_hw == self.size_hw:
            return self
        check_same_view(size_hw, self.size_hw, 'calibration')
        sy, sx = (new / old for new, old in zip(size_hw, self.size_hw, strict=True))
        return Pinhole(
            self.fx * sx, self.fy * sy, sx * (self.cx + 0.5) - 0.5, sy * (self.cy + 0.5) - 0.5,
            size_hw,
        )  # fmt: skip

    @cached_property
    def rays(self) -> tuple[Float64Array, Float64Array]:
        """Table of rays at depth 1: x of each column, (W,), and y of each row, (H, 1)."""
        height, width = self.size_hw
        columns, rows = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
        return (columns - self.cx) / self.fx, ((rows - self.cy) / self.fy)[:, None]


def check_same_view(size_hw: tuple[int, int], other_hw: tuple[int, int], other: str) -> None:
    """Raise CloudError unless two sizes have the same aspect ratio, up to a pixel of rounding.

    Args:
        size_hw: height and width of the depth image or cloud.
        other_hw: height and width of the other image.
        other: name of the other image in the message.
    """
    (height, width), (other_height, other_width) = size_hw, other_hw
    if abs(width * other_height - height * other_width) >= max(width, other_width):
        raise CloudError(
            f'depth is {width} x {height}, but its {other} is {other_width} x {other_height}; '
            f'both must show the same view: use depth that is registered to the camera image'
        )


def _numbers(info: CameraInfoMessage, intrinsics: str) -> tuple[float, float, float, float]:
    """Return fx, fy, cx and cy of the full image."""
    matrix = [float(value) for value in (info.p if intrinsics == 'P' else info.k)]
    row = 4 if intrinsics == 'P' else 3
    if len(matrix) != 3 * row:
        raise CalibrationError(f'{intrinsics} has {len(matrix)} values; expected {3 * row}')
    numbers = (matrix[0], matrix[row + 1], matrix[2], matrix[row + 2])
    if not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0:
        raise CalibrationError(
            f'{intrinsics} of the calibration has fx, fy, cx, cy = {quoted(numbers)}; expected '
            f'finite values and focal lengths above 0: calibrate the camera, or select the other '
            f'matrix with the parameter intrinsics'
        )
    if intrinsics == 'K' and any(value != 0 for value in info.d):
        raise CalibrationError(
            f'the image is distorted, D is {quoted(list(map(float, info.d)))}: rectify image and '
            f'depth (image_proc), and use intrinsics P'
        )
    return numbers


def _region(info: CameraInfoMessage) -> tuple[int, int, int, int]:
    """Return left, top, width and height of the region of interest; all 0 means the full image."""
    roi = info.roi
    region = (int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height))
    return region if any(region) else (0, 0, int(info.width), int(info.height))
