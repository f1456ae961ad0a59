# SPDX-License-Identifier: Apache-2.0
"""Training objectives of the networks; IGNORE pixels contribute to no loss."""

from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from segmentation_node.labels import IGNORE, LabelScheme
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.network import Network
from segmentation_node.networks.smp import SmpNetwork
from training.batches import NO_CHANNELS
from training.config import Experiment
from training.prepare import PreparedImages
from training.segments import classes_of, countable_channels, without_groups


class Objective(Protocol):
    """Training objective: the outputs of a network, their loss, and their class scores."""

    #: Name of the loss; only losses of the same kind may be compared.
    kind: str

    def outputs(self, pixels: Tensor) -> Any:
        """Run the network on (B, 3, H, W) normalized pixels; returns the input of `loss`."""
        ...

    def loss(self, outputs: Any, channels: Tensor) -> Tensor:
        """Return the scalar loss for (B, H, W) int64 channels; IGNORE pixels do not contribute.

        For a task with instances, `channels` are segments.
        """
        ...

    def scores(self, outputs: Any) -> Tensor:
        """Return the class scores, (B, C, h, w), as the network itself computes them."""
        ...


class PixelObjective:
    """Class-weighted cross-entropy over the hardest share of the pixels, plus a Dice loss.

    Hardest pixels: Shrivastava et al., "Training Region-based Object Detectors with Online Hard
    Example Mining", CVPR 2016. Thin objects such as poles have few, hard pixels, which have little
    weight in an average over all pixels. Dice loss: Milletari et al., "V-Net", 3DV 2016, over all
    annotated pixels of the batch together.
    """

    def __init__(
        self, network: SmpNetwork, class_weights: Tensor, hardest: float = 1.0, dice: float = 0.0
    ) -> None:
        self.network, self.class_weights = network, class_weights
        self.hardest, self.dice = hardest, dice
        self.kind = 'cross-entropy' + (f' + {dice:g} Dice' if dice else '')

    def outputs(self, pixels: Tensor) -> Tensor:
        return self.network.logits(pixels)

    def scores(self, outputs: Tensor) -> Tensor:
        return self.network.scores(outputs)

    def loss(self, outputs: Tensor, channels: Tensor) -> Tensor:
        # Contiguous, because each of the following kernels would otherwise make its own copy.
        logits = F.interpolate(
            outputs.float().contiguous(), channels.shape[-2:], mode='bilinear', align_corners=False
        )
        log_probability = logits.log_softmax(1)
        weights = self.class_weights.to(logits.device)
        losses = F.nll_loss(
            log_probability, channels, weights, ignore_index=IGNORE, reduction='none'
        ).flatten()
        # The loss of an ignored pixel is 0, so the hardest annotated pixels come first.
        count = max(1, int(self.hardest * int((channels != IGNORE).sum())))
        total = losses.topk(count, sorted=False).values.mean()
        if not self.dice:
            return total
        return total + self.dice * soft_dice(log_probability.exp(), channels)


def soft_dice(probability: Tensor, channels: Tensor) -> Tensor:
    """Return 1 - Dice of (B, C, H, W) and (B, H, W) channels, mean over the classes present."""
    annotated = channels != IGNORE
    truth = channels[annotated]
    true_class = probability.gather(1, channels.where(annotated, 0)[:, None])[:, 0][annotated]
    overlap = probability.new_zeros(probability.shape[1]).index_add(0, truth, true_class)
    count = truth.bincount(minlength=probability.shape[1])
    total = torch.einsum('bchw,bhw->c', probability, annotated.to(probability.dtype)) + count
    present = count > 0
    return (1 - (2 * overlap / total.clamp(min=1e-6))[present]).sum() / present.sum().clamp(min=1)


#: Target class of queries that learn no class.
_NOT_TRAINED: Final = -1
#: Class logits (B, Q, C + 1) and mask logits (B, Q, h, w) after one decoder layer.
LayerOutputs = tuple[Tensor, Tensor]


class SetObjective:
    """Mask2Former's set loss, on points sampled from annotated pixels only.

    The loss in transformers treats void pixels as negatives of every mask; here they are never
    sampled. Each class present in an image is one target mask, or for a task with instances, each
    segment. Queries are matched to the targets by class and mask cost, after every decoder layer
    (Cheng et al., CVPR 2022, sections 3.2 and 3.3).

    `countable` are the channels of classes with instances, (N,) int64. Pixels of their groups,
    which do not tell objects apart, are not sampled either; nor is a segment of few pixels that
    no point meets. A query without a target learns "no object", unless its mask lies mostly on
    pixels that are not annotated: it may have found an object there.
    """

    CLASS, MASK, DICE, NO_OBJECT = 2.0, 5.0, 5.0, 0.1

    def __init__(self, network: Mask2Former, points: int, countable: Tensor = NO_CHANNELS) -> None:
        self.network, self.points, self.countable = network, points, countable
        self.kind = 'set loss of segments' if len(countable) else 'set loss'

    def outputs(self, pixels: Tensor) -> list[LayerOutputs]:
        return self.network.layers(pixels)

    def scores(self, outputs: list[LayerOutputs]) -> Tensor:
        return self.network.scores(*outputs[-1])

    def loss(self, outputs: list[LayerOutputs], channels: Tensor) -> Tensor:
        # In 16-bit precision the costs overflow and the matching has no solution.
        with torch.autocast(channels.device.type, enabled=False):
            return self._loss(outputs, channels)

    def _loss(self, outputs: list[LayerOutputs], channels: Tensor) -> Tensor:
        # Zero with a gradient for every output: an image without annotation changes no weight,
        # and other processes do not wait for missing gradients.
        total = sum((0 * (c.float().sum() + m.float().sum()) for c, m in outputs), torch.zeros(()))
        if len(self.countable):
            channels = without_groups(channels, self.countable.to(channels.device))
        for image, image_channels in enumerate(channels):
            points = draw_points(image_channels, 3 * self.points)
            if points is None:
                continue
            grid, truth = points
            present = torch.unique(truth)
            targets = (truth[None] == present[:, None]).float()  # (K, P)
            channel = classes_of(present)
            for classes, masks in outputs:
                sampled = F.grid_sample(masks[image][None].float(), grid, align_corners=False)
                at_points = sampled[0, :, 0]  # (Q, P)
                unclear = self._unclear(masks[image], image_channels)
                total = total + self._layer(
                    classes[image].float(), at_points, channel, targets, unclear
                )
        return total / len(channels)

    def _unclear(self, masks: Tensor, labels: Tensor) -> Tensor:
        """Return which queries may have found an object that is not annotated, (Q,) bool.

        Args:
            masks: (Q, h, w) logits.
            labels: (H, W) channels or segments.
        """
        if not len(self.countable):
            return torch.zeros(len(masks), dtype=torch.bool, device=masks.device)
        unannotated = (labels == IGNORE).float()[None, None]
        share = F.interpolate(unannotated, masks.shape[-2:], mode='area').flatten()  # (h * w,)
        return (masks > 0).float().flatten(1) @ (share - 0.5) > 0

    def _layer(
        self, classes: Tensor, masks: Tensor, present: Tensor, targets: Tensor, unclear: Tensor
    ) -> Tensor:
        with torch.no_grad():
            cost = (
                self.MASK * pairwise_bce(masks, targets)
                + self.DICE * pairwise_dice(masks, targets)
                - self.CLASS * classes.softmax(-1)[:, present]
            )
            # A diverged network is reported through its loss, not by an error in the matching.
            pairs = linear_sum_assignment(cost.nan_to_num().cpu().numpy())
            queries, order = (torch.as_tensor(side, device=cost.device) for side in pairs)
        target_class = torch.full((len(classes),), classes.shape[1] - 1, device=classes.device)
        target_class[unclear] = _NOT_TRAINED
        target_class[queries] = present[order]
        weights = torch.ones(classes.shape[1], device=classes.device)
        weights[-1] = self.NO_OBJECT
        matched, target = self._uncertain_points(masks[queries], targets[order])
        bce = F.binary_cross_entropy_with_logits(matched, target)
        probability = matched.sigmoid()
        overlap = 2 * (probability * target).sum(1) + 1
        dice = 1 - overlap / (probability.sum(1) + target.sum(1) + 1)
        return (
            self.CLASS * F.cross_entropy(classes, target_class, weights, ignore_index=_NOT_TRAINED)
            + self.MASK * bce
            + self.DICE * dice.mean()
        )

    def _uncertain_points(self, masks: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Select `points` points per mask: 3/4 those with logits nearest to 0, 1/4 at random."""
        hard = int(0.75 * self.points)
        nearest = masks.detach().abs().topk(hard, dim=1, largest=False).indices
        random = torch.randint(
            masks.shape[1], (len(masks), self.points - hard), device=masks.device
        )
        chosen = torch.cat([nearest, random], dim=1)
        return masks.gather(1, chosen), targets.gather(1, chosen)


def draw_points(channels: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Sample annotated pixels of (H, W) `channels`, or segments, with replacement.

    Returns:
        Coordinates for grid_sample, (1, 1, count, 2), and channels or segments, (count,) int64;
        None if no pixel is annotated.
    """
    annotated = (channels.flatten() != IGNORE).nonzero()[:, 0]
    if not len(annotated):
        return None
    chosen = annotated[torch.randint(len(annotated), (count,), device=channels.device)]
    h, w = channels.shape
    x = (chosen % w + 0.5) * (2 / w) - 1
    y = (chosen // w + 0.5) * (2 / h) - 1
    return torch.stack([x, y], dim=-1)[None, None], channels.flatten()[chosen]


def pairwise_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of (Q, P) masks and (K, P) targets, (Q, K)."""
    positive = F.softplus(-logits) @ targets.T
    negative = F.softplus(logits) @ (1 - targets).T
    return (positive + negative) / logits.shape[1]


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the Dice loss of every pair of (Q, P) masks and (K, P) targets, (Q, K)."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ targets.T + 1
    return 1 - overlap / (probability.sum(1)[:, None] + targets.sum(1)[None] + 1)


def objective_of(
    network: Network, experiment: Experiment, class_weights: Tensor, scheme: LabelScheme
) -> Objective:
    """Return the training objective for a network."""
    if isinstance(network, Mask2Former):
        countable = NO_CHANNELS
        if experiment.has_instances:
            countable = torch.from_numpy(np.flatnonzero(countable_channels(scheme)))
        return SetObjective(network, experiment.points, countable)
    return PixelObjective(
        cast('SmpNetwork', network), class_weights, experiment.hardest, experiment.dice
    )


def class_weights(sets: Sequence[PreparedImages], channels: int, power: float) -> Tensor:
    """Return class weights proportional to frequency ** -power, their mean over pixels is 1."""
    if not power:
        return torch.ones(channels)
    counts = np.sum([images.channel_counts() for images in sets], axis=0)[:channels]
    share = np.maximum(counts / max(1, counts.sum()), 1e-4)
    weights = share**-power
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)
