# SPDX-License-Identifier: Apache-2.0
"""The images that an export is calibrated on and judged by."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from segmentation_node.bags import messages
from segmentation_node.bags.camera import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.sources import folder_source
from segmentation_node.errors import ImageError
from segmentation_node.image_files import ImageRgb, read_image

Item = TypeVar('Item')


def images_of_folder(folder: Path, count: int) -> list[ImageRgb]:
    """Up to `count` images of a folder, from all over it, (H, W, 3) uint8 RGB of one size.

    Raises:
        BagError: no folder, or no images in it.
        ImageError: a file is damaged, or the images are of several sizes.
    """
    files = [frame.image for frame in folder_source(folder, None, 1.0).frames]
    chosen = spread(files, len(files), count)
    return _of_one_size((path.name, read_image(path)) for path in chosen)


def images_of_bag(path: Path, topic: str | None, count: int) -> list[ImageRgb]:
    """Up to `count` frames of a bag's camera, from all over it; errors as `images_of_folder`."""
    with open_bag(path) as bag:
        camera = find_camera(bag, topic)
        frames = spread(bag.messages([camera.name]), bag.counts[camera], count)
        decode = messages.DECODERS[camera.msgtype]
        return _of_one_size(
            (f'frame at {m.stamp_ns} ns', decode(messages.deserialize(m)).copy()) for m in frames
        )


def spread(items: Iterable[Item], total: int, count: int) -> Iterator[Item]:
    """Up to `count` of `total` items at even distances."""
    taken = min(total, count)
    places = {index * total // taken for index in range(taken)} if taken else set()
    return (item for index, item in enumerate(islice(items, total)) if index in places)


def _of_one_size(named: Iterable[tuple[str, ImageRgb]]) -> list[ImageRgb]:
    images: list[ImageRgb] = []
    for name, image in named:
        if images and image.shape != images[0].shape:
            (height, width), (h, w) = images[0].shape[:2], image.shape[:2]
            raise ImageError(
                f'{name} is {w} x {h} and those before are {width} x {height}; an exported graph '
                f'has one size: give the images of one camera'
            )
        images.append(image)
    return images
