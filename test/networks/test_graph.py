# SPDX-License-Identifier: Apache-2.0
"""The graph around a network whose scores are a known function of its pixels."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typing_extensions import Self

from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.network import Network
from segmentation_node.networks.preprocessing import Geometry, Preprocessing

PLAIN = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))


class KnownNetwork(Network):
    """Scores by a function of the pixels; remembers what it was given."""

    def __init__(
        self, scores: Callable[[Tensor], Tensor], *, channels: int = 2, stride: int = 4
    ) -> None:
        super().__init__()
        self.scores, self.count, self.stride = scores, channels, stride
        self.seen: list[Tensor] = []

    def scores_and_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(pixels)
        coarse = torch.nn.functional.avg_pool2d(pixels, self.stride)
        return self.scores(coarse), coarse.mean(dim=(2, 3))

    def class_names(self) -> list[str] | None:
        return None

    def channels(self) -> int:
        return self.count

    @classmethod
    def load(cls, folder: Path) -> Self:
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def brightness(pixels: Tensor) -> Tensor:
    """Class 1 by brightness, class 0 by darkness."""
    bright = pixels.mean(dim=1)
    return torch.stack([1 - bright, bright], dim=1)


def graph_of(
    network: Network, preprocessing: Preprocessing = PLAIN, ids: list[int] | None = None
) -> SegmentationGraph:
    channel_ids = ids if ids is not None else list(range(network.channels()))
    return SegmentationGraph(network, preprocessing, torch.tensor(channel_ids)).eval()


def white_from(column: int, height: int, width: int) -> Tensor:
    """(1, H, W, 3) uint8, black to the left of `column` and white from there on."""
    image = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    image[:, :, column:] = 255
    return image


sizes = st.tuples(st.integers(1, 2200), st.integers(1, 2200))
#: Sizes of cameras: neither side more than 8 times the other.
camera_sizes = sizes.filter(lambda hw: max(hw) <= 8 * min(hw))


@given(sizes)
def test_without_a_box_pixels_are_only_padded(image_hw: tuple[int, int]) -> None:
    fit = Geometry.fit(image_hw, None)
    assert fit.padded_hw == fit.network_hw
    for image, network in zip(image_hw, fit.network_hw, strict=True):
        assert network % 32 == 0
        assert image <= network < image + 32


@given(camera_sizes, st.tuples(st.integers(32, 1200), st.integers(32, 1200)))
def test_in_a_box_one_scale_holds_on_both_axes(
    image_hw: tuple[int, int], box_hw: tuple[int, int]
) -> None:
    fit = Geometry.fit(image_hw, box_hw)
    scale = min(b / i for b, i in zip(box_hw, image_hw, strict=True))
    for image, padded, network, box in zip(
        image_hw, fit.padded_hw, fit.network_hw, box_hw, strict=True
    ):
        assert padded >= image
        assert network % 32 == 0
        assert network < box + 32  # no larger than the box but for the divisor
        # The padded image at the one scale ends within a pixel of the network's input.
        assert abs(padded * scale - network) <= max(1, scale)


def test_literal_plans() -> None:
    assert Geometry.fit((360, 480), None) == Geometry((360, 480), (384, 480), (384, 480))
    assert Geometry.fit((1024, 2048), (512, 1024)) == Geometry(
        (1024, 2048), (1024, 2048), (512, 1024)
    )
    # 1920 x 1080 into 1024 x 512: 910 columns, padded to 928 at the scale of 512 / 1080.
    assert Geometry.fit((1080, 1920), (512, 1024)) == Geometry(
        (1080, 1920), (1080, 1958), (512, 928)
    )


@pytest.mark.parametrize('box', [None, (128, 256)])
@pytest.mark.parametrize('height_width', [(1, 1), (7, 333), (360, 480), (1080, 1920), (333, 2)])
def test_output_has_the_size_of_the_image(
    height_width: tuple[int, int], box: tuple[int, int] | None
) -> None:
    graph = graph_of(KnownNetwork(brightness), Preprocessing((0, 0, 0), (1, 1, 1), box))
    labels, confidence = graph(torch.full((1, *height_width, 3), 255, dtype=torch.uint8))
    assert labels.shape == confidence.shape == (1, *height_width)
    assert labels.dtype == confidence.dtype == torch.uint8
    assert (labels == 1).all()
    assert (confidence == 255).all()


@pytest.mark.parametrize('width', [128, 100, 97])
@pytest.mark.parametrize('column', [32, 40, 64])
def test_an_edge_stays_in_its_column(width: int, column: int) -> None:
    labels, _ = graph_of(KnownNetwork(brightness))(white_from(column, 40, width))
    assert (labels[0] == (torch.arange(width) >= column)).all()


@pytest.mark.parametrize('row', [32, 36, 64])
def test_an_edge_stays_in_its_row(row: int) -> None:
    image = white_from(row, 50, 99).transpose(1, 2).contiguous()
    labels, _ = graph_of(KnownNetwork(brightness))(image)
    assert (labels[0] == (torch.arange(99) >= row)[:, None]).all()


@pytest.mark.parametrize(
    ('size_hw', 'box_hw'),
    [
        ((256, 512), (128, 256)),
        ((250, 500), (128, 256)),
        ((270, 480), (128, 256)),
        ((301, 333), (128, 256)),
        ((60, 100), (128, 256)),
    ],
)
def test_an_edge_stays_where_it_is_through_scaling(
    size_hw: tuple[int, int], box_hw: tuple[int, int]
) -> None:
    """The first white column, averaged over all places of the edge, is that of the image.

    One edge may move by part of a network pixel, as its place falls on their grid; a shift would
    move them all to one side.
    """
    height, width = size_hw
    graph = graph_of(KnownNetwork(brightness, stride=1), Preprocessing((0,) * 3, (1,) * 3, box_hw))
    columns = range(width // 2 - 16, width // 2 + 16)
    moved = [
        int((graph(white_from(column, height, width))[0][0, height // 2] == 0).sum()) - column
        for column in columns
    ]
    assert abs(sum(moved) / len(moved)) < 0.25
    assert max(map(abs, moved)) <= 1


def test_pixels_are_normalised_as_rgb() -> None:
    network = KnownNetwork(brightness)
    preprocessing = Preprocessing(mean=(0.5, 0.25, 0.125), std=(0.5, 0.25, 2.0))
    image = torch.tensor([255, 51, 0], dtype=torch.uint8).expand(1, 32, 32, 3)
    graph_of(network, preprocessing)(image)
    red, green, blue = network.seen[0][0, :, 0, 0].tolist()
    assert red == pytest.approx((1 - 0.5) / 0.5, abs=1e-6)
    assert green == pytest.approx((0.2 - 0.25) / 0.25, abs=1e-6)
    assert blue == pytest.approx((0 - 0.125) / 2, abs=1e-6)


def test_padding_repeats_the_border_and_keeps_the_image_in_its_corner() -> None:
    network = KnownNetwork(brightness)
    image = torch.arange(33 * 40, dtype=torch.int64).remainder(251).to(torch.uint8)
    image = image.view(1, 33, 40, 1).expand(1, 33, 40, 3).contiguous()
    graph_of(network)(image)
    seen = network.seen[0][0, 0] * 255
    assert seen.shape == (64, 64)
    assert torch.allclose(seen[:33, :40], image[0, :, :, 0].float(), atol=1e-3)
    assert torch.allclose(seen[33:, :40], image[0, 32:, :, 0].float(), atol=1e-3)
    assert torch.allclose(seen[:33, 40:], image[0, :, 39:, 0].float(), atol=1e-3)


def test_aspect_ratio_is_kept_in_the_box() -> None:
    network = KnownNetwork(brightness)
    graph_of(network, Preprocessing((0,) * 3, (1,) * 3, (384, 384)))(white_from(9, 512, 1024))
    assert network.seen[0].shape == (1, 3, 192, 384)


def test_confidence_is_the_score_of_the_label() -> None:
    network = KnownNetwork(brightness)
    image = torch.zeros(1, 32, 96, 3, dtype=torch.uint8)
    image[:, :, 32:64] = 51  # 0.2 bright: dark with 0.8
    image[:, :, 64:] = 255
    labels, confidence = graph_of(network)(image)
    assert labels[0, 16, [8, 48, 88]].tolist() == [0, 0, 1]
    assert confidence[0, 16, [8, 48, 88]].tolist() == [255, 204, 255]


def test_scores_above_certain_still_decide() -> None:
    """Queries of a Mask2Former add up: of two classes beyond 1 the higher is the label."""
    network = KnownNetwork(lambda pixels: torch.cat([pixels[:, :1] + 1, pixels[:, :1] + 2], 1))
    labels, confidence = graph_of(network)(white_from(20, 32, 64))
    assert (labels == 1).all()
    assert (confidence == 255).all()


@pytest.mark.parametrize('ids', [[7, 3], [0, 255], [1, 0]])
def test_channels_become_published_ids(ids: list[int]) -> None:
    labels, _ = graph_of(KnownNetwork(brightness), ids=ids)(white_from(32, 32, 64))
    assert labels.dtype == torch.uint8
    assert labels[0, 0, [0, 63]].tolist() == ids


@settings(max_examples=10)
@given(st.permutations(range(5)))
def test_permuted_channels_with_permuted_ids_are_the_same(order: list[int]) -> None:
    def scores(pixels: Tensor) -> Tensor:
        places = torch.arange(5).view(1, 5, 1, 1) / 4
        return 1 - (pixels.mean(dim=1, keepdim=True) - places).abs()

    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 256, 1).repeat(1, 32, 1, 3)
    plain = graph_of(KnownNetwork(scores, channels=5))(image)[0]
    shuffled = KnownNetwork(lambda pixels: scores(pixels)[:, order], channels=5)
    assert len(plain.unique()) == 5
    assert torch.equal(plain, graph_of(shuffled, ids=list(order))(image)[0])


def test_a_batch_is_its_images() -> None:
    graph = graph_of(KnownNetwork(brightness))
    images = torch.randint(256, (2, 50, 70, 3), dtype=torch.uint8)
    together = graph(images)
    for i in range(2):
        alone = graph(images[i : i + 1])
        assert torch.equal(together[0][i], alone[0][0])
        assert torch.equal(together[1][i], alone[1][0])
    assert not torch.equal(together[0][0], together[0][1])
