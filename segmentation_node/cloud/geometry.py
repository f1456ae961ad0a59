# SPDX-License-Identifier: Apache-2.0
"""Coordinates of the points: from a depth image and a camera, or from an organized cloud."""

import math
import sys
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import BoolArray, Float32Array, UInt8Array
from segmentation_node.cloud.camera import Pinhole
from segmentation_node.errors import CloudError, quoted
from segmentation_node.images.files import MAX_PIXELS, check_size

#: FLOAT32 of sensor_msgs/PointField.
FLOAT32: Final = 7
_MAX_FIELDS: Final = 64


class PointSource(Protocol):
    """Source of the coordinates of an image's pixels."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def write(self, points: npt.NDArray[Any]) -> BoolArray:
        """Write x, y, z in meters to (H, W) points; return where they are valid, (H, W)."""
        ...


@dataclass(frozen=True)
class DepthGeometry:
    """Depth image, (H, W) uint16 in mm or float32 in m, as seen by a camera of the same view.

    The formula is that of image_geometry and depth_image_proc, x = (u - cx) * z / fx, rounded
    to float32 once. Depth 0 or below, NaN and infinity are invalid (REP 118).
    """

    depth: npt.NDArray[Any]
    camera: Pinhole

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.depth.shape[0], self.depth.shape[1]

    def write(self, points: npt.NDArray[Any]) -> BoolArray:
        """Write x, y, z in meters to (H, W) points; return where they are valid, (H, W)."""
        z = points['z'] = meters(self.depth)
        unit = 1 / units_per_meter(self.depth)
        rays = self.camera.scaled_to(self.size_hw).rays
        with np.errstate(invalid='ignore', over='ignore'):
            for axis, ray in zip(('x', 'y'), rays, strict=True):
                np.multiply(self.depth, ray * unit, out=points[axis], casting='same_kind')
        valid: BoolArray = (z > 0) & np.isfinite(z)
        for axis in ('x', 'y'):  # infinite only with an absurd calibration
            valid &= np.isfinite(points[axis])
        return valid


@dataclass(frozen=True)
class CloudGeometry:
    """Coordinates of an organized cloud in meters, each (H, W) float32."""

    x: Float32Array
    y: Float32Array
    z: Float32Array

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self.x.shape[0], self.x.shape[1]

    def write(self, points: npt.NDArray[Any]) -> BoolArray:
        """Write x, y, z in meters to (H, W) points; return where they are valid, (H, W)."""
        points['x'], points['y'], points['z'] = self.x, self.y, self.z
        valid: BoolArray = np.isfinite(self.x)
        return valid & np.isfinite(self.y) & np.isfinite(self.z)


def units_per_meter(depth: npt.NDArray[Any]) -> int:
    """Return 1000 for depth in uint16, which is in mm, and 1 for depth in m (REP 118)."""
    return 1000 if depth.dtype == np.uint16 else 1


def meters(depth: npt.NDArray[Any]) -> Float32Array:
    """Convert depth, uint16 in mm or float32 in m, to meters as float32."""
    unit = np.float32(units_per_meter(depth))
    return np.asarray(np.divide(depth, unit, dtype=np.float32))


def decode_cloud(message: Any, max_points: int = MAX_PIXELS) -> CloudGeometry:
    """Return views of the coordinates of an organized sensor_msgs/PointCloud2.

    Raises:
        ImageError: it has no points, or more than `max_points`.
        CloudError: the fields contradict each other, or x, y or z is missing or not FLOAT32.
    """
    width, height = int(message.width), int(message.height)
    check_size(width, height, max_points)
    point_step, row_step = int(message.point_step), int(message.row_step)
    data = np.frombuffer(message.data, np.uint8) if len(message.data) else np.empty(0, np.uint8)
    if height == 1 and width > 1:
        raise CloudError(
            f'a cloud of {width} points without rows; expected an organized cloud with the size '
            f'of the label mask: publish the cloud as the camera driver makes it'
        )
    if row_step < width * point_step or data.size < (height - 1) * row_step + width * point_step:
        raise CloudError(
            f'{width} x {height} points with point_step {point_step} and row_step {row_step} do '
            f'not fit into {data.size} bytes; the message was cut short or its steps are wrong'
        )
    offsets = _offsets(message.fields, point_step)
    order = '>' if message.is_bigendian else '<'
    dtype, strides = np.dtype(f'{order}f4'), (row_step, point_step)
    x, y, z = (_view(data, offset, (height, width), dtype, strides) for offset in offsets)
    return CloudGeometry(x, y, z)


def _view(
    data: UInt8Array,
    offset: int,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
    strides: tuple[int, int],
) -> Float32Array:
    view: Float32Array = np.ndarray(shape, dtype, data, offset, strides)
    native = (sys.byteorder == 'little') == (dtype.str[0] == '<')
    return view if native else view.astype(np.float32)


def _offsets(fields: Any, point_step: int) -> tuple[int, ...]:
    """Return the offsets of x, y and z in a point, in bytes."""
    found = {field.name: field for field in fields[:_MAX_FIELDS]}
    for name in ('x', 'y', 'z'):
        if name not in found or int(found[name].datatype) != FLOAT32:
            raise CloudError(
                f'the cloud has no field {name} of type FLOAT32, only {quoted(list(found))}; '
                f'expected x, y and z in meters'
            )
    offsets = tuple(int(found[name].offset) for name in ('x', 'y', 'z'))
    if max(offsets) + 4 > point_step:
        raise CloudError(
            f'x, y and z have the offsets {offsets}, but a point has {point_step} bytes; correct '
            f'the publisher of the cloud'
        )
    return offsets


def squared_range(points: npt.NDArray[Any]) -> Float32Array:
    """Return the squared distance of each point from the sensor in m², of the shape of points."""
    total: Float32Array = np.square(points['x'])
    total += np.square(points['y'])
    total += np.square(points['z'])
    return total


def square(limit_m: float) -> float:
    """Return the square of a limit; 0 means no limit."""
    return limit_m**2 if limit_m else math.inf
