# SPDX-License-Identifier: Apache-2.0
"""Labeled images on disk: pairs of image and label files, and their checks."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.images import cityscapes
from segmentation_node.images.files import IMAGE_SUFFIXES, decode_file, visible_files
from segmentation_node.images.label_files import decode_labels
from segmentation_node.labels import LabelScheme, load_scheme
from training.config import Experiment, Use


@dataclass(frozen=True)
class FilePair:
    """File of an image and file of its label image."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """Name of the image file without suffix."""
        return self.image.stem


@dataclass(frozen=True)
class LabeledFiles:
    """Pairs of one split of a data set; `source` is its origin."""

    pairs: tuple[FilePair, ...]
    scheme: LabelScheme
    source: str

    def read(self, pair: FilePair) -> tuple[UInt8Array, UInt8Array]:
        """Return the image (H, W, 3) uint8 RGB and its label ids (H, W) uint8.

        Raises:
            DatasetError: a file cannot be read, the sizes differ, or an id is not in the scheme
                of the data set.
        """
        image_rgb = _decoded(pair.image, decode_file)
        ids = _decoded(pair.labels, partial(decode_labels, scheme=self.scheme))
        if ids.shape != image_rgb.shape[:2]:
            raise DatasetError(
                f'{pair.labels} has size {ids.shape}, but its image {image_rgb.shape[:2]}; both '
                f'must have the same size'
            )
        return image_rgb, ids


def open_files(experiment: Experiment, use: Use) -> LabeledFiles:
    """Find the files of one use of a data set.

    Raises:
        DatasetError: no images, images without labels, patterns that match no image, or fewer
            images than requested.
        SettingError, SchemeError: the data set or its scheme is unknown.
    """
    dataset = experiment.dataset(use.set)
    if dataset.layout not in LAYOUTS:
        raise DatasetError(
            f'data set {use.set} has unknown layout {dataset.layout!r}; choose one of '
            f'{", ".join(LAYOUTS)}'
        )
    root = Path(dataset.root)
    pairs = _checked(root, use.split, LAYOUTS[dataset.layout](root, use.split))
    if use.only:
        pairs = _matching(pairs, use)
    if use.count is not None:
        if use.count > len(pairs):
            raise DatasetError(
                f'{use.set} {use.split} has {len(pairs)} images, fewer than the requested subset '
                f'of {use.count}; reduce "count"'
            )
        pairs = subset(pairs, use.count, use.seed)
    return LabeledFiles(tuple(pairs), load_scheme(dataset.scheme), dataset.source or str(root))


def _matching(pairs: list[FilePair], use: Use) -> list[FilePair]:
    """Select the pairs whose names match a pattern of `use.only`; every pattern must match one."""
    for pattern in use.only:
        if not any(fnmatchcase(pair.name, pattern) for pair in pairs):
            raise DatasetError(
                f'{use.set} {use.split} has no image that matches {pattern!r} in "only"; its '
                f'names are {pairs[0].name} to {pairs[-1].name}'
            )
    return [pair for pair in pairs if any(fnmatchcase(pair.name, p) for p in use.only)]


def subset(pairs: list[FilePair], count: int, seed: int) -> list[FilePair]:
    """Draw `count` pairs, determined by the seed, in their original order."""
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [pairs[i] for i in sorted(chosen)]


def _folders(root: Path, split: str) -> 'Found':
    return _of_one_stem(root / split / 'images', root / split / 'labels')


def _annot(root: Path, split: str) -> 'Found':
    return _of_one_stem(root / split, root / f'{split}annot')


def _of_one_stem(images: Path, labels: Path) -> 'Found':
    paths = visible_files(images, IMAGE_SUFFIXES) if images.is_dir() else []
    return [FilePair(p, labels / f'{p.stem}.png') for p in paths], labels.glob('[!.]*.png')


def _cityscapes(root: Path, split: str) -> 'Found':
    pictures, labels = (
        (cityscapes.folder(root, kind) / split).glob(f'[!.]*/[!.]*{cityscapes.ending(kind)}')
        for kind in (cityscapes.PICTURE, cityscapes.LABELS)
    )
    return [
        FilePair(p, cityscapes.companion(root, p, cityscapes.LABELS)) for p in pictures
    ], labels


#: Pairs of the images, and all existing label images.
Found: TypeAlias = tuple[list[FilePair], Iterable[Path]]

#: Functions that find the files of a split below a root, by layout: SPLIT/images and SPLIT/labels;
#: SPLIT and SPLITannot (the SegNet tutorial's CamVid); the official layout of Cityscapes.
LAYOUTS: Final[dict[str, Callable[[Path, str], Found]]] = {
    'folders': _folders,
    'annot': _annot,
    'cityscapes': _cityscapes,
}


def _checked(root: Path, split: str, found: Found) -> list[FilePair]:
    """Return the pairs sorted by image; raises DatasetError if an image or a label is alone."""
    pairs = sorted(found[0], key=lambda pair: pair.image)
    if not pairs:
        raise DatasetError(
            f'no images of split {split!r} below {root}; expected {split}/images/ and '
            f'{split}/labels/, {split}/ and {split}annot/, or leftImg8bit/{split}/CITY/, by its '
            f'layout'
        )
    unpaired = [pair for pair in pairs if not pair.labels.is_file()]
    if unpaired:
        raise DatasetError(
            f'{len(unpaired)} of {len(pairs)} images have no labels, the first '
            f'{unpaired[0].image} (expected {unpaired[0].labels}); add the labels, or remove the '
            f'images'
        )
    spare = sorted(set(found[1]) - {pair.labels for pair in pairs})
    if spare:
        raise DatasetError(
            f'{len(spare)} label images have no image, the first {spare[0]}; add the images, or '
            f'remove the label images'
        )
    return pairs


def _decoded(path: Path, decode: Callable[[bytes], UInt8Array]) -> UInt8Array:
    try:
        return decode(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(
            f'{path} cannot be read: {error}; replace it, or remove it with its image or labels'
        ) from error
