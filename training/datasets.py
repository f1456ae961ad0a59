# SPDX-License-Identifier: Apache-2.0
"""Labelled images on disk: which files belong together, and what is wrong with them."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.images.files import IMAGE_SUFFIXES, ImageRgb, decode_file, visible_files
from segmentation_node.images.label_files import decode_labels
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.metrics import LabelImage
from training.config import Experiment, Use


@dataclass(frozen=True)
class Pair:
    """One image and its label image, both as files."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """The image's own name."""
        return self.image.stem


@dataclass(frozen=True)
class LabelledFiles:
    """The pairs of one split of one data set; `source` says where it comes from."""

    pairs: tuple[Pair, ...]
    scheme: LabelScheme
    source: str

    def read(self, pair: Pair) -> tuple[ImageRgb, LabelImage]:
        """Image (H, W, 3) uint8 RGB and label ids (H, W) uint8; raises DatasetError.

        The error names the file that cannot be read, is of another size than its partner, or has
        ids that the data set's scheme does not know.
        """
        image_rgb = _decoded(pair.image, decode_file)
        ids = _decoded(pair.labels, partial(decode_labels, scheme=self.scheme))
        if ids.shape != image_rgb.shape[:2]:
            raise DatasetError(
                f'{pair.labels} is {ids.shape} but its image {image_rgb.shape[:2]}; both must be '
                f'of one size'
            )
        return image_rgb, ids


def open_files(experiment: Experiment, use: Use) -> LabelledFiles:
    """The files that an experiment means by one use of a data set.

    Raises:
        DatasetError: no images, images without labels, or fewer than were asked for.
        SettingError, SchemeError: the data set or its scheme is not known.
    """
    dataset = experiment.dataset(use.set)
    if dataset.layout not in LAYOUTS:
        raise DatasetError(
            f'data set {use.set} has layout {dataset.layout!r}; there are {", ".join(LAYOUTS)}'
        )
    root = Path(dataset.root)
    pairs = _checked(root, use.split, LAYOUTS[dataset.layout](root, use.split))
    if use.count is not None:
        if use.count > len(pairs):
            raise DatasetError(
                f'a subset of {use.count} images was asked for of {use.set} {use.split}, there '
                f'are {len(pairs)}; ask for no more'
            )
        pairs = subset(pairs, use.count, use.seed)
    return LabelledFiles(tuple(pairs), load_scheme(dataset.scheme), dataset.source or str(root))


def subset(pairs: list[Pair], count: int, seed: int) -> list[Pair]:
    """`count` of the pairs, the same ones for the same seed, in the order of their names."""
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [pairs[i] for i in sorted(chosen)]


def _folders(root: Path, split: str) -> 'Found':
    return _of_one_stem(root / split / 'images', root / split / 'labels')


def _annot(root: Path, split: str) -> 'Found':
    return _of_one_stem(root / split, root / f'{split}annot')


def _of_one_stem(images: Path, labels: Path) -> 'Found':
    paths = visible_files(images, IMAGE_SUFFIXES) if images.is_dir() else []
    return [Pair(p, labels / f'{p.stem}.png') for p in paths], labels.glob('[!.]*.png')


def _cityscapes(root: Path, split: str) -> 'Found':
    images, truth = root / 'leftImg8bit' / split, root / 'gtFine' / split
    pairs = [
        Pair(p, truth / p.parent.name / re.sub('_leftImg8bit$', '_gtFine_labelIds.png', p.stem))
        for p in images.glob('[!.]*/[!.]*_leftImg8bit.png')
    ]
    return pairs, truth.glob('[!.]*/[!.]*_gtFine_labelIds.png')


#: The pairs by their images, and all label images there are.
Found: TypeAlias = tuple[list[Pair], Iterable[Path]]

#: How the files of a split are found below a root: SPLIT/images and SPLIT/labels, or SPLIT and
#: SPLITannot (the SegNet tutorial's CamVid), or the official layout of Cityscapes.
LAYOUTS: Final[dict[str, Callable[[Path, str], Found]]] = {
    'folders': _folders,
    'annot': _annot,
    'cityscapes': _cityscapes,
}


def _checked(root: Path, split: str, found: Found) -> list[Pair]:
    """The pairs by name, none of them without its other half; raises DatasetError."""
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
            f'{unpaired[0].image} (expected {unpaired[0].labels}); add them, or take the images '
            f'away'
        )
    spare = sorted(set(found[1]) - {pair.labels for pair in pairs})
    if spare:
        raise DatasetError(
            f'{len(spare)} label images have no image, the first {spare[0]}; complete the images, '
            f'or take it away'
        )
    return pairs


def _decoded(
    path: Path, decode: Callable[[bytes], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    try:
        return decode(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(
            f'{path} cannot be read: {error}; replace it, or take it and its partner away'
        ) from error
