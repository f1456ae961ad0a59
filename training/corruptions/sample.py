# SPDX-License-Identifier: Apache-2.0
"""Frame to be corrupted, and the geometry that image and truth share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array

#: Image, (H, W, 3) RGB with values in [0, 1], or a single channel, (H, W).
Pixels: TypeAlias = npt.NDArray[np.float32]

#: Shorter side of the images for which the parameters of the paper were chosen.
PAPER_PX = 224


@dataclass(frozen=True)
class LabeledPixels:
    """Image with its truth, (H, W) uint8 ids; `sky` are the ids of the sky, `void` means none."""

    image: Pixels
    truth: UInt8Array
    void: int
    sky: Sequence[int] = ()

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.truth.shape[0], self.truth.shape[1]

    def window(self, rows: slice, columns: slice) -> 'LabeledPixels':
        """Return a part of the frame."""
        return replace(self, image=self.image[rows, columns], truth=self.truth[rows, columns])

    def resized(self, height: int, width: int) -> 'LabeledPixels':
        """Return the frame in another size."""
        is_smaller = height * width < self.truth.size
        how = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
        size_wh = width, height
        image = np.asarray(cv2.resize(self.image, size_wh, interpolation=how), np.float32)
        # Plain "nearest" would shift the labels by half a pixel relative to the image.
        truth = cv2.resize(self.truth, size_wh, interpolation=cv2.INTER_NEAREST_EXACT)
        return replace(self, image=image, truth=np.asarray(truth, np.uint8))

    def sampled(self, x: Pixels, y: Pixels) -> 'LabeledPixels':
        """Return the frame with each pixel taken from the position (x, y), (H, W) each.

        Outside of the frame, the image is mirrored and the truth is void.
        """
        image = cv2.remap(self.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        truth = cv2.remap(
            self.truth, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT,
            borderValue=(self.void,),
        )  # fmt: skip
        return replace(
            self, image=np.asarray(image, np.float32), truth=np.asarray(truth, np.uint8)
        )


def scale_of(image: Pixels) -> float:
    """Return the factor from pixels of the paper's images to pixels of this one."""
    return float(min(image.shape[:2]) / PAPER_PX)


def gray_of(image: Pixels) -> Pixels:
    """Return the luma of an image, (H, W)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


def blurred(image: Pixels, sigma_px: float) -> Pixels:
    """Return an image blurred by a Gaussian."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.float32)


def filtered(image: Pixels, kernel: Pixels) -> Pixels:
    """Return an image correlated with a kernel; the image is mirrored at its edges."""
    return np.asarray(
        cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32
    )
