# SPDX-License-Identifier: Apache-2.0
"""Finds the camera in a bag and reads its frames."""

from typing import Final

from segmentation_node import topics
from segmentation_node.bags.messages import CAMERA_INFO, DECODERS
from segmentation_node.bags.reader import MAX_LISTED, Bag
from segmentation_node.bags.topic import Topic
from segmentation_node.errors import BagError

#: Pictures that image_transport offers beside the raw one.
_TRANSPORTS: Final = ('/compressed', '/compressedDepth', '/theora', '/zstd')


def find_camera(bag: Bag, wanted: str | None = None) -> Topic:
    """The topic to segment: the wanted one, or the only camera.

    Label masks and overlays, which come with a topic `label_info_json` beside them, are no
    cameras; of a camera that was recorded raw and compressed, the raw topic is taken.

    Raises:
        BagError: no such topic, no camera, or several to choose from; names those that exist.
    """
    if wanted is not None:
        topic = bag.topic(wanted)
        if topic.msgtype not in DECODERS:
            raise BagError(
                f'topic {topic.shown} of {bag.path} is a {topic.shown_type}, expected '
                f'{" or ".join(DECODERS)}{_choice(_images(bag))}'
            )
        return topic
    images = _images(bag)
    cameras = _without_transports(_without_masks(images, bag))
    if len(cameras) == 1:
        return cameras[0]
    if cameras:
        raise BagError(f'{bag.path} has {len(cameras)} cameras{_choice(cameras)}')
    if images:
        raise BagError(f'{bag.path} has label masks but no camera{_choice(images)}')
    raise BagError(
        f'{bag.path} has no image topic, expected a {" or ".join(DECODERS)}; it has '
        f'{bag.listing()}: record the camera, too'
    )


def calibrations_of(camera: Topic, bag: Bag) -> set[Topic]:
    """The topic `camera_info` beside a camera; several where it was recorded in several ways."""
    name = f'{_base(camera).rpartition("/")[0]}/{topics.CAMERA_INFO}'
    return {t for t in bag.topics if t.name == name and t.msgtype == CAMERA_INFO}


def _images(bag: Bag) -> list[Topic]:
    return [topic for topic in bag.topics if topic.msgtype in DECODERS and bag.counts[topic]]


def _without_masks(images: list[Topic], bag: Bag) -> list[Topic]:
    names = {topic.name for topic in bag.topics}
    return [
        topic
        for topic in images
        if f'{_base(topic).rpartition("/")[0]}/{topics.LABEL_INFO_JSON}' not in names
    ]


def _without_transports(images: list[Topic]) -> list[Topic]:
    names = {topic.name for topic in images}
    return [topic for topic in images if _base(topic) == topic.name or _base(topic) not in names]


def _base(topic: Topic) -> str:
    for suffix in _TRANSPORTS:
        if topic.name.endswith(suffix):
            return topic.name.removesuffix(suffix)
    return topic.name


def _choice(images: list[Topic]) -> str:
    if not images:
        return ', and there is no image topic in it'
    names = [topic.shown for topic in images[:MAX_LISTED]]
    more = len(images) - len(names)
    return '; choose one with --topic: ' + ', '.join(names) + (f' and {more} more' if more else '')
