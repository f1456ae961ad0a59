# SPDX-License-Identifier: Apache-2.0
"""Tests of the pinhole camera, its calibration, and the arithmetic of the points."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.cloud.camera import Pinhole
from segmentation_node.cloud.geometry import DepthGeometry
from segmentation_node.cloud.points import POINT
from segmentation_node.errors import CalibrationError, CloudError

ROI = {'x_offset': 0, 'y_offset': 0, 'width': 0, 'height': 0}


def camera_info(
    fx: float = 500.0,
    fy: float = 510.0,
    cx: float = 319.5,
    cy: float = 239.5,
    size_hw: tuple[int, int] = (480, 640),
    **more: Any,
) -> Any:
    """Return a CameraInfo whose P has the given values, and whose K has others."""
    p = [fx, 0.0, cx, 7.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    k = [2 * fx, 0.0, cx + 1, 0.0, 2 * fy, cy + 1, 0.0, 0.0, 1.0]
    values = {
        'height': size_hw[0], 'width': size_hw[1], 'd': [], 'k': k, 'p': p, 'binning_x': 0,
        'binning_y': 0, 'roi': SimpleNamespace(**ROI), **more,
    }  # fmt: skip
    return SimpleNamespace(**values)


class ReferenceModel:
    """Documented equations of image_geometry's PinholeCameraModel, whose package is not on PyPI.

    Binning and region of interest change K and P; cx() and the others are those of P. A pixel's
    ray at depth 1 is ((u - cx) / fx, (v - cy) / fy), and getDeltaX is Z * deltaU / fx.
    """

    def __init__(self, info: Any) -> None:
        roi, bx, by = info.roi, max(1, info.binning_x), max(1, info.binning_y)
        self.fx, self.fy = info.p[0] / bx, info.p[5] / by
        self.cx, self.cy = (info.p[2] - roi.x_offset) / bx, (info.p[6] - roi.y_offset) / by

    def point(self, u: int, v: int, z: float) -> tuple[float, float, float]:
        """Return the point of a pixel at a depth."""
        return z * (u - self.cx) / self.fx, z * (v - self.cy) / self.fy, z


def points_of(depth: Any, camera: Pinhole) -> tuple[Any, Any]:
    """Return points and their validity."""
    points = np.zeros(depth.shape, POINT)
    return points, DepthGeometry(depth, camera).write(points)


def test_four_pixels_are_the_points_of_the_formula() -> None:
    camera = Pinhole(fx=2.0, fy=4.0, cx=0.5, cy=1.0, size_hw=(2, 2))
    depth = np.array([[1000, 2000], [0, 500]], np.uint16)
    points, valid = points_of(depth, camera)
    assert valid.tolist() == [[True, True], [False, True]]
    assert points['x'][valid].tolist() == [-0.25, 0.5, 0.125]
    assert points['y'][valid].tolist() == [-0.25, -0.5, 0.0]
    assert points['z'][valid].tolist() == [1.0, 2.0, 0.5]


def test_depth_that_is_no_depth_is_invalid() -> None:
    camera = Pinhole(2.0, 2.0, 1.0, 0.0, (1, 7))
    depth = np.array([[0.0, -1.0, math.nan, math.inf, -math.inf, 3.0, 1e-6]], np.float32)
    _, valid = points_of(depth, camera)
    assert valid.tolist() == [[False, False, False, False, False, True, True]]


def test_millimeters_are_meters_to_the_last_bit() -> None:
    depth = np.arange(1, 65536, dtype=np.uint16).reshape(1, -1)
    points, _ = points_of(depth, Pinhole(1.0, 1.0, 0.0, 0.0, depth.shape))
    assert np.array_equal(points['z'], np.float32(depth.astype(np.float64) / 1000))


numbers = st.floats(-1e4, 1e4)
focal = st.floats(1e-2, 1e5)


@given(
    fx=focal, fy=focal, cx=numbers, cy=numbers, binning=st.integers(0, 3),
    offset=st.integers(0, 9), depth=st.lists(st.floats(0, 1e4, width=32), min_size=6, max_size=6),
)  # fmt: skip
def test_points_are_those_of_image_geometry(
    fx: float, fy: float, cx: float, cy: float, binning: int, offset: int, depth: list[float]
) -> None:
    roi = SimpleNamespace(**{**ROI, 'x_offset': offset, 'width': 9, 'height': 6})
    info = camera_info(fx, fy, cx, cy, (40, 50), binning_x=binning, binning_y=binning, roi=roi)
    camera, reference = Pinhole.from_info(info), ReferenceModel(info)
    step = max(1, binning)
    assert camera.size_hw == (6 // step, 9 // step)
    image = np.array(depth, np.float32).reshape(2, 3)
    points = np.zeros((2, 3), POINT)
    DepthGeometry(image, Pinhole(camera.fx, camera.fy, camera.cx, camera.cy, (2, 3))).write(points)
    for (v, u), z in np.ndenumerate(image):
        expected = np.array(reference.point(u, v, float(z)), np.float32)
        found = np.array([points[v, u][axis] for axis in 'xyz'], np.float32)
        # Equal up to the order of the operations in float64.
        assert np.all(np.abs(found - expected) <= np.spacing(np.abs(expected)))


def test_the_matrix_of_rectified_images_is_the_default() -> None:
    assert Pinhole.from_info(camera_info()).fx == 500
    other = Pinhole.from_info(camera_info(), 'K')
    assert (other.fx, other.fy, other.cx, other.cy) == (1000, 1020, 320.5, 240.5)


@pytest.mark.parametrize(
    ('info', 'intrinsics', 'message'),
    [
        (camera_info(fx=math.nan), 'P', 'fx, fy, cx, cy = .nan, 510.0'),
        (camera_info(fy=0.0), 'P', 'focal lengths above 0'),
        (camera_info(fx=-5.0), 'P', 'focal lengths above 0'),
        (camera_info(cx=math.inf), 'P', 'expected finite values'),
        (camera_info(p=[0.0] * 12), 'P', 'calibrate the camera, or select the other matrix'),
        (camera_info(p=[1.0] * 11), 'P', 'P has 11 values; expected 12'),
        (camera_info(size_hw=(0, 640)), 'P', 'an image of 640 x 0 pixels'),
        (camera_info(binning_x=1000), 'P', 'an image of 0 x 480 pixels'),
        (camera_info(d=[0.0, 0.1]), 'K', r'the image is distorted, D is \[0.0, 0.1\]: rectify'),
    ],
)
def test_calibration_that_is_none_is_refused(info: Any, intrinsics: str, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        Pinhole.from_info(info, intrinsics)


def test_half_the_size_sees_the_same() -> None:
    camera = Pinhole.from_info(camera_info()).scaled_to((240, 320))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (250, 255, 159.5, 119.5)
    assert camera.scaled_to((240, 320)) is camera


@given(height=st.integers(1, 400), factor=st.integers(1, 9))
def test_borders_stay_where_they_are_in_any_size(height: int, factor: int) -> None:
    camera = Pinhole(500.0, 500.0, 31.5, 17.0, (9 * factor, 16 * factor))
    scaled = camera.scaled_to((9 * height, 16 * height))
    for pixel, size in ((camera, 16 * factor), (scaled, 16 * height)):
        left, right = (-0.5 - pixel.cx) / pixel.fx, (size - 0.5 - pixel.cx) / pixel.fx
        assert left == pytest.approx(-32 / 500)
        assert right == pytest.approx((16 * factor - 32) / 500)


def test_another_aspect_ratio_is_another_view() -> None:
    camera = Pinhole.from_info(camera_info())
    assert camera.scaled_to((361, 481)).size_hw == (361, 481)  # a pixel of rounding
    with pytest.raises(CloudError, match='depth is 640 x 360, but its calibration is 640 x 480'):
        camera.scaled_to((360, 640))
