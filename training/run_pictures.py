# SPDX-License-Identifier: Apache-2.0
"""Pictures of a run: its predictions for fixed validation images, and its curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_png
from segmentation_node.labels import IGNORE, LabelScheme
from segmentation_node.plotting import Series, draw_curve, new_figure, set_ticks, to_png

#: Width of a picture in the grid.
TILE = 320


def draw_channels(channels: UInt8Array, scheme: LabelScheme) -> UInt8Array:
    """Color (H, W) channels by the scheme, (H, W, 3) uint8 RGB; IGNORE is black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(scheme.channel_ids)] = scheme.palette[scheme.channel_ids]
    colors[IGNORE] = 0
    return colors[channels]


def draw_grid(columns: Sequence[Sequence[UInt8Array]]) -> UInt8Array:
    """Draw columns of pictures side by side, (H, W, 3) uint8 RGB.

    All pictures of a column have the same size.
    """
    tiles = []
    for column in columns:
        height, width = column[0].shape[:2]
        size_wh = (TILE, max(1, round(TILE * height / width)))
        tiles.append([cv2.resize(p, size_wh, interpolation=cv2.INTER_AREA) for p in column])
    tallest = max(tile.shape[0] for column in tiles for tile in column)
    padded = [
        [np.pad(t, ((0, tallest - t.shape[0] + 4), (0, 4), (0, 0))) for t in column]
        for column in tiles
    ]
    return np.concatenate([np.concatenate(column) for column in padded], axis=1)


def write_picture(path: Path, image_rgb: UInt8Array) -> None:
    """Write a PNG, creating its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(np.ascontiguousarray(image_rgb)))


def write_curves(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the curves of loss, scores and IoU by class over the epochs as one PNG."""
    by_class = sorted({key for row in history for key in row if key.startswith('IoU/')})
    panels = {
        'loss': ('train_loss', 'val_loss'),
        'score': ('mIoU', 'Dice', 'pixel_acc'),
        'IoU by class': by_class,
    }
    with new_figure(1040, 320) as figure:
        for axes, (title, keys) in zip(figure.subplots(1, 3), panels.items(), strict=True):
            for index, key in enumerate(keys):
                points = [(row['epoch'] + 1, row[key]) for row in history if key in row]
                draw_curve(axes, points, Series(index), key.rpartition('/')[2])
            axes.set(title=title, xlabel='epoch', ylim=None if title == 'loss' else (0, 1))
            set_ticks(axes.xaxis, whole=True)
            axes.legend(fontsize='small')
        picture = to_png(figure, 1.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture)
