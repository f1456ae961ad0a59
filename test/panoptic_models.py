# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the layout of the hub's Cityscapes models of Mask2Former, but tiny."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import spread_queries

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import load_scheme

SCHEME = load_scheme('cityscapes19')
COUNTABLE = tuple(c for c in SCHEME.learned if c.countable)
#: Names of the folders, as of the repositories on the hub.
PANOPTIC = 'mask2former-swin-tiny-cityscapes-panoptic'
INSTANCE = 'mask2former-swin-tiny-cityscapes-instance'
#: Amount by which logits of masks are lowered.
LOWERED = 6.0
PROCESSOR = {
    'do_normalize': True, 'do_rescale': True, 'do_resize': True, 'ignore_index': 255,
    'image_mean': [0.485, 0.456, 0.406], 'image_std': [0.229, 0.224, 0.225],
    'image_processor_type': 'Mask2FormerImageProcessor', 'rescale_factor': 1 / 255,
    'size': {'height': 384, 'width': 384}, 'size_divisor': 32,
}  # fmt: skip


def write_hub_model(folder: Path) -> Path:
    """Write config.json, preprocessor_config.json and weights; the name of the folder tells which.

    A panoptic model has the 19 classes of a semantic one, a model of instances the 8 countable
    ones.
    """
    from transformers import AutoConfig, Mask2FormerConfig

    from segmentation_node.networks.mask2former import Mask2Former

    classes = COUNTABLE if folder.name == INSTANCE else SCHEME.learned
    torch.manual_seed(3)
    network = Mask2Former(
        Mask2FormerConfig(
            backbone_config=AutoConfig.for_model(
                'swin', embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=7,
                out_features=['stage1', 'stage2', 'stage3', 'stage4'],
            ),
            feature_size=64, mask_feature_size=64, hidden_dim=64, num_attention_heads=2,
            encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, dim_feedforward=32,
            num_queries=24,
            id2label={i: c.name for i, c in enumerate(classes)},
        )
    )  # fmt: skip
    spread_queries(network)
    _sharpen(network)
    folder.mkdir(parents=True)
    network.save(folder)
    (folder / 'preprocessor_config.json').write_text(json.dumps(PROCESSOR), encoding='utf-8')
    return folder


def _sharpen(network: Any) -> None:
    """Make classes more certain and masks smaller, so that segments pass the usual thresholds."""
    model = network.model
    with torch.no_grad():
        for part in (model.class_predictor.weight, model.class_predictor.bias):
            part *= 3
        # A feature that is 1 everywhere lowers all logits of masks.
        projection = model.model.pixel_level_module.decoder.mask_projection
        projection.weight[0], projection.bias[0] = 0, 1
        embedder = 'decoder.mask_predictor.mask_embedder.2.0.{}'
        transformer = model.model.transformer_module
        transformer.get_parameter(embedder.format('weight'))[0] = 0
        transformer.get_parameter(embedder.format('bias'))[0] = -LOWERED


def picture(seed: int, height: int = 384, width: int = 384) -> UInt8Array:
    """Return a picture with areas of many pixels, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 32, width // 32, 3), np.uint8)
    pixels = torch.from_numpy(coarse).permute(2, 0, 1)[None].float()
    smooth: Any = torch.nn.functional.interpolate(pixels, (height, width), mode='bicubic')
    return np.ascontiguousarray(smooth[0].clamp(0, 255).byte().permute(1, 2, 0).numpy())
