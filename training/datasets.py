# SPDX-License-Identifier: Apache-2.0
"""Labeled images on disk: pairs of image and label files, and their checks."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.errors import DatasetError, ImageError, SettingError
from segmentation_node.images import cityscapes
from segmentation_node.images.files import IMAGE_SUFFIXES, decode_file, visible_files
from segmentation_node.images.label_files import decode_labels
from segmentation_node.labels import LabelScheme, load_scheme
from training import polygons
from training.config import Dataset, Experiment, Use
from training.instance_images import decode_instances

_log = logging.getLogger(__name__)

_Decoded = TypeVar('_Decoded')


@dataclass(frozen=True)
class FilePair:
    """File of an image, and file of its labels: a label image, or polygons to draw."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """Name of the image file without suffix."""
        return self.image.stem

    @property
    def drawn(self) -> bool:
        """Return whether the labels are drawn from polygons."""
        return self.labels.suffix == polygons.SUFFIX


@dataclass(frozen=True)
class PairCandidate:
    """File of an image, and the files that its labels may be in; these may be missing."""

    image: Path
    label_image: Path
    polygons: tuple[Path, ...]

    def pair(self, only_polygons: bool) -> FilePair:
        """Choose the first file of labels that exists: the label image, unless it is excluded."""
        files = self.polygons if only_polygons else (self.label_image, *self.polygons)
        return FilePair(self.image, next(filter(Path.is_file, files), files[0]))


@dataclass(frozen=True)
class Found:
    """Files of one split: the images, and all existing files of labels."""

    candidates: list[PairCandidate]
    label_images: Iterable[Path]
    polygons: Iterable[Path]


@dataclass(frozen=True)
class LabeledFiles:
    """Pairs of one split of a data set; `source` is its origin.

    `has_instances` is true if the files of labels are instance images.
    """

    pairs: tuple[FilePair, ...]
    scheme: LabelScheme
    source: str
    has_instances: bool = False

    def read(self, pair: FilePair) -> tuple[UInt8Array, UInt8Array]:
        """Return the image (H, W, 3) uint8 RGB and its label ids (H, W) uint8.

        Raises:
            DatasetError: as `read_instances`.
        """
        return self.read_instances(pair)[:2]

    def read_instances(self, pair: FilePair) -> tuple[UInt8Array, UInt8Array, UInt16Array]:
        """Return the results of `read`, and the instance of each pixel, (H, W) uint16.

        Instances are numbers; 0 is none, which is all there is in a set without instance images.

        Raises:
            DatasetError: a file cannot be read, the sizes differ, or an id or a label of a
                polygon is not in the scheme of the data set.
        """
        image_rgb = _decoded(pair.image, decode_file)
        instances = None
        if self.has_instances:
            ids, instances = _decoded(pair.labels, partial(decode_instances, scheme=self.scheme))
        elif pair.drawn:
            ids = polygons.draw_labels(pair.labels, self.scheme)
        else:
            ids = _decoded(pair.labels, partial(decode_labels, scheme=self.scheme))
        if ids.shape != image_rgb.shape[:2]:
            raise DatasetError(
                f'{pair.labels} has size {ids.shape}, but its image {image_rgb.shape[:2]}; both '
                f'must have the same size'
            )
        return image_rgb, ids, np.zeros(ids.shape, np.uint16) if instances is None else instances


def open_files(experiment: Experiment, use: Use, *, instances: bool = False) -> LabeledFiles:
    """Find the files of one use of a data set.

    With `instances`, the labels are read from instance images if the layout has them.

    Raises:
        DatasetError: no images, images without labels, patterns that match no image, or fewer
            images than requested.
        SettingError, SchemeError: the data set, its scheme or its subset is unknown.
    """
    dataset = experiment.dataset(use.set)
    scheme = load_scheme(dataset.scheme)
    if dataset.layout not in LAYOUTS:
        raise DatasetError(
            f'data set {use.set} has unknown layout {dataset.layout!r}; choose one of '
            f'{", ".join(LAYOUTS)}'
        )
    root = Path(dataset.root)
    has_instances = instances and has_instance_images(experiment, use)
    if has_instances and dataset.polygons:
        raise DatasetError(
            f'the labels of data set {use.set} are drawn from polygons, without instances; choose '
            f'a data set with instance images, or task semantic'
        )
    find = (INSTANCE_LAYOUTS if has_instances else LAYOUTS)[dataset.layout]
    pairs = _checked(root, use.split, find(root, use.split), dataset.polygons)
    pairs = _part(_matching(pairs, use) if use.only else pairs, use, dataset)
    drawn = sum(pair.drawn for pair in pairs)
    if drawn and not dataset.polygons:
        _log.warning(
            '%s %s: the labels of %d of %d images are drawn from polygons, because their label '
            'images are missing', use.set, use.split, drawn, len(pairs),
        )  # fmt: skip
    return LabeledFiles(tuple(pairs), scheme, dataset.source or str(root), has_instances)


def has_instance_images(experiment: Experiment, use: Use) -> bool:
    """Return whether a data set has instance images, by its layout; raises SettingError."""
    return experiment.dataset(use.set).layout in INSTANCE_LAYOUTS


def _part(pairs: list[FilePair], use: Use, dataset: Dataset) -> list[FilePair]:
    if use.subset is not None:
        count = _subset_size(use, dataset)
        choose = partial(named_subset, pairs, count)
        remedy = 'complete the data set, or choose a smaller subset'
    elif use.count is not None:
        count = use.count
        choose = partial(subset, pairs, count, use.seed)
        remedy = 'reduce "count"'
    else:
        return pairs
    if count > len(pairs):
        raise DatasetError(
            f'{use.set} {use.split} has {len(pairs)} images, fewer than the requested subset of '
            f'{count}; {remedy}'
        )
    return choose()


def _matching(pairs: list[FilePair], use: Use) -> list[FilePair]:
    """Select the pairs whose names match a pattern of `use.only`; every pattern must match one."""
    for pattern in use.only:
        if not any(fnmatchcase(pair.name, pattern) for pair in pairs):
            raise DatasetError(
                f'{use.set} {use.split} has no image that matches {pattern!r} in "only"; its '
                f'names are {pairs[0].name} to {pairs[-1].name}'
            )
    return [pair for pair in pairs if any(fnmatchcase(pair.name, p) for p in use.only)]


def _subset_size(use: Use, dataset: Dataset) -> int:
    sizes = dataset.subsets.get(str(use.subset), {})
    if use.split not in sizes:
        known = [name for name, counts in dataset.subsets.items() if use.split in counts]
        raise SettingError(
            f'data set {use.set} has no subset {use.subset!r} of split {use.split!r}; available: '
            f'{", ".join(known) or "none"}; add others to "subsets" of the data set'
        )
    return sizes[use.split]


def subset(pairs: list[FilePair], count: int, seed: int) -> list[FilePair]:
    """Draw `count` pairs, determined by the seed, in their original order."""
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:count]
    return [pairs[i] for i in sorted(chosen)]


def named_subset(pairs: list[FilePair], count: int) -> list[FilePair]:
    """Return the `count` pairs with the smallest SHA-256 of their names, in original order.

    Each name alone decides, so a larger subset contains the smaller ones, and images that are
    added later replace few of those chosen.
    """
    by_digest = sorted(pairs, key=lambda p: hashlib.sha256(os.fsencode(p.name)).digest())
    chosen = set(by_digest[:count])
    return [pair for pair in pairs if pair in chosen]


def _folders(root: Path, split: str) -> Found:
    return _of_one_stem(root / split / 'images', root / split / 'labels')


def _annot(root: Path, split: str) -> Found:
    return _of_one_stem(root / split, root / f'{split}annot')


def _of_one_stem(images: Path, labels: Path) -> Found:
    paths = visible_files(images, IMAGE_SUFFIXES) if images.is_dir() else []
    # labelme writes its file beside the image.
    return Found(
        [
            PairCandidate(
                p,
                labels / f'{p.stem}.png',
                tuple(folder / f'{p.stem}{polygons.SUFFIX}' for folder in (labels, images)),
            )
            for p in paths
        ],
        labels.glob('[!.]*.png'),
        labels.glob(f'[!.]*{polygons.SUFFIX}'),
    )


def _cityscapes(root: Path, split: str) -> Found:
    pictures, labels, outlines = (
        (cityscapes.folder(root, kind) / split).glob(f'[!.]*/[!.]*{cityscapes.ending(kind)}')
        for kind in (cityscapes.PICTURE, cityscapes.LABELS, cityscapes.POLYGONS)
    )
    return Found(
        [
            PairCandidate(
                p,
                cityscapes.companion(root, p, cityscapes.LABELS),
                (cityscapes.companion(root, p, cityscapes.POLYGONS),),
            )
            for p in pictures
        ],
        labels,
        outlines,
    )


def _cityscapes_instances(root: Path, split: str) -> Found:
    pictures, labels = (
        (cityscapes.folder(root, kind) / split).glob(f'[!.]*/[!.]*{cityscapes.ending(kind)}')
        for kind in (cityscapes.PICTURE, cityscapes.INSTANCES)
    )
    candidates = [
        PairCandidate(p, cityscapes.companion(root, p, cityscapes.INSTANCES), ()) for p in pictures
    ]
    return Found(candidates, labels, ())


#: Functions that find the files of a split below a root, by layout: SPLIT/images and SPLIT/labels;
#: SPLIT and SPLITannot (the SegNet tutorial's CamVid); the official layout of Cityscapes.
LAYOUTS: Final[dict[str, Callable[[Path, str], Found]]] = {
    'folders': _folders,
    'annot': _annot,
    'cityscapes': _cityscapes,
}
#: The same for labels with instances, of the layouts that have them.
INSTANCE_LAYOUTS: Final[dict[str, Callable[[Path, str], Found]]] = {
    'cityscapes': _cityscapes_instances,
}


def _checked(root: Path, split: str, found: Found, only_polygons: bool) -> list[FilePair]:
    """Return the pairs sorted by image; raises DatasetError if an image or a label is alone."""
    pairs = paired(found, only_polygons)
    if not pairs:
        raise DatasetError(
            f'no images of split {split!r} below {root}; expected {split}/images/ and '
            f'{split}/labels/, {split}/ and {split}annot/, or leftImg8bit/{split}/CITY/, by its '
            f'layout'
        )
    unpaired = without_labels(pairs)
    if unpaired:
        raise DatasetError(
            f'{len(unpaired)} of {len(pairs)} images have no labels, the first '
            f'{unpaired[0].image} (expected {unpaired[0].labels}); add the labels, or remove the '
            f'images'
        )
    spare = without_image(found, pairs)
    if spare:
        raise DatasetError(
            f'{len(spare)} label images have no image, the first {spare[0]}; add the images, or '
            f'remove the label images'
        )
    return pairs


def paired(found: Found, only_polygons: bool = False) -> list[FilePair]:
    """Return the images, sorted, each with its labels."""
    pairs = (candidate.pair(only_polygons) for candidate in found.candidates)
    return sorted(pairs, key=lambda pair: pair.image)


def without_labels(pairs: list[FilePair]) -> list[FilePair]:
    """Return the pairs whose file of labels is missing."""
    return [pair for pair in pairs if not pair.labels.is_file()]


def without_image(found: Found, pairs: list[FilePair]) -> list[Path]:
    """Return the files of labels without an image, sorted.

    Files of polygons count only if some labels are drawn from polygons.
    """
    files = {*found.label_images}
    if any(pair.drawn for pair in pairs):
        files |= {*found.polygons}
    for candidate in found.candidates:
        files -= {candidate.label_image, *candidate.polygons}
    return sorted(files)


def _decoded(path: Path, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    try:
        return decode(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(
            f'{path} cannot be read: {error}; replace it, or remove it with its image or labels'
        ) from error
