# SPDX-License-Identifier: Apache-2.0
"""Pictures of labels: color masks and overlays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.instances import Instances, Segment
from segmentation_node.labels import LabelScheme

#: Color of the outlines of instances.
OUTLINE_RGB: Final = (255, 255, 255)
#: Returns the memory, (H, W, 3) uint8, for the picture of a topic with a size (height, width).
NewCanvas: TypeAlias = Callable[[str, tuple[int, int]], UInt8Array]


def mean_confidence(confidence: UInt8Array) -> float:
    """Return the mean of (H, W) confidence, 0 to 1."""
    return cv2.mean(confidence)[0] / 255


def new_canvas(_topic: str, size_hw: tuple[int, int]) -> UInt8Array:
    """Allocate memory for a picture."""
    return np.empty((*size_hw, 3), np.uint8)


def colorize(labels: UInt8Array, scheme: LabelScheme, out: UInt8Array | None = None) -> UInt8Array:
    """Paint (H, W) uint8 label ids in their scheme's colors, (H, W, 3) uint8 RGB.

    `out` is C-contiguous memory for the result.
    """
    # applyColorMap takes a single pass: a quarter of the time of repeating the labels three times
    # for cv2.LUT, and far less than palette[labels].
    return np.asarray(cv2.applyColorMap(labels, scheme.palette[:, None], out), np.uint8)


def overlay(
    image_rgb: UInt8Array, color_rgb: UInt8Array, alpha: float, out: UInt8Array | None = None
) -> UInt8Array:
    """Blend a color mask over its image, both (H, W, 3) uint8; `alpha` is the mask's weight.

    `out` is C-contiguous memory for the result.
    """
    return np.asarray(cv2.addWeighted(color_rgb, alpha, image_rgb, 1 - alpha, 0, out), np.uint8)


class Detection(NamedTuple):
    """Instance with the name of its class."""

    segment: Segment
    class_name: str


def no_instances() -> Instances | None:
    """Return the instances of a model that has none."""
    return None


@dataclass
class Rendered:
    """Segmented image and its pictures, each painted once, on first access.

    `image_rgb` is (H, W, 3); `label_mask` and the result of `measure` are (H, W); all are uint8.
    `find_instances` returns None if the model has no instances. With `outlines`, the overlay has
    those of the instances.
    """

    image_rgb: UInt8Array
    label_mask: UInt8Array
    measure: Callable[[], UInt8Array]
    scheme: LabelScheme
    overlay_alpha: float
    canvas: NewCanvas = new_canvas
    #: True if the image is unlike those that the model knows; None if unknown.
    out_of_domain: bool | None = None
    #: Distance from the images that the model knows; None if unknown.
    distance: float | None = None
    find_instances: Callable[[], Instances | None] = no_instances
    outlines: bool = False

    @cached_property
    def confidence(self) -> UInt8Array:
        """Confidence of the network, (H, W) uint8; 255 is certain."""
        return self.measure()

    @cached_property
    def instances(self) -> Instances | None:
        """Instances of the image; None if the model has none."""
        return self.find_instances()

    @cached_property
    def instance_mask(self) -> UInt16Array:
        """Instance of each pixel, 0 where there is none, (H, W) uint16."""
        if self.instances is None:
            return np.zeros(self.label_mask.shape, np.uint16)
        return self.instances.ids

    @cached_property
    def detections(self) -> list[Detection]:
        """Instances with pixels, by descending score."""
        segments = () if self.instances is None else self.instances.segments
        names = {c.id: c.name for c in self.scheme.classes}
        return [Detection(segment, names[segment.class_id]) for segment in segments]

    @cached_property
    def color_mask(self) -> UInt8Array:
        """Labels painted in their colors, (H, W, 3) uint8 RGB."""
        return colorize(self.label_mask, self.scheme, self._canvas(topics.COLOR_MASK))

    @cached_property
    def overlay(self) -> UInt8Array:
        """Color mask blended over the image, (H, W, 3) uint8 RGB."""
        blended = overlay(
            self.image_rgb, self.color_mask, self.overlay_alpha, self._canvas(topics.OVERLAY)
        )
        if self.outlines and self.instances is not None:
            blended[self.instances.outlines] = OUTLINE_RGB
        return blended

    def _canvas(self, topic: str) -> UInt8Array:
        height, width = self.label_mask.shape
        return self.canvas(topic, (height, width))
