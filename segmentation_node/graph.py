# SPDX-License-Identifier: Apache-2.0
"""The one graph: RGB pixels in, label ids and confidence out."""

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor, nn

from segmentation_node.geometry import Geometry, Preprocessing
from segmentation_node.models.network import Network


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

    def decided(self, images_rgb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` gives, and whether each image has finite scores, (B,) bool."""
        scores = self.class_scores(images_rgb)
        return (*self.decide(scores), scores.isfinite().flatten(1).all(1))

    def class_scores(self, images_rgb: Tensor, scale: float | None = None) -> Tensor:
        """(B, H, W, 3) uint8 RGB to (B, C, H, W) float scores, which `decide` takes.

        `scale` is in pixels of the network per pixel of the image; None fits the image into the
        checkpoint's box.
        """
        geometry = self.geometry((images_rgb.shape[1], images_rgb.shape[2]), scale)
        return self.upsample(self.coarse_scores(images_rgb, geometry), geometry)

    def coarse_scores(self, images_rgb: Tensor, geometry: Geometry) -> Tensor:
        """(B, H, W, 3) uint8 RGB to (B, C, h, w) float scores at the network's own stride."""
        return self.network(self.preprocess(images_rgb, geometry))  # type: ignore[no-any-return]

    def geometry(self, image_hw: tuple[int, int], scale: float | None = None) -> Geometry:
        """How an image of a size meets this network, at a scale or fitted into its box."""
        if scale is not None:
            return Geometry.at(image_hw, scale)
        return Geometry.fit(image_hw, self.size_hw)

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
