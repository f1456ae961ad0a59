# SPDX-License-Identifier: Apache-2.0
"""Labelled images on disk, as channels of one label scheme."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.image_files import ImageRgb, decode_file, decode_label_file
from segmentation_node.labels import LabelScheme, Lut, load_scheme
from segmentation_node.metrics import LabelImage


@dataclass(frozen=True)
class Pair:
    """One image and its label image, both as files."""

    image: Path
    labels: Path


def pairs_of_folders(root: Path) -> list[Pair]:
    """Pairs of `root/images/NAME.*` and `root/labels/NAME.png`, the layout CamVid has here."""
    images = sorted(path for path in (root / 'images').glob('*') if path.is_file())
    return _checked(root, [Pair(path, root / 'labels' / f'{path.stem}.png') for path in images])


def pairs_of_cityscapes(root: Path, split: str) -> list[Pair]:
    """Pairs of the official Cityscapes layout below `root`, for one split."""
    images = sorted((root / 'leftImg8bit' / split).glob('*/*_leftImg8bit.png'))
    stems = [re.sub('_leftImg8bit$', '', path.stem) for path in images]
    truth = root / 'gtFine' / split
    return _checked(
        root,
        [
            Pair(path, truth / path.parent.name / f'{stem}_gtFine_labelIds.png')
            for path, stem in zip(images, stems, strict=True)
        ],
    )


def _checked(root: Path, pairs: list[Pair]) -> list[Pair]:
    if not pairs:
        raise DatasetError(f'no images below {root}; expected images/ or leftImg8bit/SPLIT/CITY/')
    unpaired = [pair for pair in pairs if not pair.labels.is_file()]
    if unpaired:
        raise DatasetError(
            f'{len(unpaired)} images have no labels, the first {unpaired[0].image} '
            f'(expected {unpaired[0].labels})'
        )
    return pairs


class LabelledImages:
    """Image and label pairs, held in memory as decoded.

    `channels_of_id` maps stored label ids to the channels that are learned, IGNORE elsewhere.
    """

    def __init__(self, pairs: list[Pair], source: LabelScheme, target: LabelScheme) -> None:
        self.channels_of_id: Lut = target.channels_from(source)
        self.names = [pair.image.stem for pair in pairs]
        self._items = [_read(pair, source) for pair in tqdm(pairs, 'reading', unit='image')]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, H, W) uint8 RGB and (H, W) uint8 channels."""
        image_rgb, ids = self._items[index]
        channels = self.channels_of_id[ids]
        return torch.from_numpy(image_rgb).permute(2, 0, 1), torch.from_numpy(channels)

    def channel_counts(self) -> npt.NDArray[np.int64]:
        """Pixels of each channel over the whole set, (256,) int64."""
        counts = (
            np.bincount(self.channels_of_id[ids].ravel(), minlength=256) for _, ids in self._items
        )
        return np.asarray(np.sum(list(counts), axis=0), np.int64)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))


def _read(pair: Pair, source: LabelScheme) -> tuple[ImageRgb, LabelImage]:
    image_rgb = _decoded(pair.image, decode_file)
    ids = _decoded(pair.labels, decode_label_file)
    if ids.shape != image_rgb.shape[:2]:
        raise DatasetError(
            f'{pair.labels} is {ids.shape} but its image {image_rgb.shape[:2]}; both must be of '
            f'one size'
        )
    unknown = source.unknown_ids(ids)
    if unknown:
        raise DatasetError(
            f'{pair.labels} has ids {unknown} that label scheme {source.name} lacks; correct '
            f'"scheme" or the labels'
        )
    return image_rgb, ids


def _decoded(
    path: Path, decode: Callable[[bytes], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    try:
        return decode(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(f'{path} cannot be read: {error}') from error


def open_dataset(description: dict[str, Any], target: LabelScheme) -> LabelledImages:
    """Open `{layout: folders|cityscapes, root:, scheme:, split:}` as channels of `target`.

    `split` is of Cityscapes only, train unless given.
    """
    missing = ', '.join(sorted({'layout', 'root', 'scheme'} - set(description)))
    if missing:
        raise DatasetError(f'data set {description} lacks {missing}')
    root = Path(description['root'])
    match description['layout']:
        case 'folders':
            pairs = pairs_of_folders(root)
        case 'cityscapes':
            pairs = pairs_of_cityscapes(root, description.get('split', 'train'))
        case other:
            raise DatasetError(f'unknown layout {other!r}; there are folders and cityscapes')
    return LabelledImages(pairs, load_scheme(description['scheme']), target)
