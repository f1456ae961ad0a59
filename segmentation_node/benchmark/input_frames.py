# SPDX-License-Identifier: Apache-2.0
"""Input frames of the benchmark: the bundled street, the user's images, or labeled data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.camera_frames import evenly_spaced
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.images_to_bag import CITYSCAPES_SCHEME
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC, scheme_beside
from segmentation_node.bags.sources import Source, cityscapes_source, folder_source
from segmentation_node.errors import SettingError
from segmentation_node.images.cityscapes import PICTURE_FOLDERS
from segmentation_node.images.files import encode_png, read_image
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.paths import demo_bag

#: Interpolation that keeps class ids.
LABELS: Final = cv2.INTER_NEAREST_EXACT
#: Placeholder for the rate that sources require; frames shown one by one have none.
_ANY_RATE_HZ: Final = 1.0


@dataclass(frozen=True)
class InputFrames:
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


def street_frames(size_wh: tuple[int, int], count: int, folder: Path) -> InputFrames:
    """Write frames of the bundled street as PNG to a folder, scaled, with ground truth.

    Args:
        size_wh: size of the frames; the title says if it is not that of the street.
        count: maximum number of frames, evenly spaced.
        folder: folder for the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = [], []
    with open_bag(demo_bag()) as bag:
        camera, scheme = find_camera(bag).name, scheme_beside(bag, TRUTH_TOPIC)
        pairs = zip(bag.messages([camera]), bag.messages([TRUTH_TOPIC]), strict=True)
        chosen = evenly_spaced(pairs, bag.count(camera), count)
        for index, (image, truth) in enumerate(chosen):
            image_rgb = messages.decode(messages.deserialize(image))
            label_ids = messages.decode_labels(messages.deserialize(truth))
            images.append(folder / f'{index:04}.png')
            labels.append(folder / f'{index:04}_labels.png')
            images[-1].write_bytes(encode_png(covering(image_rgb, size_wh)))
            labels[-1].write_bytes(encode_png(covering(label_ids, size_wh, LABELS)))
    is_scaled = image_rgb.shape[1::-1] != size_wh
    title = f'{len(images)} frames of the bundled street'
    title += f', scaled to {size_text(size_wh)}' if is_scaled else ''
    return InputFrames(title, size_text(size_wh), tuple(images), tuple(labels), scheme)


def image_frames(images: Path, size_wh: tuple[int, int], count: int, folder: Path) -> InputFrames:
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
    return InputFrames(f'{len(written)} own images', size_text(size_wh), tuple(written))


def covering(
    pixels: UInt8Array, size_wh: tuple[int, int], interpolation: int = cv2.INTER_AREA
) -> UInt8Array:
    """Scale an image or labels until they cover a size and crop the center."""
    width, height = size_wh
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    scaled_wh = [
        max(n, round(scale * m)) for n, m in zip(size_wh, pixels.shape[1::-1], strict=True)
    ]
    scaled = cv2.resize(pixels, scaled_wh, interpolation=interpolation)
    left, top = (scaled_wh[0] - width) // 2, (scaled_wh[1] - height) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], np.uint8)


def labeled_frames(root: Path, scheme: str | None, split: str, limit: int | None) -> InputFrames:
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


def _labeled(title: str, size: str, source: Source, scheme: str) -> InputFrames:
    labels = tuple(frame.label for frame in source.frames if frame.label is not None)
    images = tuple(frame.image for frame in source.frames)
    return InputFrames(title, size, images, labels, load_scheme(scheme))
