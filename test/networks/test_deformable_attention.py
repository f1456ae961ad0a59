# SPDX-License-Identifier: Apache-2.0
"""Deformable attention by look-up, by hand and against the library's."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention as LibraryAttention,
)

from segmentation_node.networks.deformable_attention import Size, StackedMaps, attend

CPU = torch.device('cpu')


def read_one(right: float, down: float, pixel: int = 0) -> float:
    """Return the value that a pixel of [[1, 2], [4, 8]] reads at an offset."""
    values = torch.tensor([1.0, 2, 4, 8]).view(1, 4, 1)
    offsets = torch.zeros(2, 1, 4, 1, 1, 1)
    offsets[:, 0, pixel] = torch.tensor([right, down]).view(2, 1, 1, 1)
    shares = torch.ones(1, 4, 1, 1, 1)
    read = StackedMaps([(2, 2)], 1, 1, CPU).read(values, offsets[0], offsets[1], shares)
    return float(read[0, pixel, 0])


@pytest.mark.parametrize(
    ('right', 'down', 'value'),
    [
        (0, 0, 1),
        (1, 0, 2),
        (0, 1, 4),
        (1, 1, 8),
        (0.5, 0, 1.5),
        (0, 0.25, 1.75),
        (0.5, 0.5, 3.75),
        (-0.5, 0, 0.5),  # halfway to the zeros around the map
        (1.75, 1, 2),
        (0, -1, 0),
        (2, 0, 0),
        (0, 2, 0),
        (-7, 0.5, 0),
        (0, 1e6, 0),
        (1e30, -1e30, 0),  # beyond any integer
    ],
)
def test_a_point_between_four_pixels(right: float, down: float, value: float) -> None:
    assert read_one(right, down) == value


def test_offsets_count_from_the_pixel() -> None:
    assert read_one(-1, -1, pixel=3) == 1
    assert read_one(0, -0.5, pixel=3) == 5


def test_maps_of_other_sizes_are_read_at_the_same_place() -> None:
    """A pixel of the small map lies between two of the wide one, and the other way round."""
    values = torch.tensor([10.0, 1, 3]).view(1, 3, 1)
    shares = torch.tensor([[0.0, 1], [1, 0], [1, 0]]).view(1, 3, 1, 2, 1)
    still = torch.zeros(1, 3, 1, 2, 1)
    read = StackedMaps([(1, 1), (1, 2)], 1, 1, CPU).read(values, still, still, shares)
    assert read.flatten().tolist() == [2, 7.5, 7.5]


def library_attention(heads: int, levels: int, points: int) -> LibraryAttention:
    """With random offsets of several pixels."""
    attention = LibraryAttention(8 * heads, heads, levels, points).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


def as_library(
    attention: LibraryAttention, pixels: Tensor, positions: Tensor, sizes: list[Size]
) -> Tensor:
    places = torch.cat([
        torch.cartesian_prod((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w).flip(-1)
        for h, w in sizes
    ])  # fmt: skip
    references = places[None, :, None].expand(len(pixels), -1, len(sizes), -1)
    read: Tensor = attention(
        pixels, encoder_hidden_states=pixels, position_embeddings=positions,
        reference_points=references, spatial_shapes_list=sizes,
    )[0]  # fmt: skip
    return read


@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    heads=st.integers(1, 2),
    points=st.integers(1, 3),
    batch=st.integers(1, 2),
    seed=st.integers(0, 999),
)
@torch.inference_mode()
def test_attention_is_that_of_the_library(
    sizes: list[Size], heads: int, points: int, batch: int, seed: int
) -> None:
    torch.manual_seed(seed)
    attention = library_attention(heads, len(sizes), points)
    count = sum(h * w for h, w in sizes)
    pixels, positions = torch.randn(batch, count, 8 * heads), torch.randn(count, 8 * heads)
    read = attend(attention, pixels, positions, StackedMaps(sizes, heads, points, CPU))
    expected = as_library(attention, pixels, positions, sizes)
    assert torch.allclose(read, expected, atol=1e-4 * float(expected.abs().max()))


@torch.inference_mode()
def test_where_there_is_no_sum_of_rows_the_result_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    sizes = [(2, 3), (4, 6)]
    attention, atlas = library_attention(2, 2, 4), StackedMaps(sizes, 2, 4, CPU)
    pixels, positions = torch.randn(2, 30, 16), torch.randn(30, 16)
    read = attend(attention, pixels, positions, atlas)
    monkeypatch.setattr('torch.onnx.is_in_onnx_export', lambda: True)
    assert torch.allclose(attend(attention, pixels, positions, atlas), read, atol=1e-5)


class _Row(torch.nn.Module):
    """Each of `width` pixels reads a quarter of the way to the next one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = LibraryAttention(32, 1, 1, 1)
        self.atlas = StackedMaps([(1, width)], 1, 1, CPU)
        self.last = torch.nn.Linear(32, 32)  # what follows the last product is in full precision
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
        with torch.no_grad():
            self.attention.sampling_offsets.bias.copy_(torch.tensor([0.25, 0]))
            for layer in (self.attention.value_proj, self.attention.output_proj, self.last):
                layer.weight.copy_(torch.eye(32))

    def forward(self, pixels: Tensor) -> Tensor:
        read = attend(self.attention, pixels, torch.zeros(32), self.atlas)
        return self.last(read)  # type: ignore[no-any-return]


@torch.inference_mode()
def test_openvino_in_bfloat16_reads_where_it_should() -> None:
    """Beyond column 256 bfloat16 cannot tell one from the next; their numbers' bits can."""
    openvino = pytest.importorskip('openvino')
    if 'BF16' not in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        pytest.skip('this CPU does not compute in bfloat16')
    columns = torch.arange(512)
    bits = ((columns[:, None] >> torch.arange(32)) & 1).float()[None]  # (1, 512, 32)
    graph = openvino.convert_model(_Row(512), example_input=bits, input=list(bits.shape))
    hint = {'INFERENCE_PRECISION_HINT': 'bf16'}
    read = torch.tensor(openvino.Core().compile_model(graph, 'CPU', hint)(bits.numpy())[0])
    following = torch.nn.functional.pad(bits[:, 1:], (0, 0, 0, 1))
    assert torch.allclose(read, 0.75 * bits + 0.25 * following, atol=1e-2)
