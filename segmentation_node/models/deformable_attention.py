# SPDX-License-Identifier: Apache-2.0
"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021) by look-up.

Each pixel reads a few points around it in maps of several sizes. The library samples the points
with grid_sample, channel by channel, and keeps all samples before it adds them up. Here the maps
lie in one atlas, a table with a row of values for each of its places and heads, and what a pixel
reads is a weighted sum of rows: contiguous reads, and no sample is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor

Size = tuple[int, int]

#: Zeros around each map of the atlas; a point outside of its map is moved no farther than there.
_MARGIN = 2


def attend(attention: Any, pixels: Tensor, positions: Tensor, atlas: 'Atlas') -> Tensor:
    """What the library's module `attention` makes of N pixels, (B, N, C), at their positions."""
    queries = pixels + positions
    points = (*pixels.shape[:2], attention.n_heads, attention.n_levels, attention.n_points)
    # Full precision from here on: a place is more than bfloat16 can tell.
    right, down = (
        F.linear(queries, weight, bias).float().view(points)
        for weight, bias in zip(
            attention.sampling_offsets.weight.unflatten(0, (-1, 2)).unbind(1),
            attention.sampling_offsets.bias.unflatten(0, (-1, 2)).unbind(1),
            strict=True,
        )
    )
    logits = attention.attention_weights(queries).float().view(*points[:3], -1)
    # A softmax whose sum divides what was read, which is less: OpenVINO's own takes three times
    # as long for so few values in a row.
    shares = (logits - logits.amax(-1, keepdim=True)).exp()
    values = attention.value_proj(pixels)
    read = atlas.read(values, right, down, shares.view(points)).view(*points[:3], -1)
    read = read / shares.sum(-1, keepdim=True)
    return attention.output_proj(read.flatten(2).to(values.dtype))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Axis:
    """Rows or columns of the atlas.

    A pixel without offset lies a whole number of places from the start of the axis, and a rest.
    Only integers are added to the former: a runtime that computes in bfloat16, which has steps of
    half a pixel at column 100, then moves no point by more than the rounding of its offset.
    """

    place: Tensor  # (1, N, heads * L * P) int32, where a pixel lies in each map
    rest: Tensor  # (1, N, 1, L, 1) float from 0 to 1
    first: Tensor  # (heads * L * P,) int32, of the margin before a map
    last: Tensor  # (heads * L * P,) int32, the last but one of the margin behind it

    @classmethod
    def of(
        cls, centres: Tensor, sides: Sequence[int], starts: Sequence[int], heads: int, points: int
    ) -> '_Axis':
        """Lay maps of some sides at some starts; centres (N, L) are in pixels of each map."""
        first = _constants(starts, torch.int32, centres.device)
        last = first + _constants(sides, torch.int32, centres.device) + _MARGIN
        whole = centres.floor()

        def repeated(of_maps: Tensor) -> Tensor:
            """(..., heads * L * P): OpenVINO adds integers fast where rows need no broadcast."""
            of_points = of_maps[..., None, :, None].expand(
                *of_maps.shape[:-1], heads, len(sides), points
            )
            return of_points.flatten(-3)

        rest = (centres - whole)[None, :, None, :, None]
        return cls(
            repeated(whole.int() + first + _MARGIN)[None], rest, repeated(first), repeated(last)
        )

    def split(self, offset: Tensor) -> tuple[Tensor, Tensor]:
        """The place before a point, int32, and the share of the place after it, from 0 to 1.

        Of offsets (B, N, heads, L, P) in pixels of map l; both results are (B, N, heads * L * P).
        """
        offset = (offset + self.rest).flatten(2)
        whole = offset.floor()
        place = (self.place + whole.int()).maximum(self.first).minimum(self.last)
        return place, offset - whole


class Atlas:
    """L maps, one below the other, and where each of their N pixels lies in all of them.

    Args:
        sizes: (height, width) of the maps.
        heads: how many share the channels of a pixel.
        points: how many a head reads in each map.
        device: where the maps are.
    """

    def __init__(
        self, sizes: Sequence[Size], heads: int, points: int, device: torch.device
    ) -> None:
        self._sizes, self._heads = sizes, heads
        heights, widths = zip(*sizes, strict=True)
        self._width = max(widths) + 2 * _MARGIN
        starts = [sum(heights[:i]) + 2 * _MARGIN * i for i in range(len(sizes))]
        self._places = (starts[-1] + heights[-1] + 2 * _MARGIN) * self._width
        self._rows = _Axis.of(_centres(sizes, 0, device), heights, starts, heads, points)
        self._columns = _Axis.of(
            _centres(sizes, 1, device), widths, [0] * len(sizes), heads, points
        )

    def read(self, values: Tensor, right: Tensor, down: Tensor, shares: Tensor) -> Tensor:
        """Add up points between pixels, bilinear, with zeros all around each map.

        Args:
            values: (B, N, C) float of the pixels; a head has C / heads of them.
            right: (B, N, heads, L, P) float, from a pixel to a point, in pixels of map l.
            down: likewise.
            shares: likewise, what each point counts.

        Returns:
            (B, N, C) in the type of `values`.
        """
        per_head = right.shape[3] * right.shape[4]
        (row, below), (column, beyond) = self._rows.split(down), self._columns.split(right)
        beside, under = self._heads, self._heads * self._width  # entries from place to place
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
        """(B, 1, heads * per_head) int32: where the table begins for an image and a head."""
        image = torch.arange(values.shape[0], dtype=torch.int32, device=values.device)
        head = torch.arange(self._heads, dtype=torch.int32, device=values.device)
        of_points = head[:, None].expand(-1, per_head).flatten()
        first: Tensor = image[:, None, None] * (self._places * self._heads) + of_points
        return first

    def _table(self, values: Tensor) -> Tensor:
        """(B * places * heads, C / heads), the values in their places."""
        maps = []
        for (h, w), part in zip(
            self._sizes, values.split([h * w for h, w in self._sizes], 1), strict=True
        ):
            right = self._width - w - _MARGIN
            placed = part.reshape(part.shape[0], h, w, part.shape[2])
            maps.append(F.pad(placed, (0, 0, _MARGIN, right, _MARGIN, _MARGIN)))
        return torch.cat(maps, 1).view(-1, values.shape[2] // self._heads)


def _weighted_sums(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(S, D): each a sum of K rows of the table (R, D), by number and weight, (S, K) both."""
    if not torch.onnx.is_in_onnx_export():
        return F.embedding_bag(rows, table, per_sample_weights=weights, mode='sum')
    # ONNX has no such operator, and an exporter would make a loop over S of it. Gathered rows are
    # half a gigabyte for an image of 1024 x 512: a quarter at a time.
    quarters = zip(rows.chunk(4, 1), weights.chunk(4, 1), strict=True)
    sums = [weight[:, None] @ F.embedding(row, table) for row, weight in quarters]
    return torch.stack(sums).sum(0).squeeze(1)


def _centres(sizes: Sequence[Size], axis: int, device: torch.device) -> Tensor:
    """(N, L) float: where the pixels of all maps lie along an axis, in pixels of each map."""
    sides = _constants([size[axis] for size in sizes], torch.float32, device)
    centres = []
    for size, side in zip(sizes, sides, strict=True):
        along = (torch.arange(size[axis], device=device) + 0.5)[:, None] * sides / side - 0.5
        centres.append(along.unsqueeze(1 - axis).expand(*size, -1).flatten(0, 1))
    return torch.cat(centres)


def _constants(values: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(N,), made on the device: a copy from the host could not be part of a CUDA graph."""
    return torch.cat([torch.full((1,), value, dtype=dtype, device=device) for value in values])
