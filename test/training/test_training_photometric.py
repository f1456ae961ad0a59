# SPDX-License-Identifier: Apache-2.0
"""Tests of the strong changes of light, weather and sensor."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.photometric import CHANGES, MAX_CHANGES, photometric

change_each = pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)


def street(height: int = 64, width: int = 96) -> Tensor:
    """Bright upper half over a dark lower half with a colored square, (3, H, W) uint8."""
    image = torch.full((3, height, width), 60, dtype=torch.uint8)
    image[:, : height // 2] = 200
    image[0, height // 2 :, : width // 3] = 120
    return image


@change_each
@pytest.mark.parametrize('size', [(64, 96), (33, 47), (16, 16)])
def test_every_change_keeps_the_form(
    change: Callable[[Tensor], Tensor], size: tuple[int, int]
) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        changed = change(street(*size).float() / 255)
        assert changed.shape == (3, *size)
        assert changed.dtype == torch.float32
        assert torch.isfinite(changed).all()


@change_each
def test_every_change_varies_and_leaves_its_input_alone(
    change: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    image = street().float() / 255
    changed = [change(image) for _ in range(8)]
    assert torch.equal(image, street().float() / 255)
    assert len({one.numpy().tobytes() for one in changed}) > 2
    assert any(not torch.equal(one, image) for one in changed)


@change_each
def test_no_change_moves_the_scene(change: Callable[[Tensor], Tensor]) -> None:
    """The strongest horizontal edge stays in its row, on average over many draws."""
    torch.manual_seed(0)
    edges = torch.zeros(62)
    for _ in range(40):
        rows = change(street().float() / 255).clamp(0, 1).mean(0).mean(1)
        edges += (rows[2:] - rows[:-2]).abs()
    assert abs(int(edges.argmax()) - 30.5) <= 1


def test_changes_are_combined() -> None:
    torch.manual_seed(0)
    changed = [photometric(street()) for _ in range(20)]
    assert all(one.shape == (3, 64, 96) and one.dtype == torch.uint8 for one in changed)
    assert len({one.numpy().tobytes() for one in changed}) > 15
    assert 1 < MAX_CHANGES < len(CHANGES)


def test_the_seed_decides() -> None:
    torch.manual_seed(3)
    first = photometric(street())
    torch.manual_seed(3)
    assert torch.equal(photometric(street()), first)
