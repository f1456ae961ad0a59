# SPDX-License-Identifier: Apache-2.0
"""Finds the camera in a bag."""

from collections.abc import Callable
from typing import Final

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.reader import MAX_LISTED, Bag
from segmentation_node.bags.topic import Topic
from segmentation_node.errors import BagError
from segmentation_node.images.video import can_decode
from segmentation_node.paths import with_extra

#: Suffixes of compressed topics of image_transport, in order of preference.
_TRANSPORTS: Final = (
    '/compressed', '/zstd', '/ffmpeg', '/foxglove', '/theora', '/compressedDepth',
)  # fmt: skip
_RECORD: Final = f'record {messages.IMAGE} or {messages.COMPRESSED_IMAGE} with "ros2 bag record"'


def find_camera(bag: Bag, wanted: str | None = None) -> Topic:
    """Return the topic to segment: the wanted one, or the only camera.

    Label masks and overlays, which have a topic `label_info_json` beside them, are not cameras.
    If a camera was recorded raw and compressed, the raw topic is used. Several topics of one name
    (of different types or QoS) are frames of one camera.

    Raises:
        BagError: there is no such topic, no camera, or more than one; names the existing ones.
    """
    if wanted is None:
        return _checked(bag, _only_camera(bag))
    bag.topic(wanted)  # raises if there is none
    named = [topic for topic in bag.topics if topic.name == wanted]
    camera = next(filter(messages.is_image, named), None)
    if camera is None:
        raise BagError(
            f'topic {named[0].shown} of {bag.path} is a {named[0].shown_type}, expected '
            f'{_EXPECTED}: {_remedy(named)}{_choice(_images(bag))}'
        )
    if not bag.count(wanted):
        raise BagError(f'topic {camera.shown} of {bag.path} has no message{_choice(_images(bag))}')
    return _checked(bag, camera)


_EXPECTED: Final = f'{", ".join(messages.IMAGE_TYPES[:-1])} or {messages.IMAGE_TYPES[-1]}'


def _only_camera(bag: Bag) -> Topic:
    images = _images(bag)
    cameras = _without_transports(_without_masks(images, bag))
    if len(cameras) == 1:
        return cameras[0]
    if cameras:
        raise BagError(f'{bag.path} has {len(cameras)} cameras{_choice(cameras)}')
    if images:
        raise BagError(f'{bag.path} has label masks but no camera{_choice(images)}')
    raise BagError(
        f'{bag.path} has no image topic with messages, expected {_EXPECTED}; it has '
        f'{bag.listing()}: {_remedy(bag.topics)}'
    )


def _checked(bag: Bag, camera: Topic) -> Topic:
    if messages.is_video(camera) and not can_decode():
        raise BagError(
            f'topic {camera.shown} of {bag.path} is compressed video ({camera.shown_type}), which '
            f'is decoded by PyAV: pip install {with_extra("demo")}'
        )
    return camera


def _remedy(topics: list[Topic]) -> str:
    """Return advice for a bag without a camera."""
    for applies, advice in _REMEDIES:
        found = [topic for topic in topics if applies(topic)]
        if found:
            return f'{found[0].shown} {advice}'
    return 'record the camera as well'


def _is_ros1(topic: Topic) -> bool:
    return 'ros1' in (topic.serialization_format, topic.definition_format.removesuffix('msg'))


def _may_be_image(topic: Topic) -> bool:
    name = f'{topic.msgtype} {topic.name}'.lower()
    return any(word in name for word in ('image', 'video', 'camera', 'theora'))


def _is_foreign_image(topic: Topic) -> bool:
    return topic.serialization_format != 'cdr' and _may_be_image(topic)


def _is_untyped(topic: Topic) -> bool:
    return not topic.msgtype


#: Advice for the first topic to which a case applies.
_REMEDIES: Final[tuple[tuple[Callable[[Topic], bool], str], ...]] = (
    (_is_ros1, (
        'has messages of ROS 1: convert the original bag with '
        '"rosbags-convert --src drive.bag --dst drive"'
    )),
    (_is_untyped, (
        f'has no schema, so its type is unknown: write the file with a schema for each '
        f'channel, or {_RECORD}'
    )),
    (_is_foreign_image, (
        f'is not in CDR, the format of ROS 2: {_RECORD}, or save its images as files and let '
        f'"images_to_bag --images FOLDER" make a bag of them'
    )),
    (messages.is_image, (
        'has no messages: check that the camera was running, and that the recorder subscribed '
        'with a matching QoS'
    )),
    (_may_be_image, (
        f'has images of a type that is not supported: publish them as an Image, for example with '
        f'"ros2 run image_transport republish", and {_RECORD}'
    )),
)  # fmt: skip


def calibrations_of(camera: Topic, bag: Bag) -> set[Topic]:
    """Return the topics `camera_info` beside a camera; several if types or QoS differ."""
    name = f'{_base(camera).rpartition("/")[0]}/{topics.CAMERA_INFO}'
    return {t for t in bag.topics if t.name == name and t.msgtype == messages.CAMERA_INFO}


def _images(bag: Bag) -> list[Topic]:
    """Return topics with images, one for each name."""
    there = {topic.name: topic for topic in reversed(bag.topics)
             if messages.is_image(topic) and bag.counts[topic]}  # fmt: skip
    return [there[name] for name in sorted(there)]


def _without_masks(images: list[Topic], bag: Bag) -> list[Topic]:
    names = {topic.name for topic in bag.topics}
    return [
        topic
        for topic in images
        if f'{_base(topic).rpartition("/")[0]}/{topics.LABEL_INFO_JSON}' not in names
    ]


def _without_transports(images: list[Topic]) -> list[Topic]:
    """Return one topic of each camera, the first by _TRANSPORTS."""
    best: dict[str, Topic] = {}
    for suffix in ('', *_TRANSPORTS):
        for topic in images:
            if topic.name == f'{_base(topic)}{suffix}':
                best.setdefault(_base(topic), topic)
    return sorted(best.values(), key=lambda topic: topic.name)


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
