# SPDX-License-Identifier: Apache-2.0
"""Preprocessing parameters of a network, and the padding and scaling that fit an image to it."""

import math
from dataclasses import dataclass
from typing import Final

from segmentation_node.errors import ImageError
from segmentation_node.images.files import MAX_PIXELS

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: Both sides of a network input are multiples of this, the coarsest stride of all families.
DIVISOR: Final = 32


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing that a network expects.

    `mean` and `std` are per channel of RGB in [0, 1]. `size_hw` is the box that the image is
    fitted into with its aspect ratio kept; None keeps the image's own size.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size_hw: tuple[int, int] | None = None


def scale_into(box_hw: tuple[int, int] | None, image_hw: tuple[int, int]) -> float:
    """Return the scale at which an image just fits into a box; 1 if there is no box."""
    return min(b / i for b, i in zip(box_hw or image_hw, image_hw, strict=True))


@dataclass(frozen=True)
class Geometry:
    """Padding to `padded_hw` and scaling to `network_hw` that fit images of one size to a network.

    The image is padded first, by just as much as DIVISOR requires at the network's scale. Both
    grids then differ by a single scale factor, so scores map back to the image without a shift.
    """

    image_hw: tuple[int, int]
    padded_hw: tuple[int, int]
    network_hw: tuple[int, int]

    @classmethod
    def fit(cls, image_hw: tuple[int, int], box_hw: tuple[int, int] | None) -> 'Geometry':
        """Return the geometry that fits an image into a box (None: its own size)."""
        return cls.at(image_hw, scale_into(box_hw, image_hw))

    @classmethod
    def at(cls, image_hw: tuple[int, int], scale: float) -> 'Geometry':
        """Return the geometry for an image at a scale, in network pixels per image pixel."""
        network = [max(1, math.ceil(round(i * scale) / DIVISOR)) * DIVISOR for i in image_hw]
        padded = [max(i, round(n / scale)) for n, i in zip(network, image_hw, strict=True)]
        return cls(image_hw, (padded[0], padded[1]), (network[0], network[1]))

    def check(self) -> None:
        """Raise ImageError if padding or scaling makes the image larger than any camera image."""
        (height, width), (padded_height, padded_width) = self.image_hw, self.padded_hw
        if padded_height * padded_width > MAX_PIXELS:
            raise ImageError(
                f'an image of {width} x {height} must be padded to {padded_width} x '
                f'{padded_height} for the network, which exceeds {MAX_PIXELS} pixels; expected '
                f'the aspect ratio of a camera image'
            )
        network_height, network_width = self.network_hw
        if network_height * network_width > MAX_PIXELS:
            raise ImageError(
                f'an image of {width} x {height} must be scaled to {network_width} x '
                f'{network_height} for the network, which exceeds {MAX_PIXELS} pixels; choose a '
                f'smaller input_size'
            )
