# SPDX-License-Identifier: Apache-2.0
"""Input frames of the benchmark: a rendered street, the user's images, or labeled data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from segmentation_node.bags.images_to_bag import CITYSCAPES_SCHEME
from segmentation_node.bags.sources import Source, cityscapes_source, folder_source
from segmentation_node.demo.footage import SEEDS
from segmentation_node.errors import SettingError
from segmentation_node.images.cityscapes import PICTURE_FOLDERS
from segmentation_node.images.files import ImageRgb, encode_png, read_image
from segmentation_node.labels import LabelScheme, load_scheme

#: Time between two frames of the street, long enough for them to show different things.
STREET_GAP_S: Final = 3.0
#: Placeholder for the rate that sources require; frames shown one by one have none.
_ANY_RATE_HZ: Final = 1.0


@dataclass(frozen=True)
class Frames:
    """Image files, optionally with label files and their scheme as ground truth.

    `size` is WxH; if sizes differ, it is that of the first image.
    """

    title: str
    size: str
    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    scheme: LabelScheme | None = None


def size_text(size_wh: tuple[int, int]) -> str:
    """Return a size as 'WxH'."""
    return '{}x{}'.format(*size_wh)


def street_frames(size_wh: tuple[int, int], count: int, folder: Path) -> Frames:
    """Render frames of a street into a folder, with ground truth."""
    # Imported here so that runs on the user's images do not wait for the renderer.
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
    """Scale and crop the first images of a folder to a size and write them as PNG to another.

    Raises:
        BagError: there is no image in the folder.
        ImageError: a file cannot be read.
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
    """Scale an image until it covers a size and crop its center, (H, W, 3) uint8."""
    width, height = size_wh
    scale = max(width / image_rgb.shape[1], height / image_rgb.shape[0])
    scaled_wh = [
        max(n, round(scale * m)) for n, m in zip(size_wh, image_rgb.shape[1::-1], strict=True)
    ]
    scaled = cv2.resize(image_rgb, scaled_wh, interpolation=cv2.INTER_AREA)
    left, top = (scaled_wh[0] - width) // 2, (scaled_wh[1] - height) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], np.uint8)


def labeled_frames(root: Path, scheme: str | None, split: str, limit: int | None) -> Frames:
    """Find labeled frames: a Cityscapes tree, or images/ and labels/ with equal file names.

    Args:
        root: root of the tree, or the folder that contains the two folders or SPLIT/.
        scheme: label scheme of the ids; None is Cityscapes' own and requires a Cityscapes tree.
        split: split of the tree, or of a folder that contains SPLIT/images.
        limit: number of first frames to use; None uses all.

    Raises:
        BagError: there are no such frames.
        SettingError: frames have no labels, or the label scheme is not known.
    """
    if any((root / name).is_dir() for name in PICTURE_FOLDERS):
        source = cityscapes_source(root, _ANY_RATE_HZ, splits=[split])
        scheme = scheme or CITYSCAPES_SCHEME
    else:
        below = root / split if (root / split).is_dir() else root
        source = folder_source(below / 'images', below / 'labels', _ANY_RATE_HZ)
    if scheme is None:
        raise SettingError(
            f'{root} is not a Cityscapes tree, so the label scheme of its ids must be given; add '
            f'--data-scheme camvid11, or the scheme that applies'
        )
    frames = source.frames[:limit]
    unlabeled = [frame.image for frame in frames if frame.label is None]
    if unlabeled:
        raise SettingError(
            f'{len(unlabeled)} of {len(frames)} frames of {root} have no labels, the first is '
            f'{unlabeled[0].name}; give a folder in which all frames have labels'
        )
    height, width = read_image(frames[0].image).shape[:2]
    title = f'{len(frames)} labeled frames of {root.resolve().name}'
    return _labeled(title, size_text((width, height)), Source(frames), scheme)


def _labeled(title: str, size: str, source: Source, scheme: str) -> Frames:
    labels = tuple(frame.label for frame in source.frames if frame.label is not None)
    images = tuple(frame.image for frame in source.frames)
    return Frames(title, size, images, labels, load_scheme(scheme))
