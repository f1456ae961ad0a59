# SPDX-License-Identifier: Apache-2.0
"""Conversion of arrays and label schemes to messages."""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.images.encodings import Convert, ImageMessage, Pixels, convert_with_opencv
from segmentation_node.images.rendering import Detection
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.detections import detections_message as detections_by_name

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # optional: not on PyPI; label_info_json has the same content
    LabelInfo = None
try:
    import vision_msgs.msg as vision
except ImportError:
    vision = None

__all__ = [
    'DETECTIONS_TYPE', 'ImageBuffer', 'LabelInfo', 'compressed_message', 'detections_message',
    'label_info', 'label_info_json', 'pick_converter',
]  # fmt: skip


#: Type of detections; None without vision_msgs.
DETECTIONS_TYPE: Any = None if vision is None else vision.Detection2DArray


def detections_message(detections: Sequence[Detection], header: Header) -> Any:
    """Return detections as vision_msgs/Detection2DArray; requires vision_msgs."""
    return detections_by_name(
        detections, header, lambda name, **fields: getattr(vision, name)(**fields)
    )


class ImageBuffer:
    """An Image message whose memory is reused for each picture.

    Publishing copies the message, so that it may be painted again right afterwards.
    """

    def __init__(self, encoding: str) -> None:
        self._message = Image(encoding=encoding)
        self._dtype = np.dtype(np.uint16 if encoding.startswith('16') else np.uint8)
        self._pixels = np.empty(0, self._dtype)

    def canvas(self, shape: tuple[int, ...]) -> Any:
        """Return the memory of the message as (H, W) or (H, W, C), to paint in.

        It is uint16 for encodings of 16 bits, else uint8.
        """
        if self._pixels.shape != shape:
            message = Image(encoding=self._message.encoding)
            message.height, message.width = shape[:2]
            message.step = math.prod(shape[1:]) * self._dtype.itemsize
            message.is_bigendian = int(sys.byteorder == 'big')
            # Fill the message's own array; an assignment would check every byte.
            message.data.frombytes(bytes(message.height * message.step))
            self._message = message
            self._pixels = np.frombuffer(message.data, self._dtype).reshape(shape)
        return self._pixels

    def message(self, pixels: UInt8Array | UInt16Array, header: Header) -> Image:
        """Return the message with an unchanged header; copies pixels unless painted in place."""
        canvas = self.canvas(pixels.shape)
        if not np.may_share_memory(canvas, pixels):
            np.copyto(canvas, pixels)
        self._message.header = header
        return self._message


def compressed_message(data: bytes, format_: str, header: Header) -> CompressedImage:
    """Return compressed bytes as a CompressedImage with `header` unchanged."""
    message = CompressedImage(header=header, format=format_)
    message.data.frombytes(data)
    return message


def label_info_json(scheme: LabelScheme) -> String:
    """Return a label scheme as JSON text."""
    return String(data=scheme.to_json())


def label_info(scheme: LabelScheme, min_confidence: float, header: Header) -> Any:
    """Return a label scheme as vision_msgs/LabelInfo; requires vision_msgs."""
    classes = [VisionClass(class_id=c.id, class_name=c.name) for c in scheme.classes]
    return LabelInfo(header=header, class_map=classes, threshold=min_confidence)


def pick_converter() -> tuple[str, Convert]:
    """Return name and function of the available converter to RGB: cv_bridge or OpenCV.

    The conversions of cv_bridge are compiled for the distribution's NumPy and cannot be imported
    with another major version (ros-perception/vision_opencv #535). Those of OpenCV are equal.
    """
    try:
        import cv_bridge
        import cv_bridge.boost.cv_bridge_boost  # noqa: F401 (fails with another NumPy)
    except (ImportError, AttributeError):
        return 'OpenCV', convert_with_opencv
    bridge = cv_bridge.CvBridge()

    def convert(msg: ImageMessage, pixels: Pixels) -> UInt8Array:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(msg, 'rgb8'), np.uint8)
        except cv_bridge.CvBridgeError:
            # It does not support some encodings, such as nv24.
            return convert_with_opencv(msg, pixels)

    return 'cv_bridge', convert
