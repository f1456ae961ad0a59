# SPDX-License-Identifier: Apache-2.0
"""Images for the calibration and evaluation of an export."""

from collections.abc import Sequence
from pathlib import Path

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.camera_frames import decodable, evenly_spaced
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.sources import folder_source
from segmentation_node.images.files import read_image


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
        images += [read_image(path) for path in evenly_spaced(files, len(files), share)]
    return images


def images_of_bag(path: Path, topic: str | None, count: int) -> list[UInt8Array]:
    """Read up to `count` frames of a bag's camera; raises as `images_of_folders`."""
    with open_bag(path, decode_video=True) as bag:
        name = find_camera(bag, topic).name
        frames = evenly_spaced(bag.messages([name]), bag.count(name), count)
        return [messages.decode(decodable(message)).copy() for message in frames]
