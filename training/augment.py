# SPDX-License-Identifier: Apache-2.0
"""Joint augmentation of image and labels.

Labels are channels, uint8, or segments of channels, int32. They are never interpolated.
"""

import torch
from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]
from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]
from torchvision.transforms.v2.functional import resize  # type: ignore[import-untyped]

from segmentation_node.labels import IGNORE
from training.draws import happens, log_uniform
from training.photometric import photometric
from training.segments import classes_of
from training.warp import draw_corners, warp_image, warp_labels

#: Attempts to draw a crop that no class dominates; the last one is accepted as it is.
MAX_ATTEMPTS = 10


class Cover:
    """No augmentation: scale the image to cover the crop and take the center."""

    def __init__(self, crop_hw: tuple[int, int]) -> None:
        self.crop_hw = crop_hw

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Map (3, H, W) uint8 and (H, W) to (3, h, w) uint8 and (h, w) int64, the crop's size."""
        height, width = labels.shape
        h, w = _window_hw((height, width), self.crop_hw, 0)
        window = _window((height - h) // 2, (width - w) // 2, h, w)
        return _resized(image, labels, window, self.crop_hw)


class Augment:
    """Random scale, crop, flip and color jitter, with the same geometry for image and labels.

    A crop in which one class covers more than `class_share` is redrawn, like `cat_max_ratio` in
    mmsegmentation. The crop is cut before scaling, so that only the pixels in use are resampled.
    All randomness comes from torch's global generator.

    Args:
        crop_hw: size of the crop.
        scale: smallest and largest scale.
        class_share: largest share of one class.
        warp: probability of seeing the scene through another camera: tilted, with another aspect
            ratio and perspective. Only then may the image be smaller than the crop; what is
            beyond its border is IGNORE.
        strong: probability of strong changes of light, weather and sensor on top.
    """

    def __init__(
        self,
        crop_hw: tuple[int, int],
        scale: tuple[float, float],
        class_share: float = 1.0,
        *,
        warp: float = 0.0,
        strong: float = 0.0,
    ) -> None:
        self.crop_hw, self.scale, self.class_share = crop_hw, scale, class_share
        self.warp = warp
        self.flip = v2.RandomHorizontalFlip()
        self.color = v2.Compose(
            [
                v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
                v2.RandomApply([v2.GaussianBlur(3, (0.1, 1.2))], p=0.15),
                v2.RandomGrayscale(0.05),
                *([v2.RandomApply([v2.Lambda(photometric)], p=strong)] if strong else []),
            ]
        )

    def __call__(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Map (3, H, W) uint8 and (H, W) to (3, h, w) uint8 and (h, w) int64, the crop's size."""
        image, labels = self.place(image, labels)
        return self.recolor(image), labels

    def place(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Apply the random geometry alone; types and shapes as for the whole."""
        if happens(self.warp):
            image, labels = self._warped(image, labels)
        else:
            image, labels = self._cropped(image, labels)
        pair = self.flip(tv_tensors.Image(image), tv_tensors.Mask(labels[None]))
        return pair[0].as_subclass(Tensor), pair[1].as_subclass(Tensor)[0]

    def recolor(self, image: Tensor) -> Tensor:
        """Apply the random colors alone to (3, h, w) uint8."""
        return self.color(tv_tensors.Image(image)).as_subclass(Tensor)  # type: ignore[no-any-return]

    def _cropped(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        window = self._draw_window(labels)
        for _ in range(MAX_ATTEMPTS - 1):
            if largest_share(labels[window]) <= self.class_share:
                break
            window = self._draw_window(labels)
        return _resized(image, labels, window, self.crop_hw)

    def _warped(self, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        height, width = labels.shape
        for _ in range(MAX_ATTEMPTS):
            scale = self._draw_scale()
            corners = draw_corners((height, width), self.crop_hw, scale)
            warped = warp_labels(labels, corners, self.crop_hw)
            if largest_share(warped) <= self.class_share:
                break
        return warp_image(image, corners, self.crop_hw, 1 if scale > 0.7 else 2), warped.long()

    def _draw_window(self, labels: Tensor) -> tuple[slice, slice]:
        height, width = labels.shape
        h, w = _window_hw((height, width), self.crop_hw, self._draw_scale())
        top = int(torch.randint(height - h + 1, ()))
        left = int(torch.randint(width - w + 1, ()))
        return _window(top, left, h, w)

    def _draw_scale(self) -> float:
        return log_uniform(*self.scale)


def largest_share(labels: Tensor) -> float:
    """Return the share of the most frequent channel among the annotated pixels of (H, W) labels.

    The share is 1 if no pixel is annotated.
    """
    counts = torch.bincount(classes_of(labels).flatten(), minlength=IGNORE + 1)[:IGNORE]
    return float(counts.max() / counts.sum()) if counts.sum() else 1.0


def _window_hw(
    image_hw: tuple[int, int], crop_hw: tuple[int, int], scale: float
) -> tuple[int, int]:
    """Return the size of the window that becomes the crop at `scale`.

    The scale is raised where the image would not cover the crop.
    """
    height, width = image_hw
    # An image smaller than the window would need padding; a larger scale keeps the aspect ratio.
    scale = max(scale, crop_hw[0] / height, crop_hw[1] / width)
    h, w = (max(1, min(i, round(c / scale))) for i, c in zip(image_hw, crop_hw, strict=True))
    return h, w


def _window(top: int, left: int, h: int, w: int) -> tuple[slice, slice]:
    return slice(top, top + h), slice(left, left + w)


def _resized(
    image: Tensor, labels: Tensor, window: tuple[slice, slice], crop_hw: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    # Plain "nearest" would shift the labels by half a pixel relative to the image.
    nearest = InterpolationMode.NEAREST_EXACT
    return (
        resize(image[(slice(None), *window)], list(crop_hw), antialias=True),
        resize(labels[window][None], list(crop_hw), nearest)[0].long(),
    )
