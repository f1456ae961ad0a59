# SPDX-License-Identifier: Apache-2.0
"""What the networks are trained on; IGNORE pixels count for nothing in either loss."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

from segmentation_node.labels import IGNORE
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.network import Network
from segmentation_node.models.smp import SmpNetwork
from training.config import Experiment
from training.prepare import PreparedImages


class Objective(Protocol):
    """What a network is trained for: its outputs, their loss, and the class scores in them."""

    #: Only losses of one kind may be compared.
    kind: str

    def outputs(self, pixels: Tensor) -> Any:
        """What the network makes of (B, 3, H, W) normalised pixels, as `loss` takes it."""
        ...

    def loss(self, outputs: Any, channels: Tensor) -> Tensor:
        """Outputs and (B, H, W) int64 channels to a scalar; IGNORE pixels count for nothing."""
        ...

    def scores(self, outputs: Any) -> Tensor:
        """The (B, C, h, w) class scores that the network itself would have given."""
        ...


class PixelObjective:
    """Class-weighted cross-entropy over the hardest share of the pixels, plus Dice.

    The hardest pixels: Shrivastava et al., "Training Region-based Object Detectors with Online
    Hard Example Mining", CVPR 2016. Thin things such as poles are few and hard: an average over
    all pixels hardly sees them. Dice: Milletari et al., "V-Net", 3DV 2016, on all annotated pixels
    of the batch at once.
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
        # Contiguous: the kernels for what follows would copy anything else, each for itself.
        logits = F.interpolate(
            outputs.float().contiguous(), channels.shape[-2:], mode='bilinear', align_corners=False
        )
        log_probability = logits.log_softmax(1)
        weights = self.class_weights.to(logits.device)
        losses = F.nll_loss(
            log_probability, channels, weights, ignore_index=IGNORE, reduction='none'
        ).flatten()
        # An ignored pixel has loss 0, so none is among the hardest of the annotated ones.
        count = max(1, int(self.hardest * int((channels != IGNORE).sum())))
        total = losses.topk(count, sorted=False).values.mean()
        if not self.dice:
            return total
        return total + self.dice * soft_dice(log_probability.exp(), channels)


def soft_dice(probability: Tensor, channels: Tensor) -> Tensor:
    """1 - Dice of (B, C, H, W) and (B, H, W) channels, mean over the classes present."""
    annotated = channels != IGNORE
    truth = channels[annotated]
    of_truth = probability.gather(1, channels.where(annotated, 0)[:, None])[:, 0][annotated]
    overlap = probability.new_zeros(probability.shape[1]).index_add(0, truth, of_truth)
    count = truth.bincount(minlength=probability.shape[1])
    total = torch.einsum('bchw,bhw->c', probability, annotated.to(probability.dtype)) + count
    present = count > 0
    return (1 - (2 * overlap / total.clamp(min=1e-6))[present]).sum() / present.sum().clamp(min=1)


#: Class logits (B, Q, C + 1) and mask logits (B, Q, h, w) after one decoder layer.
LayerOutputs = tuple[Tensor, Tensor]


class SetObjective:
    """Mask2Former's set loss for semantic classes, on points drawn from annotated pixels only.

    transformers' own loss takes void pixels as negatives of every mask; here they cannot be
    drawn. Per image every class present is one target mask; queries are matched to them by class
    and mask cost, after every decoder layer (Cheng et al., CVPR 2022, section 3.2 and 3.3).
    """

    CLASS, MASK, DICE, NO_OBJECT = 2.0, 5.0, 5.0, 0.1
    kind = 'set loss'

    def __init__(self, network: Mask2Former, points: int) -> None:
        self.network, self.points = network, points

    def outputs(self, pixels: Tensor) -> list[LayerOutputs]:
        return self.network.layers(pixels)

    def scores(self, outputs: list[LayerOutputs]) -> Tensor:
        return self.network.scores(*outputs[-1])

    def loss(self, outputs: list[LayerOutputs], channels: Tensor) -> Tensor:
        # In 16 bits the costs overflow and the matching has no solution.
        with torch.autocast(channels.device.type, enabled=False):
            return self._loss(outputs, channels)

    def _loss(self, outputs: list[LayerOutputs], channels: Tensor) -> Tensor:
        # Zero, but with a gradient for all: where nothing is annotated, nothing moves, and other
        # processes do not wait for gradients that never come.
        total = sum((0 * (c.float().sum() + m.float().sum()) for c, m in outputs), torch.zeros(()))
        for image, of_image in enumerate(channels):
            drawn = draw_points(of_image, 3 * self.points)
            if drawn is None:
                continue
            grid, truth = drawn
            present = torch.unique(truth)
            targets = (truth[None] == present[:, None]).float()  # (K, P)
            for classes, masks in outputs:
                sampled = F.grid_sample(masks[image][None].float(), grid, align_corners=False)
                at_points = sampled[0, :, 0]  # (Q, P)
                total = total + self._layer(classes[image].float(), at_points, present, targets)
        return total / len(channels)

    def _layer(self, classes: Tensor, masks: Tensor, present: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            cost = (
                self.MASK * pairwise_bce(masks, targets)
                + self.DICE * pairwise_dice(masks, targets)
                - self.CLASS * classes.softmax(-1)[:, present]
            )
            # A network that has gone astray is told of by its loss, not by the matching.
            pairs = linear_sum_assignment(cost.nan_to_num().cpu().numpy())
            queries, order = (torch.as_tensor(side, device=cost.device) for side in pairs)
        wanted = torch.full((len(classes),), classes.shape[1] - 1, device=classes.device)
        wanted[queries] = present[order]
        weights = torch.ones(classes.shape[1], device=classes.device)
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
        random = torch.randint(
            masks.shape[1], (len(masks), self.points - hard), device=masks.device
        )
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
    chosen = annotated[torch.randint(len(annotated), (count,), device=channels.device)]
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


def objective_of(network: Network, experiment: Experiment, class_weights: Tensor) -> Objective:
    """The objective that belongs to a network."""
    if isinstance(network, Mask2Former):
        return SetObjective(network, experiment.points)
    return PixelObjective(
        cast('SmpNetwork', network), class_weights, experiment.hardest, experiment.dice
    )


def class_weights(sets: Sequence[PreparedImages], channels: int, power: float) -> Tensor:
    """Weights of the classes, frequency ** -power, with a mean of 1 over the pixels."""
    if not power:
        return torch.ones(channels)
    counts = np.sum([images.channel_counts() for images in sets], axis=0)[:channels]
    share = np.maximum(counts / max(1, counts.sum()), 1e-4)
    weights = share**-power
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)
