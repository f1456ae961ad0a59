# SPDX-License-Identifier: Apache-2.0
"""Random views of an image as by another camera: tilted, stretched, in another perspective."""

import math
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segmentation_node.labels import IGNORE
from training.draws import log_uniform, uniform

#: Corners of a view in the image, (4, 2) float32 of x and y, clockwise from the upper left.
Corners: TypeAlias = npt.NDArray[np.float32]

#: Largest rotation in radians, and shift of each corner as a share of the sides.
MAX_TILT: Final = math.radians(6)
MAX_SHIFT: Final = 0.08
#: Range of the aspect ratio, relative to that of the image.
ASPECTS: Final = (0.7, 1.4)


def draw_corners(image_hw: tuple[int, int], crop_hw: tuple[int, int], scale: float) -> Corners:
    """Draw a view that becomes the crop at `scale`; it may reach beyond a small image."""
    stretch, tilt = math.sqrt(log_uniform(*ASPECTS)), uniform(-MAX_TILT, MAX_TILT)
    crop, image = np.array(crop_hw[::-1]), np.array(image_hw[::-1])
    size = crop / scale * (stretch, 1 / stretch)
    free = np.maximum(0, image - size) / 2
    middle = image / 2 + free * [uniform(-1, 1), uniform(-1, 1)]
    turn = np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]])
    square = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    shift = MAX_SHIFT * (2 * torch.rand(4, 2).numpy() - 1)
    return np.asarray(((square + shift) * size) @ turn + middle, np.float32)


def warp_labels(labels: Tensor, corners: Corners, crop_hw: tuple[int, int]) -> Tensor:
    """Cut a view out of (H, W) labels, uint8 or int32; pixels beyond their border are IGNORE."""
    return torch.from_numpy(
        _warped(
            labels.numpy(), corners, crop_hw, flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE,
        )
    )  # fmt: skip


def warp_image(
    image: Tensor, corners: Corners, crop_hw: tuple[int, int], samples: int = 1
) -> Tensor:
    """Cut a view out of (3, H, W) uint8 RGB, with `samples` x `samples` samples per pixel."""
    image_rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    large = (crop_hw[0] * samples, crop_hw[1] * samples)
    warped = _warped(
        image_rgb, corners, large, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if samples > 1:
        warped = cv2.resize(warped, crop_hw[::-1], interpolation=cv2.INTER_AREA)
    return torch.from_numpy(warped).permute(2, 0, 1).contiguous()


def _warped(array: Any, corners: Corners, crop_hw: tuple[int, int], **options: Any) -> Any:
    h, w = crop_hw
    outline = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    half = np.float32(0.5)  # OpenCV counts from the centers of pixels
    return cv2.warpPerspective(
        array, cv2.getPerspectiveTransform(corners - half, outline - half), (w, h), **options
    )
