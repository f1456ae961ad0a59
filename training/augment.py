# SPDX-License-Identifier: Apache-2.0
"""Joint augmentation of image and labels."""

import math

import torch
from torch import Tensor
from torchvision import tv_tensors  # type: ignore[import-untyped]
from torchvision.transforms import InterpolationMode, v2  # type: ignore[import-untyped]
from torchvision.transforms.v2.functional import resize  # type: ignore[import-untyped]


class Augment:
    """Random scale, crop, flip and colour, the same geometry for image and labels.

    The crop is taken at the size it has before scaling, so only what is used is resampled.
    """

    def __init__(self, crop_hw: tuple[int, int], scale: tuple[float, float]) -> None:
        self.crop_hw = crop_hw
        self.scale = scale
        self.flip = v2.RandomHorizontalFlip()
        self.color = v2.Compose(
            [
                v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05),
                v2.RandomApply([v2.GaussianBlur(3, (0.1, 1.2))], p=0.15),
                v2.RandomGrayscale(0.05),
            ]
        )

    def __call__(self, image: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """(3, H, W) and (H, W) uint8 to (3, h, w) uint8 and (h, w) int64 of the crop's size."""
        top, left, height, width = self._window(image.shape[1], image.shape[2])
        window = (slice(top, top + height), slice(left, left + width))
        pair = (
            tv_tensors.Image(resize(image[(slice(None), *window)], list(self.crop_hw))),
            # Plain "nearest" would shift the labels by half a pixel against the image.
            tv_tensors.Mask(
                resize(channels[window][None], list(self.crop_hw), InterpolationMode.NEAREST_EXACT)
            ),
        )
        pair = self.flip(*pair)
        return self.color(pair[0]).as_subclass(Tensor), pair[1].as_subclass(Tensor)[0].long()

    def _window(self, height: int, width: int) -> tuple[int, int, int, int]:
        low, high = map(math.log, self.scale)
        scale = math.exp(low + (high - low) * float(torch.rand(())))
        # An image smaller than the window would need padding; a larger scale keeps the aspect.
        scale = max(scale, self.crop_hw[0] / height, self.crop_hw[1] / width)
        h = max(1, min(height, round(self.crop_hw[0] / scale)))
        w = max(1, min(width, round(self.crop_hw[1] / scale)))
        top = int(torch.randint(height - h + 1, ()))
        left = int(torch.randint(width - w + 1, ()))
        return top, left, h, w
