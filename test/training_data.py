# SPDX-License-Identifier: Apache-2.0
"""Small data sets on disk and experiments with them, for the tests of training."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.images.files import encode_png

Image = UInt8Array

#: CamVid ids and their colors in the images: sky, building, road, car, unlabeled.
COLORS = {0: (90, 150, 240), 1: (120, 40, 30), 3: (70, 70, 75), 8: (220, 210, 40), 11: (0, 0, 0)}

DEEPLAB: dict[str, Any] = {
    'encoder_name': 'tu-mobilenetv3_small_100', 'decoder_channels': 16,
}  # fmt: skip
UNET: dict[str, Any] = {
    'encoder_name': 'tu-efficientnet_lite0', 'decoder_channels': [16, 8, 8, 8, 8],
}  # fmt: skip
# At least 16 channels: with fewer, oneDNN's gradient of strided 1 x 1 convolutions writes past its
# workspace if there are several threads (uxlfoundation/oneDNN issue 6035).
MASK2FORMER: dict[str, Any] = {
    'backbone_config': {
        'model_type': 'resnet', 'layer_type': 'basic', 'depths': [1, 1, 1, 1],
        'hidden_sizes': [16, 16, 16, 16], 'embedding_size': 16,
        'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
    },
    'feature_size': 32, 'mask_feature_size': 32, 'hidden_dim': 32, 'num_attention_heads': 2,
    'encoder_layers': 1, 'encoder_feedforward_dim': 32, 'decoder_layers': 2,
    'dim_feedforward': 32, 'num_queries': 12,
}  # fmt: skip
TIMM_MASK2FORMER: dict[str, Any] = {
    **MASK2FORMER,
    'backbone_config': {
        'model_type': 'timm_backbone', 'backbone': 'efficientnet_lite0',
        'out_indices': [1, 2, 3, 4],
    },
}  # fmt: skip


def street(seed: int, height: int = 64, width: int = 96) -> tuple[Image, Image]:
    """Draw sky, houses and a road with a car: (H, W, 3) uint8 RGB and (H, W) CamVid ids."""
    rng = np.random.default_rng(seed)
    ids = np.full((height, width), 3, np.uint8)
    ids[: height // 4] = 0
    ids[height // 4 : height // 2] = 1
    left = int(rng.integers(0, width - 30))
    ids[height // 2 + 4 : height - 8, left : left + 24] = 8
    ids[-3:] = 11
    lut = np.zeros((256, 3))
    for label, color in COLORS.items():
        lut[label] = color
    noise = rng.normal(0, 8, (height, width, 3))
    return np.clip(lut[ids] + noise, 0, 255).astype(np.uint8), ids


def write_folders(root: Path, split: str, count: int, first: int = 0) -> Path:
    """Write a data set in the layout `folders`; returns the folder of the split."""
    _write(root / split / 'images', root / split / 'labels', count, first)
    return root / split


def write_annot(root: Path, split: str, count: int) -> None:
    """Write a data set in the layout `annot`."""
    _write(root / split, root / f'{split}annot', count, 0)


def _write(images: Path, labels: Path, count: int, first: int) -> None:
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for seed in range(first, first + count):
        image, ids = street(seed)
        (images / f'{seed:03}.png').write_bytes(encode_png(image))
        (labels / f'{seed:03}.png').write_bytes(encode_png(ids))


def write_cityscapes(
    root: Path, split: str, count: int, city: str = 'testville', height: int = 64, width: int = 96
) -> Path:
    """Write a data set in the layout `cityscapes`; all of it is road, with a void border."""
    images, truth = root / 'leftImg8bit' / split / city, root / 'gtFine' / split / city
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    for seed in range(count):
        image, _ = street(seed, height, width)
        ids = np.full(image.shape[:2], 7, np.uint8)
        ids[:2] = 0
        stem = f'{city}_{seed:06}_000019'
        (images / f'{stem}_leftImg8bit.png').write_bytes(encode_png(image))
        (truth / f'{stem}_gtFine_labelIds.png').write_bytes(encode_png(ids))
        (truth / f'{stem}_gtFine_color.png').write_bytes(encode_png(image))
        outlines = {'imgHeight': height, 'imgWidth': width, 'objects': [road(height, width)]}
        (truth / f'{stem}_gtFine_polygons.json').write_text(json.dumps(outlines), encoding='utf-8')
    return root


def write_instances(root: Path, split: str, count: int, city: str = 'cartown') -> Path:
    """Write streets with two cars each, in the layout `cityscapes` with instance images.

    The cars of every second image are a group at its left, and an instance.
    """
    images, truth = root / 'leftImg8bit' / split / city, root / 'gtFine' / split / city
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    for seed in range(count):
        image, instances = cars(seed)
        stem = f'{city}_{seed:06}_000019'
        (images / f'{stem}_leftImg8bit.png').write_bytes(encode_png(image))
        (truth / f'{stem}_gtFine_instanceIds.png').write_bytes(encode_png(instances))
        ids = np.where(instances < 1000, instances, instances // 1000).astype(np.uint8)
        (truth / f'{stem}_gtFine_labelIds.png').write_bytes(encode_png(ids))
    return root


def cars(seed: int, height: int = 64, width: int = 96) -> tuple[Image, UInt16Array]:
    """Draw sky, houses and a road with two cars: RGB, and the values of an instance image."""
    image, ids = street(seed, height, width)
    instances = np.choose(np.minimum(ids, 4), [23, 11, 7, 7, 7]).astype(np.uint16)
    instances[-3:] = 0
    image[ids == 8] = image[height // 2 + 1, 0]
    for number, left in ((1, 8), (2, width // 2 + 8)):
        there = np.s_[height // 2 + 4 : height - 8, left : left + 24]
        instances[there] = 26 if seed % 2 and number == 1 else 26000 + number
        image[there] = COLORS[8]
    return image, instances


def road(height: int, width: int) -> dict[str, Any]:
    """Return the polygon of the road in the images of `write_cityscapes`."""
    right, bottom = width - 1, height - 1
    return {'label': 'road', 'polygon': [[0, 2], [right, 2], [right, bottom], [0, bottom]]}


def fields(root: Path, **changes: Any) -> dict[str, Any]:
    """Return the fields of a small experiment with the data set `streets` in `root`."""
    return {
        'family': 'deeplabv3plus',
        'label_scheme': 'cityscapes8',
        'network': DEEPLAB,
        'train': [{'set': 'streets', 'split': 'train', 'share': 2}],
        'val': {'streets val': {'set': 'streets', 'split': 'val'}},
        'datasets': {
            'streets': {
                'layout': 'folders', 'root': 'streets', 'scheme': 'camvid11',
                'source': 'Small streets.',
            },
            'towns': {'layout': 'cityscapes', 'root': 'towns', 'scheme': 'cityscapes34'},
        },
        'data_root': str(root),
        'cache': str(root / 'prepared'),
        'crop_hw': [32, 64],
        'epochs': 2,
        'points': 64,
        'precision': 'fp32',
        'accelerator': 'cpu',
        'workers': 0,
        'notes': 'A run for a test.',
    } | changes  # fmt: skip


def write_experiment(path: Path, root: Path, **changes: Any) -> Path:
    """Write an experiment file."""
    path.write_text(yaml.safe_dump(fields(root, **changes)), encoding='utf-8')
    return path
