# SPDX-License-Identifier: Apache-2.0
"""Tests of augmentation: every label stays on its pixel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from segmentation_node.labels import IGNORE
from training.augment import Augment, Cover, largest_share
from training.warp import draw_corners, warp_image, warp_labels


def geometry_only(class_share: float = 1.0) -> Augment:
    augment = Augment((40, 60), (0.5, 2.0), class_share)
    augment.color = lambda image: image
    return augment


def warping(scale: tuple[float, float]) -> Augment:
    return Augment((40, 60), scale, warp=1.0)


@pytest.fixture
def plain() -> Augment:
    """Augmentation of geometry only, so that a color encodes its original position."""
    return geometry_only()


def ramps(height: int = 100, width: int = 150) -> tuple[Tensor, Tensor]:
    """Image with the column as red and the row as green; its labels are the columns."""
    rows = torch.arange(height, dtype=torch.uint8)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.uint8)[None].expand(height, width)
    return torch.stack([columns, rows, columns]), columns.clone()


def blocks(height: int, width: int, side: int) -> Tensor:
    """Checkerboard of two values, (H, W) uint8."""
    rows, columns = torch.arange(height)[:, None] // side, torch.arange(width)[None] // side
    return ((rows + columns) % 2).to(torch.uint8)


def away_from_borders(channels: Tensor, reach: int) -> Tensor:
    """Mask of the pixels without another label within `reach`, (H, W) bool."""
    values, size = channels.float()[None], 2 * reach + 1
    high = torch.nn.functional.max_pool2d(values, size, 1, reach)[0]
    low = -torch.nn.functional.max_pool2d(-values, size, 1, reach)[0]
    return high == low


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('of', ['columns', 'rows'])
def test_labels_move_with_the_pixels(plain: Augment, seed: int, of: str) -> None:
    """Color and label both encode the position; on average, they must agree."""
    torch.manual_seed(seed)
    image, columns = ramps()
    labels, channel = (columns, 0) if of == 'columns' else (image[1], 1)
    found, channels = plain(image, labels)
    assert (found.shape, channels.shape) == ((3, 40, 60), (40, 60))
    assert (found.dtype, channels.dtype) == (torch.uint8, torch.int64)
    inside = slice(4, -4)  # the resampling filter is truncated at the borders
    moved = found[channel, inside, inside].float() - channels[inside, inside]
    assert moved.abs().max() <= 2.5
    assert moved.mean().abs() < 0.3


@pytest.mark.parametrize('seed', range(10))
def test_an_image_that_shows_its_labels_still_does(plain: Augment, seed: int) -> None:
    torch.manual_seed(seed)
    labels = blocks(120, 180, 30)
    found, channels = plain((labels * 200).expand(3, -1, -1), labels)
    clear = away_from_borders(channels, 2)
    assert clear.sum() > 1000
    assert (found == channels * 200)[:, clear].all()


def test_scale_flip_and_place_vary(plain: Augment) -> None:
    torch.manual_seed(0)
    image, labels = ramps()
    rights, spans, starts = set(), set(), set()
    for _ in range(40):
        _, channels = plain(image, labels)
        rights.add(bool(channels[0, -1] > channels[0, 0]))
        spans.add(int((channels[0, -1] - channels[0, 0]).abs()))
        starts.add(int(channels[0].min()))
    assert rights == {True, False}
    assert min(spans) < 45  # enlarged to twice
    assert max(spans) > 90  # reduced
    assert len(spans) > 10
    assert len(starts) > 10


@pytest.mark.parametrize('seed', range(20))
def test_labels_stay_on_their_pixels_under_all_colors(seed: int) -> None:
    """Every color change keeps white brighter than black."""
    torch.manual_seed(seed)
    pattern = blocks(120, 180, 30)
    found, channels = Augment((40, 60), (0.5, 2.0))((pattern * 255).expand(3, -1, -1), pattern)
    gray = found.float().mean(0)
    threshold = (gray.max() + gray.min()) / 2
    clear = away_from_borders(channels, 3)
    assert ((gray > threshold) == (channels == 1))[clear].all()


def test_colors_vary() -> None:
    image, labels = torch.full((3, 50, 70), 120, dtype=torch.uint8), blocks(50, 70, 5)
    image[0], image[2] = 200, 40
    torch.manual_seed(0)
    found = [Augment((40, 60), (0.5, 2.0))(image, labels)[0] for _ in range(20)]
    assert len({tuple(f[:, 20, 20].tolist()) for f in found}) > 15
    assert min(f.min() for f in found) < 40
    assert max(f.max() for f in found) > 200


def test_labels_are_never_mixed(plain: Augment) -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 2, (100, 150), dtype=torch.uint8) * 200 + 55
    for _ in range(10):
        _, channels = plain(torch.zeros(3, 100, 150, dtype=torch.uint8), labels)
        assert set(channels.unique().tolist()) <= {55, 255}


@pytest.mark.parametrize('size', [(40, 60), (41, 60), (20, 30), (7, 300), (300, 7), (1, 1)])
def test_any_image_fills_the_crop(plain: Augment, size: tuple[int, int]) -> None:
    for seed in range(5):
        torch.manual_seed(seed)
        image = torch.full((3, *size), 7, dtype=torch.uint8)
        for augment in (plain, Cover((40, 60))):
            found, channels = augment(image, torch.full(size, 3, dtype=torch.uint8))
            assert found.shape == (3, 40, 60)
            assert (found == 7).all()
            assert (channels == 3).all()
            assert (found.dtype, channels.dtype) == (torch.uint8, torch.int64)


def test_the_image_given_is_left_alone() -> None:
    image, labels = ramps()
    torch.manual_seed(0)
    Augment((40, 60), (0.5, 2.0))(image, labels)
    assert torch.equal(image, ramps()[0])
    assert torch.equal(labels, ramps()[1])


def test_one_class_fills_no_more_than_its_share() -> None:
    """The left part of the image has a single class, which would fill many crops."""
    image = torch.zeros(3, 200, 300, dtype=torch.uint8)
    labels = blocks(200, 300, 8)
    labels[:, :220] = 3
    shares: dict[float, list[float]] = {1.0: [], 0.6: []}
    for limit, found in shares.items():
        torch.manual_seed(0)
        found += [largest_share(geometry_only(limit)(image, labels)[1].byte()) for _ in range(60)]
    assert sum(share > 0.62 for share in shares[1.0]) > 30
    assert sum(share > 0.62 for share in shares[0.6]) < 6  # the number of attempts is limited


def test_share_is_that_of_the_annotated_pixels() -> None:
    channels = torch.tensor([[0, 0, 0, 1], [IGNORE, IGNORE, IGNORE, IGNORE]], dtype=torch.uint8)
    assert largest_share(channels) == 0.75
    assert largest_share(torch.full((2, 2), IGNORE, dtype=torch.uint8)) == 1


@pytest.mark.parametrize('fill', [IGNORE, 3])
def test_image_of_one_kind_is_cropped_after_some_tries(fill: int) -> None:
    torch.manual_seed(0)
    labels = torch.full((100, 150), fill, dtype=torch.uint8)
    _, channels = geometry_only(0.5)(ramps()[0], labels)
    assert (channels == fill).all()


def test_cover_takes_the_middle_at_the_scale_that_covers() -> None:
    columns = (torch.arange(12, dtype=torch.uint8) * 20)[None].expand(4, 12)
    image = columns.expand(3, 4, 12)
    found, channels = Cover((2, 2))(image, columns)  # the 4 x 4 in the middle, halved
    assert channels.tolist() == [[100, 140]] * 2
    assert found.shape == (3, 2, 2)
    found, channels = Cover((4, 6))(image, columns)
    assert channels.tolist() == [[60, 80, 100, 120, 140, 160]] * 4
    assert torch.equal(found[0].long(), channels)


def test_cover_is_the_same_each_time() -> None:
    image, labels = ramps()
    first, second = Cover((40, 60))(image, labels), Cover((40, 60))(image, labels)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize('seed', range(20))
@pytest.mark.parametrize('of', ['columns', 'rows'])
def test_labels_move_with_the_pixels_of_a_warped_view(seed: int, of: str) -> None:
    torch.manual_seed(seed)
    image, columns = ramps()
    labels, channel = (columns, 0) if of == 'columns' else (image[1], 1)
    found, channels = warping((0.7, 2.0)).place(image, labels)
    assert (found.shape, channels.shape) == ((3, 40, 60), (40, 60))
    assert (found.dtype, channels.dtype) == (torch.uint8, torch.int64)
    seen = channels != IGNORE
    moved = (found[channel].float() - channels)[seen]
    assert moved.abs().max() <= 3
    assert moved.mean().abs() < 0.3


def test_a_warped_view_may_reach_beyond_the_image() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 100, 150), 9, dtype=torch.uint8)
    found, channels = warping((0.2, 0.2)).place(image, image[0])
    assert (found == 9).all()  # the border continues
    share = (channels == 9).float().mean()
    assert 0.1 < share < 0.4  # (0.2 * 100) x (0.2 * 150) pixels of 40 x 60
    assert ((channels == 9) | (channels == IGNORE)).all()


def test_an_upright_view_of_the_whole_image_is_the_image() -> None:
    image = torch.randint(0, 255, (3, 40, 60), dtype=torch.uint8)
    corners = np.array([(0, 0), (60, 0), (60, 40), (0, 40)], np.float32)
    assert torch.equal(warp_image(image, corners, (40, 60)), image)
    assert torch.equal(warp_labels(image[0], corners, (40, 60)), image[0])


@pytest.mark.parametrize('seed', range(5))
def test_warped_views_vary_in_all_ways(seed: int) -> None:
    torch.manual_seed(seed)
    views = np.stack([draw_corners((100, 150), (40, 60), 1.0) for _ in range(200)])
    sides = np.linalg.norm(views - np.roll(views, -1, axis=1), axis=2)
    assert 35 < sides[:, 0].min() < 60 < sides[:, 0].max() < 95  # upper side of 60 pixels
    assert 25 < sides[:, 1].min() < 40 < sides[:, 1].max() < 65
    top = views[:, 1] - views[:, 0]
    assert (top[:, 1] / top[:, 0]).min() < -0.05 < 0.05 < (top[:, 1] / top[:, 0]).max()
    assert views.mean(1).std(0).min() > 10


def test_strong_changes_come_on_top() -> None:
    image, labels = torch.full((3, 50, 70), 120, dtype=torch.uint8), blocks(50, 70, 5)
    torch.manual_seed(0)
    strong = Augment((40, 60), (1, 1), strong=1.0)
    noisy = [strong(image, labels)[0].float().std() > 3 for _ in range(20)]
    torch.manual_seed(0)
    plain = Augment((40, 60), (1, 1))
    assert not any(plain(image, labels)[0].float().std() > 3 for _ in range(20))
    assert sum(noisy) > 8


@pytest.mark.parametrize('warp', [0.0, 1.0])
@pytest.mark.parametrize('seed', range(4))
def test_segments_move_as_their_channels(seed: int, warp: float) -> None:
    """Segments are as large as 24 bits can be; none is interpolated, and none is new."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 2**16, (5, 8)).astype(np.int32) << 8 | generator.integers(0, 9)
    coarse[0, 0] = 2**24 - 1 - 255
    segments = torch.from_numpy(np.kron(coarse, np.ones((20, 20), np.int32)))
    image = torch.randint(256, (3, 100, 160), dtype=torch.uint8)
    augment = Augment((40, 60), (0.3, 2.0), 0.5, warp=warp)
    torch.manual_seed(seed)
    expected_image, channels = augment(image, (segments & 255).to(torch.uint8))
    torch.manual_seed(seed)
    found_image, found = augment(image, segments)
    assert torch.equal(found_image, expected_image)
    assert found.dtype == torch.int64
    assert torch.equal(found & 255, channels)
    assert set(found.unique().tolist()) <= {*coarse.ravel().tolist(), IGNORE}
    assert len(found.unique()) > 3
    covered = Cover((40, 60))(image, segments)[1]
    assert set(covered.unique().tolist()) <= {*coarse.ravel().tolist()}
