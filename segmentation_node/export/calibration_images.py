# SPDX-License-Identifier: Apache-2.0
"""Images for the calibration and evaluation of an export."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.camera_frames import decodable
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.sources import folder_source
from segmentation_node.images.files import read_image

Item = TypeVar('Item')


def images_of_folders(folders: Sequence[Path], count: int) -> list[UInt8Array]:
    """Read up to `count` images, (H, W, 3) uint8 RGB, spread evenly over each folder.

    Raises:
        BagError: a folder does not exist or contains no images.
        ImageError: a file is damaged.
    """
    images: list[UInt8Array] = []
    for index, folder in enumerate(folders, 1):
        files = [frame.image for frame in folder_source(folder, None, 1.0).frames]
        share = (count - len(images)) // (len(folders) - index + 1)
        images += [read_image(path) for path in spread(files, len(files), share)]
    return images


def images_of_bag(path: Path, topic: str | None, count: int) -> list[UInt8Array]:
    """Read up to `count` frames of a bag's camera; raises as `images_of_folders`."""
    with open_bag(path, decode_video=True) as bag:
        name = find_camera(bag, topic).name
        frames = spread(bag.messages([name]), bag.count(name), count)
        return [messages.decode(decodable(message)).copy() for message in frames]


def spread(items: Iterable[Item], total: int, count: int) -> Iterator[Item]:
    """Return up to `count` of `total` items, evenly spaced."""
    taken = min(total, count)
    places = {index * total // taken for index in range(taken)} if taken else set()
    return (item for index, item in enumerate(islice(items, total)) if index in places)
