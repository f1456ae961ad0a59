# SPDX-License-Identifier: Apache-2.0
"""Augmentation keeps every label on its pixel."""

import pytest
import torch
from torch import Tensor

from training.augment import Augment


@pytest.fixture
def plain() -> Augment:
    """Geometry without colours, so that a colour tells the place it came from."""
    augment = Augment((40, 60), (0.5, 2.0))
    augment.color = lambda image: image
    return augment


def ramps(height: int = 100, width: int = 150) -> tuple[Tensor, Tensor]:
    """An image whose red is the column and whose green is the row; its labels are the column."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    return torch.stack([columns, rows, columns]), columns.clone()


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('of', ['columns', 'rows'])
def test_labels_move_with_the_pixels(plain: Augment, seed: int, of: str) -> None:
    """Colour and label both tell the place; on average they must tell the same one."""
    torch.manual_seed(seed)
    image, columns = ramps()
    labels, channel = (columns, 0) if of == 'columns' else (image[1], 1)
    found, channels = plain(image, labels)
    assert (found.shape, channels.shape) == ((3, 40, 60), (40, 60))
    assert (found.dtype, channels.dtype) == (torch.uint8, torch.int64)
    inside = slice(4, -4)  # the resampling's filter is cut at the borders
    moved = found[channel, inside, inside].float() - channels[inside, inside]
    assert moved.abs().max() <= 2.5
    assert moved.mean().abs() < 0.3


def test_scale_flip_and_place_vary(plain: Augment) -> None:
    torch.manual_seed(0)
    image, labels = ramps()
    rights, spans = set(), set()
    for _ in range(30):
        _, channels = plain(image, labels)
        rights.add(bool(channels[0, -1] > channels[0, 0]))
        spans.add(int((channels[0, -1] - channels[0, 0]).abs()))
    assert rights == {True, False}
    assert min(spans) < 45  # enlarged to twice
    assert max(spans) > 90  # reduced
    assert len(spans) > 10


@pytest.mark.parametrize('seed', range(20))
def test_labels_stay_on_their_pixels_under_all_colors(seed: int) -> None:
    """Every colour change keeps white brighter than black."""
    torch.manual_seed(seed)
    pattern = torch.zeros(100, 150, dtype=torch.uint8)
    pattern[20:70, 30:90] = 1
    image = (pattern * 255).expand(3, 100, 150)
    found, channels = Augment((40, 60), (0.5, 2.0))(image, pattern)
    gray = found.float().mean(0)
    edge = torch.nn.functional.max_pool2d(channels.float()[None], 5, 1, 2)[0]
    edge += torch.nn.functional.max_pool2d(-channels.float()[None], 5, 1, 2)[0]
    for value in (0, 1):
        if not (channels == value).any() or not (channels == 1 - value).any():
            return
    threshold = (gray.max() + gray.min()) / 2
    inside = edge == 0
    assert ((gray > threshold) == (channels == 1))[inside].all()


def test_labels_are_never_mixed(plain: Augment) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (100, 150), dtype=torch.uint8) * 200 + 55
    for _ in range(10):
        assert set(
            plain(torch.zeros(3, 100, 150, dtype=torch.uint8), labels)[1].unique().tolist()
        ) <= {55, 255}


@pytest.mark.parametrize('size', [(40, 60), (41, 60), (20, 30), (7, 300), (300, 7), (1, 1)])
def test_any_image_fills_the_crop(plain: Augment, size: tuple[int, int]) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        image = torch.full((3, *size), 7, dtype=torch.uint8)
        found, channels = plain(image, torch.full(size, 3, dtype=torch.uint8))
        assert found.shape == (3, 40, 60)
        assert (found == 7).all()
        assert (channels == 3).all()


def test_the_image_given_is_left_alone() -> None:
    image, labels = ramps()
    torch.manual_seed(0)
    Augment((40, 60), (0.5, 2.0))(image, labels)
    assert torch.equal(image, ramps()[0])
    assert torch.equal(labels, ramps()[1])
