# SPDX-License-Identifier: Apache-2.0
"""Labels as pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme

LabelImage: TypeAlias = npt.NDArray[np.uint8]


def colorize(labels: LabelImage, scheme: LabelScheme) -> ImageRgb:
    """Paint (H, W) uint8 label ids in their scheme's colours, (H, W, 3) uint8 RGB."""
    # A three-channel look-up is several times faster than palette[labels].
    return np.asarray(cv2.LUT(cv2.merge([labels] * 3), scheme.palette[None]), np.uint8)


def overlay(image_rgb: ImageRgb, color_rgb: ImageRgb, alpha: float) -> ImageRgb:
    """Blend a colour mask over its image, both (H, W, 3) uint8; `alpha` is the mask's share."""
    return np.asarray(cv2.addWeighted(color_rgb, alpha, image_rgb, 1 - alpha, 0), np.uint8)


@dataclass
class Rendered:
    """One segmented image and its pictures, each painted once and only when asked for.

    `image_rgb` is (H, W, 3), `label_mask` and what `measure` gives are (H, W), all uint8.
    """

    image_rgb: ImageRgb
    label_mask: LabelImage
    measure: Callable[[], LabelImage]
    scheme: LabelScheme
    overlay_alpha: float

    @cached_property
    def confidence(self) -> LabelImage:
        """How sure the network is, (H, W) uint8, 255 is certain."""
        return self.measure()

    @cached_property
    def color_mask(self) -> ImageRgb:
        """Labels in their colours, (H, W, 3) uint8 RGB."""
        return colorize(self.label_mask, self.scheme)

    @cached_property
    def overlay(self) -> ImageRgb:
        """Colour mask over the image, (H, W, 3) uint8 RGB."""
        return overlay(self.image_rgb, self.color_mask, self.overlay_alpha)
