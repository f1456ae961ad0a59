# SPDX-License-Identifier: Apache-2.0
"""Frames of a camera topic: still images, or video."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.qos import RELIABLE
from segmentation_node.bags.topic import ALL, RawMessage, Span, Storage, Topic
from segmentation_node.errors import ImageError, SegmentationError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.video import DecodedFrame, VideoDecoder
from segmentation_node.topics import COMPRESSED_SUFFIX

Item = TypeVar('Item')


class CameraFrame(NamedTuple):
    """Frame of a message; `decode` gives (H, W, 3) uint8 RGB or raises ImageError."""

    raw: RawMessage
    header: Any
    decode: Callable[[], UInt8Array]


class CameraFrames:
    """Decoder of the messages of one camera, in order.

    `samples` scales still images of 16 bits.
    """

    def __init__(self, samples: Samples | None = None) -> None:
        self._samples = samples
        self._video: VideoDecoder[tuple[RawMessage, Any]] | None = None

    def take(self, raw: RawMessage) -> list[CameraFrame]:
        """Return the frames that are complete with a message; video may hold some back.

        Raises:
            MessageError: the message is not an image.
            ImageError: it is video, and PyAV is not installed.
        """
        message = decodable(raw)
        header = messages.header_of(message)
        codec = messages.video_codec(message)
        if not codec and raw.topic.msgtype not in messages.VIDEOS:
            return [CameraFrame(raw, header, partial(messages.decode, message, self._samples))]
        if self._video is None:
            self._video = VideoDecoder()
        packet = message.data.tobytes()
        # Without the message's bytes, which would be kept as long as the frame.
        key = (raw._replace(cdr=b''), header)
        return [_frame(found) for found in self._video.decode(codec, packet, key)]

    def rest(self) -> list[CameraFrame]:
        """Return the frames that were held back, at the end of the stream."""
        return [_frame(found) for found in self._video.flush()] if self._video else []


def decodable(raw: RawMessage) -> Any:
    """Deserialize a camera message; raises MessageError where it is of another type."""
    if not messages.is_image(raw.topic):
        raise messages.MessageError(
            f'message of {raw.topic.shown} at {raw.stamp_ns} ns is a {raw.topic.shown_type}, '
            f'expected {" or ".join(messages.IMAGE_TYPES)} only: record the others under another '
            f'name'
        )
    return messages.deserialize(raw)


def evenly_spaced(items: Iterable[Item], total: int, count: int) -> Iterator[Item]:
    """Return up to `count` of `total` items, evenly spaced, from the first."""
    taken = min(total, count)
    places = {index * total // taken for index in range(taken)}
    return (item for index, item in enumerate(islice(items, total)) if index in places)


def _frame(found: DecodedFrame[tuple[RawMessage, Any]]) -> CameraFrame:
    raw, header = found.key
    return CameraFrame(raw, header, partial(_given, found.image_rgb))


def _given(image: UInt8Array | ImageError) -> UInt8Array:
    if isinstance(image, ImageError):
        raise image
    return image


class DecodedCameras:
    """Storage that presents compressed camera topics as topics of sensor_msgs/Image, rgb8.

    A topic of still images is presented without the suffix "/compressed", unless the bag has a
    topic of that name. `lost` counts, by reason, the messages that could not be decoded in the
    last pass.
    """

    def __init__(self, storage: Storage, *, video: bool, images: bool) -> None:
        """Wrap a storage.

        Args:
            storage: storage to read.
            video: decode compressed video.
            images: decode topics of still CompressedImage.
        """
        self._storage = storage
        self.lost: Counter[str] = Counter()
        self._shown = {topic: _shown(topic, storage, video, images) for topic in storage.counts}

    @property
    def counts(self) -> Mapping[Topic, int]:
        counts: Counter[Topic] = Counter()
        for topic, count in self._storage.counts.items():
            counts[self._shown[topic]] += count
        return counts

    def messages(self, topics: Collection[Topic], span: Span = ALL) -> Iterator[RawMessage]:
        wanted = [topic for topic, shown in self._shown.items() if shown in topics]
        if any(self._shown[topic] != topic for topic in wanted):
            self.lost.clear()
        cameras: dict[str, CameraFrames] = {}
        for raw in self._storage.messages(wanted, span):
            if self._shown[raw.topic] == raw.topic:
                yield raw
                continue
            frames = cameras.setdefault(raw.topic.name, CameraFrames())
            try:
                found = frames.take(raw)
            except SegmentationError as error:
                self._lose(raw, error)
            else:
                yield from self._images(found)
        for frames in cameras.values():
            yield from self._images(frames.rest())

    def time_range_ns(self) -> tuple[int, int] | None:
        return self._storage.time_range_ns()

    def close(self) -> None:
        self._storage.close()

    def _images(self, found: list[CameraFrame]) -> Iterator[RawMessage]:
        for frame in found:
            pixels = self._decoded(frame)
            if pixels is not None:
                cdr = messages.serialize(messages.image(pixels, 'rgb8', frame.header))
                yield frame.raw._replace(topic=self._shown[frame.raw.topic], cdr=cdr)

    def _decoded(self, frame: CameraFrame) -> UInt8Array | None:
        try:
            return frame.decode()
        except ImageError as error:
            self._lose(frame.raw, error)
            return None

    def _lose(self, raw: RawMessage, error: SegmentationError) -> None:
        self.lost[f'{raw.topic.shown}: {error}'] += 1


def _shown(topic: Topic, storage: Storage, video: bool, images: bool) -> Topic:
    """Return the topic as DecodedCameras shows it."""
    if carries_video(storage, topic):
        return _as_images(topic, topic.name) if video else topic
    name = topic.name.removesuffix(COMPRESSED_SUFFIX)
    is_free = name not in {other.name for other in storage.counts}
    if images and topic.msgtype == messages.COMPRESSED_IMAGE and is_free:
        return _as_images(topic, name)
    return topic


def carries_video(storage: Storage, topic: Topic) -> bool:
    """Return whether a topic is video; of a CompressedImage, its messages tell."""
    if topic.msgtype == messages.COMPRESSED_IMAGE:
        for raw in storage.messages([topic]):
            with suppress(messages.MessageError):
                return bool(messages.video_codec(decodable(raw)))
    return messages.is_video(topic)


def _as_images(topic: Topic, name: str) -> Topic:
    image = messages.known_topic(name, messages.IMAGE, RELIABLE)
    return replace(image, qos=topic.qos)
