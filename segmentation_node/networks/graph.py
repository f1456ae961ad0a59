# SPDX-License-Identifier: Apache-2.0
"""Complete segmentation graph in PyTorch: RGB pixels in, label ids and confidence out."""

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor, nn

from segmentation_node.instances import SEMANTIC
from segmentation_node.networks.confidence import confidence_table
from segmentation_node.networks.network import Network
from segmentation_node.networks.preprocessing import Geometry, Preprocessing


class SegmentationGraph(nn.Module):
    """Preprocessing, network and postprocessing as one module.

    The input is (B, H, W, 3) uint8 RGB of any size. The outputs are the published label ids,
    (B, H, W) uint8, and the confidence, (B, H, W) uint8; 255 is certain.
    """

    shift: Tensor
    scale: Tensor
    channel_ids: Tensor
    confidence_table: Tensor

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        channel_ids: Tensor,
        temperature: float = 1.0,
        task: str = SEMANTIC,
    ) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.size_hw = preprocessing.size_hw
        scale = torch.tensor(preprocessing.std) * 255
        shift = torch.tensor(preprocessing.mean) * 255
        self.register_buffer('shift', shift.view(1, 3, 1, 1), persistent=False)
        self.register_buffer('scale', (1 / scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('channel_ids', channel_ids.to(torch.uint8), persistent=False)
        table = torch.from_numpy(confidence_table(temperature))
        self.register_buffer('confidence_table', table, persistent=False)
        self.ids_are_channels = channel_ids.tolist() == list(range(len(channel_ids)))

    def forward(self, images_rgb: Tensor) -> tuple[Tensor, Tensor]:
        return self.choose_class(self.class_scores(images_rgb))

    def forward_checked(self, images_rgb: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of `forward`, features, and whether scores are finite.

        The features are (B, D) float32, see `Network`; the last output is (B,) bool.
        """
        geometry = self.geometry((images_rgb.shape[1], images_rgb.shape[2]))
        coarse, features = self.scores_and_features(images_rgb, geometry)
        scores = self.upsample(coarse, geometry)
        return (*self.choose_class(scores), features, scores.isfinite().flatten(1).all(1))

    def class_scores(self, images_rgb: Tensor, scale: float | None = None) -> Tensor:
        """Compute the class scores of the image, (B, C, H, W) float, from (B, H, W, 3) uint8 RGB.

        `scale` is in network pixels per image pixel; None fits the image into the checkpoint's
        box.
        """
        geometry = self.geometry((images_rgb.shape[1], images_rgb.shape[2]), scale)
        return self.upsample(self.coarse_scores(images_rgb, geometry), geometry)

    def coarse_scores(self, images_rgb: Tensor, geometry: Geometry) -> Tensor:
        """Compute scores at the network's stride, (B, C, h, w), from (B, H, W, 3) uint8 RGB."""
        return self.network(self.preprocess(images_rgb, geometry))  # type: ignore[no-any-return]

    def scores_and_features(self, images_rgb: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Compute the scores of `coarse_scores`, and the features of each image, (B, D)."""
        return self.network.scores_and_features(self.preprocess(images_rgb, geometry))

    def outputs(self, images_rgb: Tensor, geometry: Geometry) -> tuple[Tensor, ...]:
        """Compute what a decoder of the checkpoint's task takes, see `Network.outputs`."""
        return self.network.outputs(self.preprocess(images_rgb, geometry), self.task)

    def geometry(self, image_hw: tuple[int, int], scale: float | None = None) -> Geometry:
        """Return the geometry for an image size, at a scale or fitted into the network's box."""
        if scale is not None:
            return Geometry.at(image_hw, scale)
        return Geometry.fit(image_hw, self.size_hw)

    def preprocess(self, images_rgb: Tensor, geometry: Geometry) -> Tensor:
        """Convert (B, H, W, 3) uint8 to network input (B, 3, h, w) float, channels last."""
        pixels = images_rgb.permute(0, 3, 1, 2).float()
        (h, w), (padded_h, padded_w) = geometry.image_hw, geometry.padded_hw
        if geometry.padded_hw != geometry.image_hw:
            # Repeats edge pixels: a black border would add an edge that is not in the image.
            pixels = F.pad(pixels, (0, padded_w - w, 0, padded_h - h), mode='replicate')
        if geometry.network_hw != geometry.padded_hw:
            pixels = F.interpolate(
                pixels, geometry.network_hw, mode='bilinear', antialias=True, align_corners=False
            )
        return self.normalize(pixels)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize (B, 3, h, w) RGB from 0 to 255 for the network, in channels-last order."""
        return ((pixels - self.shift) * self.scale).contiguous(memory_format=torch.channels_last)

    def postprocess(self, scores: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Convert (B, C, h, w) scores to label ids and confidence at the size of the image."""
        return self.choose_class(self.upsample(scores, geometry))

    def upsample(self, scores: Tensor, geometry: Geometry) -> Tensor:
        """Upsample (B, C, h, w) scores of the network to (B, C, H, W) scores of the image."""
        h, w = geometry.image_hw
        scores = F.interpolate(scores, geometry.padded_hw, mode='bilinear', align_corners=False)
        return scores[:, :, :h, :w]

    def choose_class(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Convert (B, C, H, W) scores, 0 or greater, to label ids and calibrated confidence.

        Both results are (B, H, W) uint8.
        """
        # max instead of argmax: many times faster on a CPU, and it returns the confidence as well.
        best, channels = scores.max(dim=1)
        labels = channels.to(torch.uint8)
        if not self.ids_are_channels:
            labels = self.channel_ids[channels]
        # To bytes first: the integer of NaN would be an index outside of the table.
        steps = (best.clamp(max=1) * 255).round().to(torch.uint8)
        return labels, self.confidence_table[steps.int()]
