# SPDX-License-Identifier: Apache-2.0
"""What the networks are trained on; IGNORE pixels count for nothing in either loss."""

from typing import Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from segmentation_node.labels import IGNORE
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.network import Network
from segmentation_node.models.smp import SmpNetwork


class Loss(Protocol):
    """A loss of one network on a batch."""

    def __call__(self, pixels: Tensor, channels: Tensor) -> Tensor:
        """(B, 3, H, W) normalised pixels and (B, H, W) int64 channels to a scalar."""
        ...


class PixelLoss:
    """Class-weighted cross-entropy over the hardest share of the pixels (OHEM).

    Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016, on pixels. Thin things such as poles are few and hard: an average over all pixels
    never learns them.
    """

    def __init__(self, network: SmpNetwork, class_weights: Tensor, hardest: float) -> None:
        self.network, self.class_weights, self.hardest = network, class_weights, hardest

    def __call__(self, pixels: Tensor, channels: Tensor) -> Tensor:
        logits = self.network.logits(pixels).float()
        logits = F.interpolate(logits, channels.shape[-2:], mode='bilinear', align_corners=False)
        losses = F.cross_entropy(
            logits, channels, self.class_weights, ignore_index=IGNORE, reduction='none'
        ).flatten()
        # An ignored pixel has loss 0, so none is among the hardest of the annotated ones.
        count = max(1, int(self.hardest * int((channels != IGNORE).sum())))
        return losses.topk(count, sorted=False).values.mean()


class SetLoss:
    """Mask2Former's set loss for semantic classes, on points drawn from annotated pixels only.

    transformers' own loss takes void pixels as negatives of every mask; here they cannot be
    drawn. Per image every class present is one target mask; queries are matched to them by class
    and mask cost, after every decoder layer (Cheng et al., CVPR 2022, section 3.2 and 3.3).
    """

    CLASS, MASK, DICE, NO_OBJECT = 2.0, 5.0, 5.0, 0.1

    def __init__(self, network: Mask2Former, points: int) -> None:
        self.network, self.points = network, points

    def __call__(self, pixels: Tensor, channels: Tensor) -> Tensor:
        out = self.network.model.model(pixel_values=pixels, output_hidden_states=True)
        masks_by_layer = out.masks_queries_logits  # each (B, Q, h, w)
        classes_by_layer = [
            self.network.model.class_predictor(hidden.transpose(0, 1))
            for hidden in out.transformer_decoder_intermediate_states
        ]
        # Zero, but with a gradient: a batch without an annotated pixel moves nothing.
        total: Tensor = 0 * classes_by_layer[-1].sum()
        for image in range(len(pixels)):
            drawn = draw_points(channels[image], 3 * self.points)
            if drawn is None:
                continue
            grid, truth = drawn
            present = torch.unique(truth)
            targets = (truth[None] == present[:, None]).float()  # (K, P)
            for classes, masks in zip(classes_by_layer, masks_by_layer, strict=True):
                sampled = F.grid_sample(masks[image][None].float(), grid, align_corners=False)
                at_points = sampled[0, :, 0]  # (Q, P)
                total = total + self._layer(classes[image].float(), at_points, present, targets)
        return total / len(pixels)

    def _layer(self, classes: Tensor, masks: Tensor, present: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            cost = (
                self.MASK * pairwise_bce(masks, targets)
                + self.DICE * pairwise_dice(masks, targets)
                - self.CLASS * classes.softmax(-1)[:, present]
            )
            queries, order = (
                torch.as_tensor(np.asarray(side)) for side in linear_sum_assignment(cost.numpy())
            )
        wanted = torch.full((len(classes),), classes.shape[1] - 1)
        wanted[queries] = present[order]
        weights = torch.ones(classes.shape[1])
        weights[-1] = self.NO_OBJECT
        matched, target = self._uncertain(masks[queries], targets[order])
        bce = F.binary_cross_entropy_with_logits(matched, target)
        probability = matched.sigmoid()
        overlap = 2 * (probability * target).sum(1) + 1
        dice = 1 - overlap / (probability.sum(1) + target.sum(1) + 1)
        return (
            self.CLASS * F.cross_entropy(classes, wanted, weights)
            + self.MASK * bce
            + self.DICE * dice.mean()
        )

    def _uncertain(self, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Keep per mask the 3/4 of its points nearest to its border, and 1/4 at random."""
        hard = int(0.75 * self.points)
        nearest = masks.detach().abs().topk(hard, dim=1, largest=False).indices
        random = torch.randint(masks.shape[1], (len(masks), self.points - hard))
        chosen = torch.cat([nearest, random], dim=1)
        return masks.gather(1, chosen), targets.gather(1, chosen)


def draw_points(channels: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Draw annotated pixels of (H, W) `channels` with replacement.

    Returns:
        Their places as (1, 1, count, 2) for grid_sample and channels (count,) int64, or None
        where no pixel is annotated.
    """
    annotated = (channels.flatten() != IGNORE).nonzero()[:, 0]
    if not len(annotated):
        return None
    chosen = annotated[torch.randint(len(annotated), (count,))]
    h, w = channels.shape
    x = (chosen % w + 0.5) * (2 / w) - 1
    y = (chosen // w + 0.5) * (2 / h) - 1
    return torch.stack([x, y], dim=-1)[None, None], channels.flatten()[chosen]


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of every (Q, P) mask against every (K, P) target, (Q, K)."""
    positive = F.softplus(-logits) @ targets.T
    negative = F.softplus(logits) @ (1 - targets).T
    return (positive + negative) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Dice loss of every (Q, P) mask against every (K, P) target, (Q, K)."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ targets.T + 1
    return 1 - overlap / (probability.sum(1)[:, None] + targets.sum(1)[None] + 1)


def loss_of(network: Network, class_weights: Tensor, hardest: float, points: int) -> Loss:
    """The loss that belongs to a network."""
    if isinstance(network, Mask2Former):
        return SetLoss(network, points)
    return PixelLoss(cast('SmpNetwork', network), class_weights, hardest)
