# SPDX-License-Identifier: Apache-2.0
"""Camera images for tests that need something to see: frames of the bundled street."""

from itertools import islice

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.paths import demo_bag


def street_images(count: int, size_wh: tuple[int, int]) -> list[UInt8Array]:
    """Frames, spread over the street and scaled, (H, W, 3) uint8 RGB each."""
    with open_bag(demo_bag()) as bag:
        camera = find_camera(bag).name
        step = bag.count(camera) // count
        frames = islice(bag.messages([camera]), 0, step * count, step)
        images = [messages.decode(messages.deserialize(frame)) for frame in frames]
    return [
        np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        for image in images
    ]
