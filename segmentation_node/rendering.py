# SPDX-License-Identifier: Apache-2.0
"""Labels as pictures."""

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.labels import LabelScheme

LabelImage = npt.NDArray[np.uint8]
ImageRgb = npt.NDArray[np.uint8]


def colorize(labels: LabelImage, scheme: LabelScheme) -> ImageRgb:
    """Paint (H, W) uint8 label ids in their scheme's colours, (H, W, 3) uint8 RGB."""
    # A three-channel look-up is several times faster than palette[labels].
    return np.asarray(cv2.LUT(cv2.merge([labels] * 3), scheme.palette[None]), np.uint8)


def overlay(image_rgb: ImageRgb, color_rgb: ImageRgb, alpha: float) -> ImageRgb:
    """Blend a colour mask over its image, both (H, W, 3) uint8; `alpha` is the mask's share."""
    return np.asarray(cv2.addWeighted(color_rgb, alpha, image_rgb, 1 - alpha, 0), np.uint8)
