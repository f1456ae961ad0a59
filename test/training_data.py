# SPDX-License-Identifier: Apache-2.0
"""Small data sets on disk for the tests of training."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from segmentation_node.image_files import encode_png

Image = npt.NDArray[np.uint8]

#: CamVid ids and the colours that show them here: sky, building, road, car, unlabelled.
COLORS = {0: (90, 150, 240), 1: (120, 40, 30), 3: (70, 70, 75), 8: (220, 210, 40), 11: (0, 0, 0)}


def street(seed: int, height: int = 64, width: int = 96) -> tuple[Image, Image]:
    """A sky, a row of houses, a road with a car: (H, W, 3) uint8 RGB and (H, W) CamVid ids."""
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


def write_folders(root: Path, count: int) -> Path:
    """A data set in the layout `folders`."""
    for kind in ('images', 'labels'):
        (root / kind).mkdir(parents=True)
    for seed in range(count):
        image, ids = street(seed)
        (root / 'images' / f'{seed:03}.png').write_bytes(encode_png(image))
        (root / 'labels' / f'{seed:03}.png').write_bytes(encode_png(ids))
    return root


def write_cityscapes(root: Path, split: str, count: int) -> Path:
    """A data set in the layout `cityscapes`, everything annotated as road but a void border."""
    city = 'testville'
    images, truth = root / 'leftImg8bit' / split / city, root / 'gtFine' / split / city
    images.mkdir(parents=True)
    truth.mkdir(parents=True)
    for seed in range(count):
        image, _ = street(seed)
        ids = np.full(image.shape[:2], 7, np.uint8)
        ids[:2] = 0
        stem = f'{city}_{seed:06}_000019'
        (images / f'{stem}_leftImg8bit.png').write_bytes(encode_png(image))
        (truth / f'{stem}_gtFine_labelIds.png').write_bytes(encode_png(ids))
        (truth / f'{stem}_gtFine_color.png').write_bytes(encode_png(image))
    return root
