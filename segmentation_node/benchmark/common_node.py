# SPDX-License-Identifier: Apache-2.0
"""Baseline node: a segmentation node as it is commonly written.

It follows widely used nodes and tutorials, and is no worse than these: the weights are ours, the
image is read without a copy, gradients are off, and publishers and subscription are correct. It
lacks the conversions of cv_bridge, which is not always installed; this is to its advantage.
"""

import sys

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.benchmark.common_model import CommonModel
from segmentation_node.errors import SegmentationError
from segmentation_node.runtimes.choices import DEFAULT_MODEL, DEFAULT_OVERLAY_ALPHA

#: QoS depth of nearly all subscriptions and publishers: a reliable queue of ten, in which images
#: wait.
DEPTH = 10


class CommonNode(Node):
    """Node that does all work in the callback of the image."""

    def __init__(self) -> None:
        # The same name, and thus the same topics, as our node.
        super().__init__(topics.NODE_NAME)
        model = self.declare_parameter('model', DEFAULT_MODEL).value
        device = self.declare_parameter('device', 'auto').value
        self._model = CommonModel(model, device)
        self._palette = self._model.scheme.palette  # (256, 3)
        self._publishers_of = {
            name: self.create_publisher(Image, f'~/{name}', DEPTH)
            for name in (topics.LABEL_MASK, topics.COLOR_MASK, topics.OVERLAY)
        }
        self.create_subscription(Image, topics.IMAGE, self._on_image, DEPTH)

    def _on_image(self, message: Image) -> None:
        # A view of the message's memory, as cv_bridge's passthrough returns it.
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        labels = self._model.labels(image)
        # Colors and overlay are computed even if they have no subscriber.
        color = self._palette[labels]
        alpha = DEFAULT_OVERLAY_ALPHA
        overlay = np.asarray(cv2.addWeighted(image, 1 - alpha, color, alpha, 0), np.uint8)
        for name, pixels, encoding in (
            (topics.LABEL_MASK, labels, 'mono8'),
            (topics.COLOR_MASK, color, 'rgb8'),
            (topics.OVERLAY, overlay, 'rgb8'),
        ):
            self._publishers_of[name].publish(self._as_message(pixels, encoding, message))

    def _as_message(self, pixels: UInt8Array, encoding: str, image: Image) -> Image:
        message = Image()
        # The time of publishing instead of the stamp of the image: the mask looks recent however
        # old its image is, and cannot be matched with it.
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = image.header.frame_id
        message.height, message.width = pixels.shape[:2]
        message.encoding = encoding
        message.step = pixels.shape[1] * pixels[0, 0].size
        # Copied twice, once into the message, as cv_bridge did for years.
        message.data = pixels.tobytes()
        return message


def main(args: list[str] | None = None) -> int:
    """Run the node until it is stopped; returns the exit status."""
    rclpy.init(args=args)
    try:
        rclpy.spin(CommonNode())
    except SegmentationError as error:
        print(f'common_node: {error}', file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
