# SPDX-License-Identifier: Apache-2.0
"""Messages to and from CDR without ROS, for the types that this package uses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from rosbags.interfaces import Qos
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.bags.bounds import shown
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.errors import BagError, ImageError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import decode_compressed, decode_image, label_view
from segmentation_node.images.rendering import Detection
from segmentation_node.images.video import is_codec
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.detections import detections_message

IMAGE: Final = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE: Final = 'sensor_msgs/msg/CompressedImage'
FOXGLOVE_VIDEO: Final = 'foxglove_msgs/msg/CompressedVideo'
FFMPEG_PACKET: Final = 'ffmpeg_image_transport_msgs/msg/FFMPEGPacket'
CAMERA_INFO: Final = 'sensor_msgs/msg/CameraInfo'
STRING: Final = 'std_msgs/msg/String'
LABEL_INFO: Final = 'vision_msgs/msg/LabelInfo'
_VISION: Final = 'vision_msgs/msg/'
DETECTIONS: Final = f'{_VISION}Detection2DArray'
VISION_CLASS: Final = 'vision_msgs/msg/VisionClass'
DIAGNOSTIC_ARRAY: Final = 'diagnostic_msgs/msg/DiagnosticArray'
SECOND_NS: Final = 1_000_000_000
#: Interfaces that are not in the type store, as their packages define them.
_MORE_TYPES: Final = MappingProxyType(
    {
        VISION_CLASS: 'uint16 class_id\nstring class_name\n',
        LABEL_INFO: (
            'std_msgs/Header header\nvision_msgs/VisionClass[] class_map\nfloat32 threshold\n'
        ),
        f'{_VISION}Point2D': 'float64 x\nfloat64 y\n',
        f'{_VISION}Pose2D': 'vision_msgs/Point2D position\nfloat64 theta\n',
        f'{_VISION}BoundingBox2D': ('vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n'),
        f'{_VISION}ObjectHypothesis': 'string class_id\nfloat64 score\n',
        f'{_VISION}ObjectHypothesisWithPose': (
            'vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n'
        ),
        f'{_VISION}Detection2D': (
            'std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n'
            'vision_msgs/BoundingBox2D bbox\nstring id\n'
        ),
        DETECTIONS: 'std_msgs/Header header\nvision_msgs/Detection2D[] detections\n',
        FOXGLOVE_VIDEO: (
            'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format'
        ),
        FFMPEG_PACKET: (
            'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\n'
            'uint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data'
        ),
    }
)
#: Exclusive limit of stamps: builtin_interfaces/Time counts seconds in 32 bits with sign.
MAX_STAMP_S: Final = 2**31


@dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera, in pixels."""

    fx_px: float
    fy_px: float
    u0_px: float
    v0_px: float


class MessageError(BagError):
    """The bytes of a message are not a valid message of its type."""


@cache
def typestore() -> Typestore:
    """Definitions of the common types; those used here are the same in every ROS 2."""
    store = get_typestore(Stores.ROS2_JAZZY)
    for msgtype, definition in _MORE_TYPES.items():
        store.register(get_types_from_msg(definition, msgtype))
    return store


@cache
def known_topic(name: str, msgtype: str, qos: Qos) -> Topic:
    """Return a topic of a common type, with definition and hash; raises BagError on others."""
    store = typestore()
    if msgtype not in store.types:
        raise BagError(
            f'topic {name} has type {msgtype}, which is not one of the common interfaces; '
            f'expected a type like {IMAGE}'
        )
    definition, _ = store.generate_msgdef(msgtype, ros_version=2)
    return Topic(name, msgtype, definition, 'ros2msg', store.hash_rihs01(msgtype), (qos,))


def serialize(message: Any) -> bytes:
    """Serialize a message of `typestore()` to CDR."""
    return bytes(typestore().serialize_cdr(message, message.__msgtype__))


def deserialize(message: RawMessage) -> Any:
    """Deserialize CDR of a common type; arrays of the message share its memory.

    Raises:
        MessageError: the bytes are no message of the topic's type.
    """
    try:
        return typestore().deserialize_cdr(message.cdr, message.topic.msgtype)
    except (SerdeError, KeyError) as error:
        raise MessageError(
            f'message of {message.topic.shown} at {message.stamp_ns} ns is not a valid '
            f'{message.topic.shown_type} ({shown(str(error), 300)}); it was damaged when it '
            f'was recorded'
        ) from error


def header(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header of a time in nanoseconds."""
    types = typestore().types
    seconds, nanoseconds = divmod(stamp_ns, SECOND_NS)
    time = types['builtin_interfaces/msg/Time'](seconds, nanoseconds)
    return types['std_msgs/msg/Header'](time, frame_id)


def header_of(message: Any) -> Any:
    """Return the std_msgs/Header of an image or video message."""
    if message.__msgtype__ == FOXGLOVE_VIDEO:
        return typestore().types['std_msgs/msg/Header'](message.timestamp, message.frame_id)
    return message.header


def stamp_ns_of(message: Any) -> int:
    """Header stamp of a message in nanoseconds."""
    return header_stamp_ns(header_of(message))


def header_stamp_ns(header_: Any) -> int:
    """Stamp of a std_msgs/Header in nanoseconds."""
    return int(header_.stamp.sec) * SECOND_NS + int(header_.stamp.nanosec)


def image(pixels: UInt8Array | UInt16Array, encoding: str, header_: Any) -> Any:
    """(H, W) or (H, W, C) uint8 or uint16 as sensor_msgs/Image."""
    height, width = pixels.shape[:2]
    little = pixels.astype(pixels.dtype.newbyteorder('<'), copy=False)
    data = np.ascontiguousarray(little).reshape(-1).view(np.uint8)
    step = data.size // height
    return typestore().types[IMAGE](header_, height, width, encoding, 0, step, data)


def detections(found: Sequence[Detection], header_: Any) -> Any:
    """Instances as vision_msgs/Detection2DArray."""
    return detections_message(found, header_, _new_vision_message)


def _new_vision_message(name: str, **fields: Any) -> Any:
    types = typestore().types
    if name == 'ObjectHypothesisWithPose':  # a picture has no pose
        point = types['geometry_msgs/msg/Point'](0.0, 0.0, 0.0)
        pose = types['geometry_msgs/msg/Pose'](
            point, types['geometry_msgs/msg/Quaternion'](0.0, 0.0, 0.0, 1.0)
        )
        fields['pose'] = types['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36))
    return types[_VISION + name](**fields)


def compressed_image(data: bytes, format_: str, header_: Any) -> Any:
    """Content of an image file as sensor_msgs/CompressedImage."""
    return typestore().types[COMPRESSED_IMAGE](header_, format_, np.frombuffer(data, np.uint8))


def camera_info(camera: Intrinsics, size_wh: tuple[int, int], header_: Any) -> Any:
    """A rectified pinhole camera as sensor_msgs/CameraInfo."""
    width, height = size_wh
    k = [camera.fx_px, 0.0, camera.u0_px, 0.0, camera.fy_px, camera.v0_px, 0.0, 0.0, 1.0]
    p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
    types = typestore().types
    return types[CAMERA_INFO](
        header_, height, width, 'plumb_bob', np.zeros(5), np.array(k), np.eye(3).ravel(),
        np.array(p), 0, 0, types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
    )  # fmt: skip


def string(text: str) -> Any:
    """std_msgs/String."""
    return typestore().types[STRING](text)


def label_info(scheme: LabelScheme, min_confidence: float, header_: Any) -> Any:
    """Ids and names of a scheme as vision_msgs/LabelInfo."""
    types = typestore().types
    classes = [types[VISION_CLASS](c.id, c.name) for c in scheme.classes]
    return types[LABEL_INFO](header_, classes, min_confidence)


#: The field that names the codec of a video message, by its type.
VIDEOS: Final[Mapping[str, str]] = MappingProxyType(
    {FOXGLOVE_VIDEO: 'format', FFMPEG_PACKET: 'encoding'}
)
#: Decoders of still images to RGB, by message type; `samples` are the Samples of a run.
DECODERS: Final[Mapping[str, Callable[..., UInt8Array]]] = MappingProxyType(
    {IMAGE: decode_image, COMPRESSED_IMAGE: decode_compressed}
)


def decode(message: Any, samples: Samples | None = None) -> UInt8Array:
    """Return an image message as (H, W, 3) uint8 RGB; raises ImageError.

    `samples` scales 16 bits to 8; without it all 16 are significant.
    """
    return DECODERS[message.__msgtype__](message, samples=samples)


def video_codec(message: Any) -> str:
    """Return the codec that a camera message names for its video, '' for a still image.

    Some encoders send video as sensor_msgs/CompressedImage whose format is "h264" or the like.
    """
    if message.__msgtype__ in VIDEOS:
        return str(getattr(message, VIDEOS[message.__msgtype__]))
    is_video_ = message.__msgtype__ == COMPRESSED_IMAGE and is_codec(message.format)
    return str(message.format) if is_video_ else ''


#: Types that a camera topic can have.
IMAGE_TYPES: Final = (*DECODERS, *VIDEOS)


def is_image(topic: Topic) -> bool:
    """Return whether a topic is a camera's: images or video in CDR."""
    return topic.msgtype in IMAGE_TYPES and topic.serialization_format == 'cdr'


def is_video(topic: Topic) -> bool:
    """Return whether a topic is compressed video."""
    return is_image(topic) and topic.msgtype in VIDEOS


def decode_labels(message: Any) -> UInt8Array:
    """Label ids of a sensor_msgs/Image, (H, W) uint8; raises ImageError unless it is mono8."""
    if message.__msgtype__ != IMAGE:
        raise ImageError(f'a label image is a {message.__msgtype__}; expected a {IMAGE}')
    return label_view(message)
