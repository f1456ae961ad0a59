# SPDX-License-Identifier: Apache-2.0
"""Output of the last layer of Mask2Former, computed more efficiently with the library's modules.

The results are equal up to rounding, at a fraction of the arithmetic and memory:

- Masked attention needs masks at strides 32, 16 and 8. Interpolation is linear, and so is the
  product of queries and features, so the features are interpolated once instead of the masks of
  every layer.
- The projection of the features is linear, too; it is applied to the few queries instead.
- Classes, and masks at stride 4, are computed for the last layer only, because only its output is
  used.
- Deformable attention is a table look-up, see `deformable_attention`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the field's own name for it)
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from segmentation_node.networks.deformable_attention import Size, StackedMaps, attend


def last_layer(
    model: Mask2FormerForUniversalSegmentation, pixels: Tensor
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """Compute class logits (B, Q, C + 1) and mask logits (B, Q, H / 4, W / 4), without dropout.

    The backbone's maps, finest first, are returned as well.

    Args:
        model: model of the library; its weights are used unchanged.
        pixels: (B, 3, H, W) float, normalized RGB, both sides multiples of 32.
    """
    whole: Any = model  # the library has no type annotations for its parts
    backbone = whole.model.pixel_level_module.encoder
    pixel_decoder = whole.model.pixel_level_module.decoder
    transformer = whole.model.transformer_module
    of_backbone: Sequence[Tensor] = backbone(pixels).feature_maps
    maps, finest = _decode_pixels(pixel_decoder, of_backbone)

    def masks(queries: Tensor, features: Tensor) -> Tensor:
        return _masks(transformer.decoder, pixel_decoder.mask_projection, queries, features)

    levels = _levels(transformer, maps, finest)
    places = transformer.queries_embedder.weight  # (Q, D)
    queries = transformer.queries_features.weight.expand(pixels.shape[0], -1, -1)  # (B, Q, D)
    for index, layer in enumerate(transformer.decoder.layers):
        level = levels[index % len(levels)]
        inside = masks(queries, level.features) >= 0  # (B, Q, K)
        inside = inside | ~inside.any(-1, keepdim=True)  # an empty mask attends to all pixels
        queries = _decode_queries(layer, queries, places, level, inside)
    classes = whole.class_predictor(transformer.decoder.layernorm(queries))
    found = _as_map(masks(queries, finest.flatten(2)).transpose(1, 2), _size(finest))
    return classes, found, of_backbone


# --- pixel decoder


def _decode_pixels(decoder: Any, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Compute maps (B, D, h, w), from coarsest to stride 8, and features (B, D, H / 4, W / 4)."""
    pairs = zip(decoder.input_projections, features[::-1], strict=False)  # without the finest
    maps = [project(feature) for project, feature in pairs]
    sizes = [_size(each) for each in maps]
    attention = decoder.encoder.layers[0].self_attn
    atlas = StackedMaps(sizes, attention.n_heads, attention.n_points, maps[0].device)
    positions = torch.cat(
        [_positions(*each) for each in zip(sizes, decoder.level_embed, strict=True)]
    )
    pixels = torch.cat([_as_rows(each) for each in maps], 1)  # (B, N, D)
    for layer in decoder.encoder.layers:
        read = attend(layer.self_attn, pixels, positions, atlas)
        pixels = layer.self_attn_layer_norm(pixels + read)
        pixels = layer.final_layer_norm(pixels + _feed_forward(layer, pixels))
    parts = pixels.split([h * w for h, w in sizes], 1)
    maps = [_as_map(*each) for each in zip(parts, sizes, strict=True)]
    finest = maps[-1]
    for feature, lateral, output in zip(
        features[: decoder.num_fpn_levels][::-1],
        decoder.lateral_convolutions,
        decoder.output_convolutions,
        strict=True,
    ):
        beside = lateral(feature)
        finest = output(beside + _resized(finest, _size(beside)))
    return maps, finest


# --- transformer decoder


class _Level(NamedTuple):
    """Keys, values and features that queries attend to, in K pixels of one size."""

    keys: Tensor  # (B, K, D)
    values: Tensor  # (B, K, D)
    features: Tensor  # (B, D, K), used to compute masks


def _levels(transformer: Any, maps: Sequence[Tensor], finest: Tensor) -> list[_Level]:
    levels = []
    for each, project, of_level in zip(
        maps, transformer.input_projections, transformer.level_embed.weight, strict=True
    ):
        values = _as_rows(project(each)) + of_level
        keys = values + _positions(_size(each), torch.zeros_like(of_level))
        levels.append(_Level(keys, values, _resized(finest, _size(each)).flatten(2)))
    return levels


def _masks(decoder: Any, projection: Any, queries: Tensor, features: Tensor) -> Tensor:
    """Compute mask logits (B, Q, K) from features (B, D, K) before their projection."""
    embeddings = decoder.mask_predictor.mask_embedder(decoder.layernorm(queries))  # (B, Q, M)
    products: Tensor = embeddings @ projection.weight.flatten(1) @ features
    constants: Tensor = embeddings @ projection.bias
    return products + constants[..., None]


def _decode_queries(
    layer: Any, queries: Tensor, places: Tensor, level: _Level, inside: Tensor
) -> Tensor:
    """Apply one decoder layer to queries (B, Q, D); they attend to their masks and each other."""

    def masked_attention(queries: Tensor) -> Tensor:
        attention, inputs = layer.cross_attn, (queries + places, level.keys, level.values)
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        query, key, value = map(F.linear, inputs, weights, biases)
        read: Tensor = attention.out_proj(
            _attention(attention.num_heads, query, key, value, inside)
        )
        return read

    def self_attention(queries: Tensor) -> Tensor:
        attention, placed = layer.self_attn, queries + places
        query, key = attention.q_proj(placed), attention.k_proj(placed)
        value = attention.v_proj(queries)
        read: Tensor = attention.out_proj(_attention(attention.num_heads, query, key, value))
        return read

    def feed_forward(queries: Tensor) -> Tensor:
        return _feed_forward(layer, queries)

    for step, norm in (
        (masked_attention, layer.cross_attn_layer_norm),
        (self_attention, layer.self_attn_layer_norm),
        (feed_forward, layer.final_layer_norm),
    ):
        queries = (
            queries + step(norm(queries)) if layer.pre_norm else norm(queries + step(queries))
        )
    return queries


# --- common parts


def _attention(
    heads: int, queries: Tensor, keys: Tensor, values: Tensor, inside: Tensor | None = None
) -> Tensor:
    """Compute attention (B, Q, D) of queries to K values, restricted to `inside` (B, Q, K)."""
    queries, keys, values = (
        each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (queries, keys, values)
    )
    mask = None if inside is None else inside[:, None]
    read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    return read.transpose(1, 2).flatten(2)


def _feed_forward(layer: Any, inputs: Tensor) -> Tensor:
    return layer.fc2(layer.activation_fn(layer.fc1(inputs)))  # type: ignore[no-any-return]


def _positions(size: Size, of_level: Tensor) -> Tensor:
    """Return the sine embedding of rows and columns, (h * w, D), plus that of the level, (D,)."""
    rows, columns = (_waves(side, of_level.shape[0] // 2, of_level.device) for side in size)
    places = torch.cat([rows[:, None].expand(*size, -1), columns.expand(*size, -1)], -1)
    return places.flatten(0, 1) + of_level


def _waves(side: int, channels: int, device: torch.device) -> Tensor:
    """Return alternating sines and cosines of increasing wavelength, (side, channels) float."""
    steps = torch.arange(1, side + 1, device=device).float()
    places = steps / (steps[-1:] + 1e-6) * (2 * math.pi)
    lengths = torch.pow(10000, torch.arange(0, channels, 2, device=device) / channels)
    angles = places[:, None] / lengths
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def _resized(features: Tensor, size: Size) -> Tensor:
    return F.interpolate(features, size, mode='bilinear', align_corners=False)


def _as_rows(features: Tensor) -> Tensor:
    """Reshape (B, D, h, w) to (B, h * w, D)."""
    return features.flatten(2).transpose(1, 2)


def _as_map(rows: Tensor, size: Size) -> Tensor:
    """Reshape (B, h * w, D) to (B, D, h, w)."""
    return rows.transpose(1, 2).reshape(rows.shape[0], rows.shape[2], *size)


def _size(features: Tensor) -> Size:
    return features.shape[-2], features.shape[-1]
