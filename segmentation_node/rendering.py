# SPDX-License-Identifier: Apache-2.0
"""Labels as pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node import topics
from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme

LabelImage: TypeAlias = npt.NDArray[np.uint8]
#: Gives the memory, (H, W, 3) uint8, in which the picture of a topic and of a size (height, width)
#: is painted.
Canvas: TypeAlias = Callable[[str, tuple[int, int]], ImageRgb]


def new_canvas(_topic: str, size_hw: tuple[int, int]) -> ImageRgb:
    """Memory of the picture's own."""
    return np.empty((*size_hw, 3), np.uint8)


def colorize(labels: LabelImage, scheme: LabelScheme, out: ImageRgb | None = None) -> ImageRgb:
    """Paint (H, W) uint8 label ids in their scheme's colours, (H, W, 3) uint8 RGB.

    `out` is C-contiguous memory to paint in.
    """
    # For OpenCV the scheme is a colour map: one pass, a quarter of the time that repeating the
    # labels three times and cv2.LUT take, and far less than palette[labels].
    return np.asarray(cv2.applyColorMap(labels, scheme.palette[:, None], out), np.uint8)


def overlay(
    image_rgb: ImageRgb, color_rgb: ImageRgb, alpha: float, out: ImageRgb | None = None
) -> ImageRgb:
    """Blend a colour mask over its image, both (H, W, 3) uint8; `alpha` is the mask's share.

    `out` is C-contiguous memory to paint in.
    """
    return np.asarray(cv2.addWeighted(color_rgb, alpha, image_rgb, 1 - alpha, 0, out), np.uint8)


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
    canvas: Canvas = new_canvas

    @cached_property
    def confidence(self) -> LabelImage:
        """How sure the network is, (H, W) uint8, 255 is certain."""
        return self.measure()

    @cached_property
    def color_mask(self) -> ImageRgb:
        """Labels in their colours, (H, W, 3) uint8 RGB."""
        return colorize(self.label_mask, self.scheme, self._canvas(topics.COLOR_MASK))

    @cached_property
    def overlay(self) -> ImageRgb:
        """Colour mask over the image, (H, W, 3) uint8 RGB."""
        return overlay(
            self.image_rgb, self.color_mask, self.overlay_alpha, self._canvas(topics.OVERLAY)
        )

    def _canvas(self, topic: str) -> ImageRgb:
        height, width = self.label_mask.shape
        return self.canvas(topic, (height, width))
