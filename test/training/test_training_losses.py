# SPDX-License-Identifier: Apache-2.0
"""Tests of the losses: ignored pixels do not contribute, and fitting one batch works."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from training_data import fields, street, write_folders

from segmentation_node.labels import IGNORE, load_scheme
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.smp import DeepLabV3Plus
from training.batches import Data
from training.config import Experiment
from training.losses import (
    Objective,
    PixelObjective,
    SetObjective,
    class_weights,
    draw_points,
    objective_of,
    pairwise_bce,
    pairwise_dice,
    soft_dice,
)

CATEGORIES = load_scheme('cityscapes8')
LOG2 = 0.6931472
NO_NETWORK: Any = None


def pixel_loss(
    logits: Tensor, channels: Tensor, hardest: float = 1.0, dice: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    weights = torch.ones(logits.shape[1]) if weights is None else weights
    return PixelObjective(NO_NETWORK, weights, hardest, dice).loss(logits, channels)


def set_loss(masks: Tensor, classes: Tensor, channels: Tensor, layers: int = 1) -> Tensor:
    """Return the set loss of mask logits (B, Q, H, W) and class logits (B, Q, C + 1) per layer."""
    torch.manual_seed(0)
    return SetObjective(NO_NETWORK, points=64).loss([(classes, masks)] * layers, channels)


def half_ignored() -> Tensor:
    """Channels, (1, 8, 8): class 0 above, class 1 below, the right half not annotated."""
    channels = torch.zeros(1, 8, 8, dtype=torch.int64)
    channels[:, 4:] = 1
    channels[:, :, 4:] = IGNORE
    return channels


@pytest.mark.parametrize('hardest', [0.3, 1.0])
@pytest.mark.parametrize('dice', [0.0, 1.0])
def test_pixel_loss_does_not_see_what_is_not_annotated(hardest: float, dice: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    channels = half_ignored()
    loss = pixel_loss(logits, channels, hardest, dice)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 4:] == 0).all()
    assert (logits.grad[..., :4] != 0).any()
    changed = logits.detach().clone()
    changed[..., 4:] = 50 * torch.randn(1, 3, 8, 4)
    assert pixel_loss(changed, channels, hardest, dice) == loss


def test_pixel_loss_is_a_mean_over_what_is_annotated() -> None:
    torch.manual_seed(0)
    logits, channels = torch.randn(1, 3, 8, 8), half_ignored()
    expected = F.cross_entropy(logits[..., :4], channels[..., :4])
    assert pixel_loss(logits, channels) == pytest.approx(float(expected), rel=1e-5)


def test_pixel_loss_is_that_of_the_hardest() -> None:
    logits = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 1, 2, 2)
    logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
    channels = torch.zeros(1, 2, 2, dtype=torch.int64)
    expected = (F.softplus(torch.tensor(-1.0)) + F.softplus(torch.tensor(-2.0))) / 2
    assert pixel_loss(logits, channels, 0.5) == pytest.approx(float(expected))


def test_pixel_loss_weighs_the_classes() -> None:
    logits = torch.zeros(1, 2, 1, 2)
    channels = torch.tensor([[[0, 1]]])
    loss = pixel_loss(logits, channels, weights=torch.tensor([1.0, 3.0]))
    assert loss == pytest.approx((1 + 3) / 2 * float(torch.log(torch.tensor(2.0))))


def test_cross_entropy_of_a_literal_picture() -> None:
    """Logits 0 and log 3 are probabilities 1/4 and 3/4; the third pixel is not annotated."""
    logits = torch.tensor([[[[0.0, 0.0, 9.0]], [[1.0986123, 1.0986123, -9.0]]]])  # (1, 2, 1, 3)
    channels = torch.tensor([[[1, 0, IGNORE]]])
    expected = (math.log(4 / 3) + math.log(4)) / 2
    assert pixel_loss(logits, channels) == pytest.approx(expected)
    assert pixel_loss(logits, channels, hardest=0.5) == pytest.approx(math.log(4))


def test_logits_are_enlarged_to_the_labels_about_the_same_centers() -> None:
    """Interpolating two pixels of -8 and 8 to four labels gives -8, -4, 4 and 8."""
    logits = torch.tensor([[[[-8.0, 8.0]], [[0.0, 0.0]]]])
    found = [
        float(pixel_loss(logits, torch.full((1, 1, 4), IGNORE).index_fill(2, torch.tensor(i), 0)))
        for i in range(4)
    ]
    assert found == pytest.approx([math.log1p(math.exp(-x)) for x in (-8, -4, 4, 8)], rel=1e-4)


def test_dice_of_a_literal_picture() -> None:
    """Two pixels with probabilities 3/4 and 1/4 of class 1; the truth is class 1 and class 0."""
    logits = torch.tensor([[[[0.0, 1.0986123, 5.0]], [[1.0986123, 0.0, -5.0]]]])
    channels = torch.tensor([[[1, 0, IGNORE]]])
    # For both classes: overlap 3/4, sum of probabilities 1, sum of truth 1.
    assert soft_dice(logits.softmax(1), channels) == pytest.approx(1 - 2 * 0.75 / 2)
    both = pixel_loss(logits, channels, dice=0.5)
    assert both == pytest.approx(math.log(4 / 3) + 0.5 * 0.25)


def test_dice_is_over_the_classes_that_occur() -> None:
    logits = torch.full((1, 5, 2, 2), -30.0)
    logits[:, 2] = 30
    assert soft_dice(logits.softmax(1), torch.full((1, 2, 2), 2)) == pytest.approx(0, abs=1e-6)
    assert soft_dice(logits.softmax(1), torch.full((1, 2, 2), 3)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('dice', [0.0, 1.0])
@pytest.mark.parametrize('hardest', [0.4, 1.0])
def test_nothing_annotated_moves_nothing(hardest: float, dice: float) -> None:
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    loss = pixel_loss(logits, torch.full((1, 8, 8), IGNORE), hardest, dice)
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
    # Points are at pixel centers; sampling there reaches a neighbor only through rounding.
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
    for given in (masks, classes):
        assert given.grad is not None
        assert (given.grad == 0).all()


def test_set_loss_of_an_image_with_nothing_annotated_beside_another() -> None:
    torch.manual_seed(0)
    masks, classes = torch.randn(1, 5, 8, 8), torch.randn(1, 5, 4)
    alone = set_loss(masks, classes, half_ignored())
    blank = torch.full((1, 8, 8), IGNORE)
    pair = set_loss(
        torch.cat([masks, masks]), torch.cat([classes, classes]),
        torch.cat([half_ignored(), blank]),
    )  # fmt: skip
    assert pair == pytest.approx(alone.item() / 2, rel=1e-5)


def test_set_loss_of_a_network_gone_astray_is_no_number() -> None:
    masks, classes = torch.full((1, 5, 8, 8), float('nan')), torch.zeros(1, 5, 4)
    assert torch.isnan(set_loss(masks, classes, half_ignored()))


def test_set_loss_is_finite_in_16_bits() -> None:
    torch.manual_seed(0)
    masks = (200 * torch.randn(1, 5, 8, 8)).bfloat16().requires_grad_()
    classes = (50 * torch.randn(1, 5, 4)).bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        loss = set_loss(masks, classes, half_ignored())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    for given in (masks, classes):
        assert given.grad is not None
        assert torch.isfinite(given.grad).all()


@pytest.mark.parametrize('hardest', [0.4, 1.0])
def test_pixel_loss_is_finite_in_16_bits(hardest: float) -> None:
    torch.manual_seed(0)
    logits = (100 * torch.randn(1, 3, 4, 4)).bfloat16().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        loss = pixel_loss(logits, half_ignored(), hardest, dice=1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def right_answer() -> tuple[Tensor, Tensor, Tensor]:
    """Masks, classes and channels: query 2 correctly predicts class 0, query 0 class 1."""
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
    extra[0, 1] = classes[0, 0]  # a false object
    assert set_loss(masks, wrong_class, channels) > 1
    assert set_loss(wrong_mask, classes, channels) > 1
    assert set_loss(masks, extra, channels) > 0.1


def test_set_loss_is_summed_over_layers_and_averaged_over_images() -> None:
    torch.manual_seed(1)
    masks, classes = torch.randn(1, 5, 8, 8), torch.randn(1, 5, 4)
    channels = torch.zeros(1, 8, 8, dtype=torch.int64)
    masks = masks[:, :, :1, :1].expand(
        1, 5, 8, 8
    )  # constant, so that the sampled points do not matter
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
    """Two streets as normalized pixels and channels."""
    lut = CATEGORIES.channels_from(load_scheme('camvid11'))
    pairs = [street(seed) for seed in (0, 1)]
    pixels = torch.stack([torch.from_numpy(image) for image, _ in pairs]).permute(0, 3, 1, 2)
    channels = torch.stack([torch.from_numpy(lut[ids]) for _, ids in pairs])
    return pixels / 128 - 1, channels.long()


def losses_of_fitting(objective: Objective, rate: float, steps: int) -> list[float]:
    pixels, channels = batch()
    network: Any = objective
    optimizer = torch.optim.AdamW(network.network.parameters(), lr=rate)
    found = []
    for _ in range(steps):
        value = objective.loss(objective.outputs(pixels), channels)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.network.parameters(), 5.0)
        optimizer.step()
        found.append(value.item())
    return found


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(fields(Path(), **changes))


@pytest.mark.parametrize('dice', [0.0, 0.5])
def test_pixel_loss_falls_when_one_batch_is_fitted(dice: float) -> None:
    torch.manual_seed(0)
    network = DeepLabV3Plus({'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8})
    wanted = experiment(hardest=0.5, dice=dice)
    objective = objective_of(network.train(), wanted, torch.ones(8), CATEGORIES)
    assert isinstance(objective, PixelObjective)
    assert objective.kind == ('cross-entropy + 0.5 Dice' if dice else 'cross-entropy')
    found = losses_of_fitting(objective, rate=2e-3, steps=8)
    assert found[-1] < 0.6 * found[0]


def test_set_loss_falls_when_one_batch_is_fitted(tiny_mask2former: Path) -> None:
    torch.manual_seed(0)
    network = Mask2Former.load(tiny_mask2former)
    objective = objective_of(network.train(), experiment(points=256), torch.ones(8), CATEGORIES)
    assert isinstance(objective, SetObjective)
    assert objective.kind == 'set loss'
    found = losses_of_fitting(objective, rate=2e-3, steps=25)
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


def test_scores_are_those_that_the_network_gives(tiny_mask2former: Path) -> None:
    """Training scores the same outputs as the graph in inference."""
    torch.manual_seed(0)
    pixels = torch.randn(2, 3, 64, 96)
    deeplab = DeepLabV3Plus({'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8})
    for network in (deeplab.eval(), Mask2Former.load(tiny_mask2former).eval()):
        objective = objective_of(network, experiment(), torch.ones(8), CATEGORIES)
        with torch.inference_mode():
            found = objective.scores(objective.outputs(pixels))
            assert torch.allclose(found, network(pixels), atol=1e-6)


def test_every_layer_of_mask2former_learns(tiny_mask2former: Path) -> None:
    network = Mask2Former.load(tiny_mask2former).eval()
    layers = network.layers(torch.randn(2, 3, 64, 96))
    assert len(layers) == 2  # the library counts the initial prediction as a decoder layer
    for classes, masks in layers:
        assert classes.shape == (2, 12, 9)
        assert masks.shape == (2, 12, 16, 24)


def test_rare_classes_weigh_more(tmp_path: Path) -> None:
    write_folders(tmp_path / 'streets', 'train', 2)
    write_folders(tmp_path / 'streets', 'val', 1, first=9)
    sets = Data(Experiment.model_validate(fields(tmp_path))).train
    weights = class_weights(sets, 8, power=0.5)
    counts = sets[0].channel_counts()[:8]
    assert weights[CATEGORIES.id_of('vehicle')] > weights[CATEGORIES.id_of('flat')]
    assert torch.isfinite(weights).all()  # also for classes without a pixel
    mean = np.average(weights.numpy(), weights=np.maximum(counts / counts.sum(), 1e-4))
    assert mean == pytest.approx(1, abs=1e-3)
    assert torch.equal(class_weights(sets, 8, power=0.0), torch.ones(8))


# Segments.


def segment_loss(masks: Tensor, classes: Tensor, segments: Tensor) -> Tensor:
    """Return the set loss of segments of two channels, of which 1 is countable."""
    torch.manual_seed(0)
    objective = SetObjective(NO_NETWORK, points=64, countable=torch.tensor([1]))
    assert objective.kind == 'set loss of segments'
    return objective.loss([(classes, masks)], segments)


def test_each_instance_wants_a_query_of_its_own() -> None:
    segments = torch.zeros(1, 8, 8, dtype=torch.int64)
    segments[:, :4, :4], segments[:, :4, 4:] = 256 + 1, 512 + 1
    parts = [segments[0] == value for value in (0, 257, 513)]
    masks = torch.stack(parts).float()[None] * 40 - 20  # (1, 3, 8, 8)
    classes = 20 * F.one_hot(torch.tensor([[0, 1, 1]]), 3).float()  # (1, 3, 3)
    assert segment_loss(masks, classes, segments) < 0.01
    merged = torch.stack([parts[0], parts[1] | parts[2], torch.zeros_like(parts[0])])
    one_query = 20 * F.one_hot(torch.tensor([[0, 1, 2]]), 3).float()
    assert segment_loss(merged.float()[None] * 40 - 20, one_query, segments) > 1
    # The classes alone are the same.
    assert set_loss(merged.float()[None] * 40 - 20, one_query, segments % 256) < 0.01


def test_groups_teach_nothing() -> None:
    segments = torch.zeros(1, 8, 8, dtype=torch.int64)
    segments[:, :4], segments[:, :4, 4:] = 256 + 1, 1  # the right one is a group
    torch.manual_seed(1)
    masks = torch.randn(1, 3, 8, 8, requires_grad=True)
    segment_loss(masks, torch.randn(1, 3, 3), segments).backward()
    assert masks.grad is not None
    assert (masks.grad[0, :, :4, 4:] == 0).all()
    assert (masks.grad[0, :, :4, :4] != 0).any()


def test_an_object_in_a_group_is_not_no_object() -> None:
    """Of three queries, one has the stuff, one lies on the group, and one on the stuff as well."""
    segments = torch.zeros(1, 8, 8, dtype=torch.int64)
    segments[:, :4] = 1
    stuff = segments[0] == 0
    masks = torch.stack([stuff, ~stuff, stuff]).float()[None] * 40 - 20
    classes = torch.zeros(1, 3, 3, requires_grad=True)
    segment_loss(masks, classes, segments).backward()
    assert classes.grad is not None
    learns = (classes.grad[0] != 0).any(dim=1).tolist()
    assert learns == [True, False, True]
    # Without countable classes, all learn.
    semantic = torch.zeros(1, 3, 3, requires_grad=True)
    set_loss(masks, semantic, segments.masked_fill(segments == 1, IGNORE)).backward()
    assert semantic.grad is not None
    assert (semantic.grad[0] != 0).any(dim=1).all()
