# SPDX-License-Identifier: Apache-2.0
"""What is shown to the networks: a rendered street, images of one's own, labeled data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from segmentation_node.bags.images_to_bag import CITYSCAPES_SCHEME
from segmentation_node.bags.sources import (
    PICTURE_FOLDERS,
    Source,
    cityscapes_source,
    folder_source,
)
from segmentation_node.demo.footage import SEEDS
from segmentation_node.errors import SettingError
from segmentation_node.image_files import ImageRgb, encode_png, read_image
from segmentation_node.labels import LabelScheme, load_scheme

#: Between two frames of the street, so that they show different things.
STREET_GAP_S: Final = 3.0
#: Sources ask for a rate, which frames that are shown one by one do not have.
_ANY_RATE_HZ: Final = 1.0


@dataclass(frozen=True)
class Frames:
    """Image files, and label files with what their ids mean where there is truth.

    `size` is WxH, that of the first where they differ.
    """

    title: str
    size: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    scheme: LabelScheme | None = None


def size_text(size_wh: tuple[int, int]) -> str:
    """WxH."""
    return '{}x{}'.format(*size_wh)


def street_frames(size_wh: tuple[int, int], count: int, folder: Path) -> Frames:
    """Render frames of a street into a folder, with truth."""
    # Imported here: who brings images of their own waits for no renderer.
    from segmentation_node.scenes.render import Renderer
    from segmentation_node.scenes.street import Street
    from segmentation_node.scenes.write import SequenceName, write_sequence

    name = SequenceName(folder, 'val', 'benchmark', 0)
    street, renderer = Street(SEEDS[0]), Renderer(*size_wh)
    list(write_sequence(name, street, renderer, count, 1 / STREET_GAP_S, True, progress=False))
    source = cityscapes_source(folder, _ANY_RATE_HZ)
    title = f'{count} frames of a rendered street'
    return _labeled(title, size_text(size_wh), source, CITYSCAPES_SCHEME)


def image_frames(images: Path, size_wh: tuple[int, int], count: int, folder: Path) -> Frames:
    """The first images of a folder, scaled and cropped to a size, as PNG files in another.

    Raises:
        BagError: there is no image in the folder.
        ImageError: a file that cannot be read.
    """
    pictures = [frame.image for frame in folder_source(images, None, _ANY_RATE_HZ).frames]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, picture in enumerate(pictures[:count]):
        path = folder / f'{index:04}.png'
        path.write_bytes(encode_png(covering(read_image(picture), size_wh)))
        written.append(path)
    return Frames(f'{len(written)} own images', size_text(size_wh), tuple(written))


def covering(image_rgb: ImageRgb, size_wh: tuple[int, int]) -> ImageRgb:
    """An image scaled until it covers a size, (H, W, 3) uint8, its middle cut out."""
    width, height = size_wh
    scale = max(width / image_rgb.shape[1], height / image_rgb.shape[0])
    scaled_wh = [
        max(n, round(scale * m)) for n, m in zip(size_wh, image_rgb.shape[1::-1], strict=True)
    ]
    scaled = cv2.resize(image_rgb, scaled_wh, interpolation=cv2.INTER_AREA)
    left, top = (scaled_wh[0] - width) // 2, (scaled_wh[1] - height) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], np.uint8)


def labeled_frames(root: Path, scheme: str | None, split: str, limit: int | None) -> Frames:
    """Labeled data: a Cityscapes tree, or images/ and labels/ with files of the same names.

    Args:
        root: of the tree, or of the two folders or of the split that holds them.
        scheme: what ids mean; None is Cityscapes' own of a Cityscapes tree.
        split: of the tree, or of a folder that has SPLIT/images.
        limit: the first frames alone; None is all.

    Raises:
        BagError: nothing of the sort is there.
        SettingError: frames without truth, or ids whose meaning nobody told.
    """
    if any((root / name).is_dir() for name in PICTURE_FOLDERS):
        source = cityscapes_source(root, _ANY_RATE_HZ, splits=[split])
        scheme = scheme or CITYSCAPES_SCHEME
    else:
        below = root / split if (root / split).is_dir() else root
        source = folder_source(below / 'images', below / 'labels', _ANY_RATE_HZ)
    if scheme is None:
        raise SettingError(
            f'{root} is no Cityscapes tree, so it must be told what the ids in its labels mean; '
            f'say --data-scheme camvid11, or the scheme it has'
        )
    frames = source.frames[:limit]
    unlabeled = [frame.image for frame in frames if frame.label is None]
    if unlabeled:
        raise SettingError(
            f'{len(unlabeled)} of {len(frames)} frames of {root} have no labels, the first is '
            f'{unlabeled[0].name}; give a folder in which all have them'
        )
    height, width = read_image(frames[0].image).shape[:2]
    title = f'{len(frames)} labeled frames of {root.resolve().name}'
    return _labeled(title, size_text((width, height)), Source(frames), scheme)


def _labeled(title: str, size: str, source: Source, scheme: str) -> Frames:
    labels = tuple(frame.label for frame in source.frames if frame.label is not None)
    images = tuple(frame.image for frame in source.frames)
    return Frames(title, size, images, labels, load_scheme(scheme))
