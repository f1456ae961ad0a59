# SPDX-License-Identifier: Apache-2.0
"""Camera images for tests that need something to see: frames of the bundled street."""

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.export.calibration_images import images_of_bag
from segmentation_node.paths import demo_bag


def street_images(count: int, size_wh: tuple[int, int]) -> list[UInt8Array]:
    """Frames, spread over the street and scaled, (H, W, 3) uint8 RGB each."""
    return [
        np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        for image in images_of_bag(demo_bag(), None, count)
    ]
