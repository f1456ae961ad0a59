# SPDX-License-Identifier: Apache-2.0
"""The one graph: RGB pixels in, label ids and confidence out."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor, nn

from segmentation_node.models import Network

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its pixels.

    `mean` and `std` are per channel of RGB in [0, 1]. `size_hw` is the box the image is fitted
    into with its aspect ratio kept; None means that the network sees the image's own size.
    """

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    size_hw: tuple[int, int] | None = None


def scale_into(box_hw: tuple[int, int] | None, image_hw: tuple[int, int]) -> float:
    """The scale at which an image just fits into a box; 1 where there is none."""
    return min(b / i for b, i in zip(box_hw or image_hw, image_hw, strict=True))


@dataclass(frozen=True)
class Geometry:
    """How an image of one size meets a network: padded to `padded_hw`, scaled to `network_hw`.

    Padding the image first, by just what the network's divisor asks for at the network's scale,
    keeps one single scale between both grids, so that scores are put back without a shift.
    """

    image_hw: tuple[int, int]
    padded_hw: tuple[int, int]
    network_hw: tuple[int, int]

    @classmethod
    def fit(
        cls, image_hw: tuple[int, int], box_hw: tuple[int, int] | None, divisor: int
    ) -> 'Geometry':
        """Plan for an image, the box to fit it into (None: its own size) and a divisor."""
        return cls.at(image_hw, scale_into(box_hw, image_hw), divisor)

    @classmethod
    def at(cls, image_hw: tuple[int, int], scale: float, divisor: int) -> 'Geometry':
        """Plan for an image, pixels of the network per pixel of the image, and a divisor."""
        network = [max(1, math.ceil(round(i * scale) / divisor)) * divisor for i in image_hw]
        padded = [max(i, round(n / scale)) for n, i in zip(network, image_hw, strict=True)]
        return cls(image_hw, (padded[0], padded[1]), (network[0], network[1]))


class SegmentationGraph(nn.Module):
    """Preprocessing, network and postprocessing as one module.

    Takes (B, H, W, 3) uint8 RGB of any size; gives (B, H, W) uint8 label ids as published and
    (B, H, W) uint8 confidence, 255 = certain.
    """

    shift: Tensor
    scale: Tensor
    channel_ids: Tensor

    def __init__(
        self, network: Network, preprocessing: Preprocessing, channel_ids: Tensor
    ) -> None:
        super().__init__()
        self.network = network
        self.size_hw = preprocessing.size_hw
        scale = torch.tensor(preprocessing.std) * 255
        shift = torch.tensor(preprocessing.mean) * 255
        self.register_buffer('shift', shift.view(1, 3, 1, 1), persistent=False)
        self.register_buffer('scale', (1 / scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('channel_ids', channel_ids.to(torch.uint8), persistent=False)
        self.ids_are_channels = channel_ids.tolist() == list(range(len(channel_ids)))

    def forward(self, images_rgb: Tensor) -> tuple[Tensor, Tensor]:
        return self.decide(self.class_scores(images_rgb))

    def class_scores(self, images_rgb: Tensor, scale: float | None = None) -> Tensor:
        """(B, H, W, 3) uint8 RGB to (B, C, H, W) float scores, which `decide` takes.

        `scale` is in pixels of the network per pixel of the image; None fits the image into the
        checkpoint's box.
        """
        geometry = self.geometry((images_rgb.shape[1], images_rgb.shape[2]), scale)
        scores = self.network(self.preprocess(images_rgb, geometry))  # (B, C, h, w)
        return self.upsample(scores, geometry)

    def geometry(self, image_hw: tuple[int, int], scale: float | None = None) -> Geometry:
        """How an image of a size meets this network, at a scale or fitted into its box."""
        if scale is not None:
            return Geometry.at(image_hw, scale, self.network.divisor)
        return Geometry.fit(image_hw, self.size_hw, self.network.divisor)

    def preprocess(self, images_rgb: Tensor, geometry: Geometry) -> Tensor:
        """(B, H, W, 3) uint8 to the network's (B, 3, h, w) float, channels last in memory."""
        pixels = images_rgb.permute(0, 3, 1, 2).float()
        (h, w), (padded_h, padded_w) = geometry.image_hw, geometry.padded_hw
        if geometry.padded_hw != geometry.image_hw:
            # Edge pixels repeated: a black border would be an edge that is not there.
            pixels = F.pad(pixels, (0, padded_w - w, 0, padded_h - h), mode='replicate')
        if geometry.network_hw != geometry.padded_hw:
            pixels = F.interpolate(
                pixels, geometry.network_hw, mode='bilinear', antialias=True, align_corners=False
            )
        return self.normalize(pixels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, 3, h, w) RGB from 0 to 255 as the network expects it, channels last in memory."""
        return ((pixels - self.shift) * self.scale).contiguous(memory_format=torch.channels_last)

    def postprocess(self, scores: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) scores from 0 up to label ids and confidence of the image's size."""
        return self.decide(self.upsample(scores, geometry))

    def upsample(self, scores: Tensor, geometry: Geometry) -> Tensor:
        """(B, C, h, w) scores of the network to (B, C, H, W) ones of the image."""
        h, w = geometry.image_hw
        scores = F.interpolate(scores, geometry.padded_hw, mode='bilinear', align_corners=False)
        return scores[:, :, :h, :w]

    def decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) scores from 0 up to label ids and confidence, (B, H, W) uint8 each."""
        # max, not argmax: the same answer many times faster on a CPU, and the confidence with it.
        confidence, channels = scores.max(dim=1)
        labels = channels.to(torch.uint8)
        if not self.ids_are_channels:
            labels = self.channel_ids[channels]
        return labels, (confidence.clamp(max=1) * 255).round().to(torch.uint8)
