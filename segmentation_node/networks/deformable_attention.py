# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021) by table look-up.

Each pixel reads a few points around it in feature maps of several sizes. The library samples the
points with grid_sample, channel by channel, and stores all samples before it adds them up. Here
all maps are stored in one atlas: a table with one row of values per place and head. A pixel reads
a weighted sum of rows, so reads are contiguous and no sample is stored.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor

Size = tuple[int, int]

#: Width of the zero margin around each map in the atlas; points outside a map are clamped to it.
_MARGIN = 2


def attend(attention: Any, pixels: Tensor, positions: Tensor, atlas: 'StackedMaps') -> Tensor:
    """Compute the library's module `attention` for N pixels, (B, N, C), at their positions."""
    queries = pixels + positions
    points = (*pixels.shape[:2], attention.n_heads, attention.n_levels, attention.n_points)
    # Full precision from here on: bfloat16 cannot represent the coordinates.
    right, down = (
        F.linear(queries, weight, bias).float().view(points)
        for weight, bias in zip(
            attention.sampling_offsets.weight.unflatten(0, (-1, 2)).unbind(1),
            attention.sampling_offsets.bias.unflatten(0, (-1, 2)).unbind(1),
            strict=True,
        )
    )
    logits = attention.attention_weights(queries).float().view(*points[:3], -1)
    # Softmax with the division applied to the result, which has fewer values. OpenVINO's softmax
    # takes three times as long on rows this short.
    shares = (logits - logits.amax(-1, keepdim=True)).exp()
    values = attention.value_proj(pixels)
    read = atlas.read(values, right, down, shares.view(points)).view(*points[:3], -1)
    read = read / shares.sum(-1, keepdim=True)
    return attention.output_proj(read.flatten(2).to(values.dtype))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of the atlas.

    The position of a pixel without offset is split into an integer place and a fraction. Only
    integers are added to the place, so a runtime that computes in bfloat16, which has steps of
    half a pixel at column 100, moves no point by more than the rounding of its offset.
    """

    place: Tensor  # (1, N, heads * L * P) int32, place of a pixel in each map
    rest: Tensor  # (1, N, 1, L, 1) float from 0 to 1, fraction of the position
    first: Tensor  # (heads * L * P,) int32, first place of the margin before a map
    last: Tensor  # (heads * L * P,) int32, last place but one of the margin after it

    @classmethod
    def of(
        cls, centers: Tensor, sides: Sequence[int], starts: Sequence[int], heads: int, points: int
    ) -> '_Axis':
        """Place maps of given sides at given starts; centers (N, L) are in pixels of each map."""
        first = _constants(starts, torch.int32, centers.device)
        last = first + _constants(sides, torch.int32, centers.device) + _MARGIN
        whole = centers.floor()

        def repeated(of_maps: Tensor) -> Tensor:
            """Expand to (..., heads * L * P): OpenVINO adds integers fast without broadcasting."""
            of_points = of_maps[..., None, :, None].expand(
                *of_maps.shape[:-1], heads, len(sides), points
            )
            return of_points.flatten(-3)

        rest = (centers - whole)[None, :, None, :, None]
        return cls(
            repeated(whole.int() + first + _MARGIN)[None], rest, repeated(first), repeated(last)
        )

    def split(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place before each point, int32, and the weight of the next one, from 0 to 1.

        Offsets are (B, N, heads, L, P) in pixels of map l; both results are (B, N, heads * L * P).
        """
        offset = (offset + self.rest).flatten(2)
        whole = offset.floor()
        place = (self.place + whole.int()).maximum(self.first).minimum(self.last)
        return place, offset - whole


class StackedMaps:
    """L maps stacked vertically, and the position of each of their N pixels in every map.

    Args:
        sizes: (height, width) of the maps.
        heads: number of heads that share the channels of a pixel.
        points: number of points that a head reads in each map.
        device: device of the maps.
    """

    def __init__(
        self, sizes: Sequence[Size], heads: int, points: int, device: torch.device
    ) -> None:
        self._sizes, self._heads = sizes, heads
        heights, widths = zip(*sizes, strict=True)
        self._width = max(widths) + 2 * _MARGIN
        starts = [sum(heights[:i]) + 2 * _MARGIN * i for i in range(len(sizes))]
        self._places = (starts[-1] + heights[-1] + 2 * _MARGIN) * self._width
        self._rows = _Axis.of(_centers(sizes, 0, device), heights, starts, heads, points)
        self._columns = _Axis.of(
            _centers(sizes, 1, device), widths, [0] * len(sizes), heads, points
        )

    def read(self, values: Tensor, right: Tensor, down: Tensor, shares: Tensor) -> Tensor:
        """Sum up points between pixels, interpolated bilinearly, with zeros around each map.

        Args:
            values: (B, N, C) float values of the pixels; each head has C / heads channels.
            right: (B, N, heads, L, P) float, offset from a pixel to a point, in pixels of map l.
            down: likewise, downward.
            shares: likewise, weight of each point.

        Returns:
            (B, N, C) in the dtype of `values`.
        """
        per_head = right.shape[3] * right.shape[4]
        (row, below), (column, beyond) = self._rows.split(down), self._columns.split(right)
        beside, under = self._heads, self._heads * self._width  # distance to the next place
        entry = (row * under + (column * beside + self._first_entries(values, per_head))).view(
            -1, per_head
        )
        entries = torch.cat([entry, entry + beside, entry + under, entry + (under + beside)], -1)

        shares = shares.flatten(2)
        upper, lower = shares * (1 - below), shares * below
        weights = (upper * (1 - beyond), upper * beyond, lower * (1 - beyond), lower * beyond)
        weight = torch.cat([each.view(-1, per_head) for each in weights], -1)
        return _weighted_sums(self._table(values), entries, weight.to(values.dtype)).view(
            values.shape
        )

    def _first_entries(self, values: Tensor, per_head: int) -> Tensor:
        """Return the first table row of each image and head, (B, 1, heads * per_head) int32."""
        image = torch.arange(values.shape[0], dtype=torch.int32, device=values.device)
        head = torch.arange(self._heads, dtype=torch.int32, device=values.device)
        of_points = head[:, None].expand(-1, per_head).flatten()
        first: Tensor = image[:, None, None] * (self._places * self._heads) + of_points
        return first

    def _table(self, values: Tensor) -> Tensor:
        """Arrange the values in the atlas, (B * places * heads, C / heads)."""
        maps = []
        for (h, w), part in zip(
            self._sizes, values.split([h * w for h, w in self._sizes], 1), strict=True
        ):
            right = self._width - w - _MARGIN
            placed = part.reshape(part.shape[0], h, w, part.shape[2])
            maps.append(F.pad(placed, (0, 0, _MARGIN, right, _MARGIN, _MARGIN)))
        return torch.cat(maps, 1).view(-1, values.shape[2] // self._heads)


def _weighted_sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """Return S weighted sums (S, D) of K rows each of a table (R, D).

    `rows` holds row numbers and `weights` their weights; both are (S, K).
    """
    if not torch.onnx.is_in_onnx_export():
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode='sum')
    # ONNX has no such operator, and the exporter would emit a loop over S. The gathered rows take
    # half a gigabyte for an image of 1024 x 512, so they are processed in quarters.
    quarters = zip(rows.chunk(4, 1), weights.chunk(4, 1), strict=True)
    sums = [weight[:, None] @ F.embedding(row, table) for row, weight in quarters]
    return torch.stack(sums).sum(0).squeeze(1)


def _centers(sizes: Sequence[Size], axis: int, device: torch.device) -> Tensor:
    """Return pixel centers of all maps along an axis, (N, L) float, in pixels of each map."""
    sides = _constants([size[axis] for size in sizes], torch.float32, device)
    centers = []
    for size, side in zip(sizes, sides, strict=True):
        along = (torch.arange(size[axis], device=device) + 0.5)[:, None] * sides / side - 0.5
        centers.append(along.unsqueeze(1 - axis).expand(*size, -1).flatten(0, 1))
    return torch.cat(centers)


def _constants(values: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Create (N,) on the device; a copy from the host could not be part of a CUDA graph."""
    return torch.cat([torch.full((1,), value, dtype=dtype, device=device) for value in values])
