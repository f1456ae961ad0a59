# SPDX-License-Identifier: Apache-2.0
"""Arrays and label schemes as messages."""

from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String

from segmentation_node.codec import Convert, ImageMessage, Pixels, convert_with_opencv
from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # optional: not on PyPI; label_info_json says the same
    LabelInfo = None

__all__ = [
    'LabelInfo', 'compressed_message', 'image_message', 'label_info', 'label_info_json',
    'pick_converter',
]  # fmt: skip


def image_message(pixels: npt.NDArray[np.uint8], encoding: str, header: Header) -> Image:
    """(H, W) or (H, W, C) uint8 as an Image that carries `header` verbatim."""
    message = Image(header=header, encoding=encoding)
    message.height, message.width = pixels.shape[:2]
    message.step = pixels.shape[1] * pixels[0, 0].size
    # Filling the message's own array is one copy; assigning to it checks byte by byte.
    message.data.frombytes(np.ascontiguousarray(pixels).data)
    return message


def compressed_message(data: bytes, format_: str, header: Header) -> CompressedImage:
    """Compressed bytes as a CompressedImage that carries `header` verbatim."""
    message = CompressedImage(header=header, format=format_)
    message.data.frombytes(data)
    return message


def label_info_json(scheme: LabelScheme) -> String:
    """The scheme as JSON text."""
    return String(data=scheme.to_json())


def label_info(scheme: LabelScheme, min_confidence: float, header: Header) -> Any:
    """The scheme as vision_msgs/LabelInfo; only where vision_msgs is installed."""
    classes = [VisionClass(class_id=c.id, class_name=c.name) for c in scheme.classes]
    return LabelInfo(header=header, class_map=classes, threshold=min_confidence)


def pick_converter() -> tuple[str, Convert]:
    """What makes RGB of camera formats here, with its name: cv_bridge where it works.

    cv_bridge's conversions are compiled against the distribution's NumPy and fail to import
    beside another major version (ros-perception/vision_opencv #535); OpenCV does the same ones.
    """
    try:
        import cv_bridge
        import cv_bridge.boost.cv_bridge_boost  # noqa: F401 (fails beside a foreign NumPy)
    except (ImportError, AttributeError):
        return 'OpenCV', convert_with_opencv
    bridge = cv_bridge.CvBridge()

    def convert(msg: ImageMessage, pixels: Pixels) -> ImageRgb:
        try:
            return np.asarray(bridge.imgmsg_to_cv2(msg, 'rgb8'), np.uint8)
        except cv_bridge.CvBridgeError:
            # It lacks some encodings, such as nv24.
            return convert_with_opencv(msg, pixels)

    return 'cv_bridge', convert
