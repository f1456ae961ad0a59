# SPDX-License-Identifier: Apache-2.0
"""Pinhole camera on the vehicle, in the coordinate frames of the Cityscapes camera files.

World and vehicle axes follow ISO 8855: x forward, y left, z up, meters and radians. Positive
pitch looks down, positive yaw looks left.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

# Rows are the optical axes (right, down, forward) in the coordinates of the mount.
_OPTICAL_FROM_MOUNT = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])

NEAR_M = 0.25


@dataclass(frozen=True)
class VehiclePose:
    """Pose of the vehicle's origin (rear axle, on the road): x, y in m, heading in rad."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class Extrinsic:
    """Camera pose in the vehicle's frame: m and rad, rotation Rz(yaw) Ry(pitch) Rx(roll)."""

    x: float
    y: float
    z: float
    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Intrinsic:
    """Focal lengths and principal point in pixels; pixel centers have integer coordinates."""

    fx: float
    fy: float
    u0: float
    v0: float


def rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    """Return the rotation matrix Rz(yaw) Ry(pitch) Rx(roll), (3, 3)."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    cr, sr = np.cos(roll), np.sin(roll)
    about_z = np.array([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    about_y = np.array([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    product: FloatArray = about_z @ about_y @ about_x
    return product


@dataclass(frozen=True)
class Camera:
    """Pinhole camera with a pose, without lens distortion."""

    width: int
    height: int
    intrinsic: Intrinsic
    extrinsic: Extrinsic
    vehicle: VehiclePose

    @cached_property
    def center(self) -> FloatArray:
        """Optical center in the world, (3,) m."""
        mount, car = self.extrinsic, self.vehicle
        offset = rotation(car.yaw, 0.0, 0.0) @ np.array([mount.x, mount.y, mount.z])
        center: FloatArray = np.array([car.x, car.y, 0.0]) + offset
        return center

    @cached_property
    def world_from_mount(self) -> FloatArray:
        """Rotation from the camera's x-forward axes to the world, (3, 3)."""
        mount = self.extrinsic
        turned: FloatArray = rotation(self.vehicle.yaw, 0.0, 0.0) @ rotation(
            mount.yaw, mount.pitch, mount.roll
        )
        return turned

    @cached_property
    def projection(self) -> FloatArray:
        """Matrix K R, (3, 3); its product with (point - center) is a homogeneous pixel."""
        k = self.intrinsic
        matrix = np.array([[k.fx, 0.0, k.u0], [0.0, k.fy, k.v0], [0.0, 0.0, 1.0]])
        projection: FloatArray = matrix @ _OPTICAL_FROM_MOUNT @ self.world_from_mount.T
        return projection

    def homogeneous(self, points: FloatArray) -> FloatArray:
        """Project world points (N, 3) m to homogeneous pixels (N, 3); the last column is depth."""
        out: FloatArray = (points - self.center) @ self.projection.T
        return out

    def ground_homography(self) -> FloatArray:
        """Return the homography, (3, 3), from pixels (x, y, 1) to the plane z = 0, (X, Y, 1)."""
        p = self.projection
        to_pixels = np.column_stack([p[:, 0], p[:, 1], -p @ self.center])
        inverse: FloatArray = np.linalg.inv(to_pixels).astype(np.float64)
        return inverse
