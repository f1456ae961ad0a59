# SPDX-License-Identifier: Apache-2.0
"""Losses: what is not annotated counts for nothing, and fitting one batch works."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from training_data import street

from segmentation_node.labels import IGNORE, load_scheme
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.smp import DeepLabV3Plus
from training.losses import (
    Loss,
    PixelLoss,
    SetLoss,
    draw_points,
    loss_of,
    pairwise_bce,
    pairwise_dice,
)

NO_PIXELS = torch.zeros(1, 3, 8, 8)


def pixel_loss(logits: Tensor, hardest: float = 1.0, weights: Tensor | None = None) -> PixelLoss:
    """The loss of a network that puts out these logits."""
    network: Any = SimpleNamespace(logits=lambda pixels: logits)
    return PixelLoss(network, torch.ones(logits.shape[1]) if weights is None else weights, hardest)


class KnownQueries:
    """A Mask2Former that puts out these masks and classes after each of its layers."""

    def __init__(self, masks: Tensor, classes: Tensor, layers: int = 1) -> None:
        """Take (B, Q, H, W) mask logits and (B, Q, C + 1) class logits."""
        self.out = SimpleNamespace(
            masks_queries_logits=[masks] * layers,
            transformer_decoder_intermediate_states=[classes.transpose(0, 1)] * layers,
        )
        self.model = self
        self.class_predictor = torch.nn.Identity()

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        return self.out


def set_loss(masks: Tensor, classes: Tensor, channels: Tensor, layers: int = 1) -> Tensor:
    torch.manual_seed(0)
    network: Any = KnownQueries(masks, classes, layers)
    return SetLoss(network, points=64)(torch.zeros(len(masks), 3, 8, 8), channels)


def half_ignored() -> Tensor:
    """(1, 8, 8): class 0 above, class 1 below, the right half not annotated."""
    channels = torch.zeros(1, 8, 8, dtype=torch.int64)
    channels[:, 4:] = 1
    channels[:, :, 4:] = IGNORE
    return channels


@pytest.mark.parametrize('hardest', [0.3, 1.0])
def test_pixel_loss_does_not_see_what_is_not_annotated(hardest: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    channels = half_ignored()
    loss = pixel_loss(logits, hardest)(NO_PIXELS, channels)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 4:] == 0).all()
    assert (logits.grad[..., :4] != 0).any()
    changed = logits.detach().clone()
    changed[..., 4:] = 50 * torch.randn(1, 3, 8, 4)
    assert pixel_loss(changed, hardest)(NO_PIXELS, channels) == loss


def test_pixel_loss_is_a_mean_over_what_is_annotated() -> None:
    torch.manual_seed(0)
    logits, channels = torch.randn(1, 3, 8, 8), half_ignored()
    expected = F.cross_entropy(logits[..., :4], channels[..., :4])
    assert pixel_loss(logits)(NO_PIXELS, channels) == pytest.approx(float(expected), rel=1e-5)


def test_pixel_loss_is_that_of_the_hardest() -> None:
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 1, 2, 2)
    logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    channels = torch.zeros(1, 2, 2, dtype=torch.int64)
    expected = (F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(-2.0))) / 2
    assert pixel_loss(logits, 0.5)(NO_PIXELS, channels) == pytest.approx(float(expected))


def test_pixel_loss_weighs_the_classes() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    channels = torch.tensor([[[0, 1]]])
    loss = pixel_loss(logits, weights=torch.tensor([1.0, 3.0]))(NO_PIXELS, channels)
    assert loss == pytest.approx((1 + 3) / 2 * float(torch.log(torch.tensor(2.0))))


@pytest.mark.parametrize('hardest', [0.4, 1.0])
def test_nothing_annotated_moves_nothing(hardest: float) -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    loss = pixel_loss(logits, hardest)(NO_PIXELS, torch.full((1, 8, 8), IGNORE))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_set_loss_does_not_see_what_is_not_annotated() -> None:
    torch.manual_seed(0)
    masks = torch.randn(1, 5, 8, 8, requires_grad=True)
    classes = torch.randn(1, 5, 4)
    loss = set_loss(masks, classes, half_ignored())
    loss.backward()
    assert masks.grad is not None
    # Points lie in the centres of pixels; sampling there reaches a neighbour by rounding only.
    assert masks.grad[..., 4:].abs().max() < 1e-5 * masks.grad.abs().max()
    changed = masks.detach().clone()
    changed[..., 4:] = torch.randn(1, 5, 8, 4)
    assert set_loss(changed, classes, half_ignored()) == pytest.approx(loss.item(), rel=1e-4)


def test_set_loss_of_nothing_annotated_moves_nothing() -> None:
    masks = torch.randn(2, 5, 8, 8, requires_grad=True)
    classes = torch.randn(2, 5, 4, requires_grad=True)
    loss = set_loss(masks, classes, torch.full((2, 8, 8), IGNORE))
    loss.backward()
    assert loss == 0
    assert classes.grad is not None
    assert (classes.grad == 0).all()


def right_answer() -> tuple[Tensor, Tensor, Tensor]:
    """Masks, classes and channels where query 2 has class 0 right, query 0 class 1."""
    channels = torch.zeros(1, 8, 8, dtype=torch.int64)
    channels[:, :, 3:] = 1
    masks = torch.full((1, 3, 8, 8), -20.0)
    masks[:, 2, :, :3] = 20
    masks[:, 0, :, 3:] = 20
    classes = torch.full((1, 3, 3), -20.0)
    classes[0, [2, 0, 1], [0, 1, 2]] = 20  # the last class is "no object"
    return masks, classes, channels


def test_set_loss_of_the_right_answer_is_nearly_zero() -> None:
    assert set_loss(*right_answer()) < 1e-3


@pytest.mark.parametrize('order', [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_set_loss_does_not_ask_which_query_answers(order: list[int]) -> None:
    masks, classes, channels = right_answer()
    assert set_loss(masks[:, order], classes[:, order], channels) < 1e-3


def test_set_loss_rises_with_each_kind_of_mistake() -> None:
    masks, classes, channels = right_answer()
    wrong_class, wrong_mask, extra = classes.clone(), masks.clone(), classes.clone()
    wrong_class[0, 0] = classes[0, 2]
    wrong_mask[0, 0] = -20
    extra[0, 1] = classes[0, 0]  # an object where there is none
    assert set_loss(masks, wrong_class, channels) > 1
    assert set_loss(wrong_mask, classes, channels) > 1
    assert set_loss(masks, extra, channels) > 0.1


def test_set_loss_is_summed_over_layers_and_averaged_over_images() -> None:
    torch.manual_seed(1)
    masks, classes = torch.randn(1, 5, 8, 8), torch.randn(1, 5, 4)
    channels = torch.zeros(1, 8, 8, dtype=torch.int64)
    masks = masks[:, :, :1, :1].expand(1, 5, 8, 8)  # the same wherever points are drawn
    one = float(set_loss(masks, classes, channels))
    assert set_loss(masks, classes, channels, layers=3) == pytest.approx(3 * one, rel=1e-4)
    pair = set_loss(masks.repeat(2, 1, 1, 1), classes.repeat(2, 1, 1), channels.repeat(2, 1, 1))
    assert pair == pytest.approx(one, rel=1e-4)


def test_more_classes_than_queries_are_matched_as_far_as_they_go() -> None:
    channels = torch.arange(8)[None, None].expand(1, 8, 8)
    loss = set_loss(torch.randn(1, 3, 8, 8), torch.randn(1, 3, 9), channels)
    assert torch.isfinite(loss)


def test_points_lie_on_the_pixels_they_are_drawn_from() -> None:
    torch.manual_seed(0)
    channels = torch.arange(7 * 5).view(7, 5)
    channels[2] = IGNORE
    drawn = draw_points(channels, 500)
    assert drawn is not None
    grid, truth = drawn
    assert grid.shape == (1, 1, 500, 2)
    sampled = F.grid_sample(
        channels[None, None].float(), grid, mode='nearest', align_corners=False
    )
    assert torch.equal(sampled[0, 0, 0].long(), truth)
    assert set(truth.tolist()) == set(channels.flatten().tolist()) - {IGNORE}


def test_no_points_where_nothing_is_annotated() -> None:
    assert draw_points(torch.full((4, 4), IGNORE), 10) is None


def test_pairwise_costs_are_those_of_each_pair() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 50), torch.randint(0, 2, (2, 50)).float()
    bce, dice = pairwise_bce(logits, targets), pairwise_dice(logits, targets)
    for query in range(3):
        for target in range(2):
            direct = F.binary_cross_entropy_with_logits(logits[query], targets[target])
            assert bce[query, target] == pytest.approx(float(direct), rel=1e-4)
            p, t = logits[query].sigmoid(), targets[target]
            direct = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
            assert dice[query, target] == pytest.approx(float(direct), rel=1e-4)


def batch() -> tuple[Tensor, Tensor]:
    """Two streets as normalised pixels and channels."""
    lut = load_scheme('cityscapes8').channels_from(load_scheme('camvid11'))
    pairs = [street(seed) for seed in (0, 1)]
    pixels = torch.stack([torch.from_numpy(image) for image, _ in pairs]).permute(0, 3, 1, 2)
    channels = torch.stack([torch.from_numpy(lut[ids]) for _, ids in pairs])
    return pixels / 128 - 1, channels.long()


def losses_of_fitting(
    network: torch.nn.Module, loss: Loss, rate: float, steps: int
) -> list[float]:
    pixels, channels = batch()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        value = loss(pixels, channels)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        found.append(value.item())
    return found


def test_pixel_loss_falls_when_one_batch_is_fitted() -> None:
    torch.manual_seed(0)
    network = DeepLabV3Plus({'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8})
    loss = loss_of(network.train(), torch.ones(8), hardest=0.5, points=64)
    assert isinstance(loss, PixelLoss)
    found = losses_of_fitting(network, loss, rate=2e-3, steps=8)
    assert found[-1] < 0.6 * found[0]


def test_set_loss_falls_when_one_batch_is_fitted(tiny_mask2former: Path) -> None:
    torch.manual_seed(0)
    network = Mask2Former.load(tiny_mask2former)
    loss = loss_of(network.train(), torch.ones(8), hardest=0.5, points=256)
    assert isinstance(loss, SetLoss)
    found = losses_of_fitting(network, loss, rate=2e-3, steps=25)
    assert sum(found[-3:]) < 0.7 * sum(found[:3])
