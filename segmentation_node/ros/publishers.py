# SPDX-License-Identifier: Apache-2.0
"""What the node publishes per camera, painted only as far as somebody subscribes."""

from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from segmentation_node import topics
from segmentation_node.images.files import ImageRgb
from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.outputs import OUTPUTS, Output
from segmentation_node.ros import mask_messages

#: Reliable, so that it matches every subscription; one message, so that none gets old.
MASK_QOS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
#: What everybody expects of /diagnostics.
DIAGNOSTICS_QOS = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)


class CameraOutputs:
    """The publishers of one camera's pictures; those publish for one thread at a time.

    Colours are painted in the memory of their messages; label ids and confidence are copied to
    theirs, 1 byte a pixel each. What happens beyond is ROS's own: rclpy copies a message to C,
    Fast DDS copies that to its history and from there to the memory shared with subscribers.
    """

    def __init__(self, node: Node, camera: str) -> None:
        base = f'~/{camera}/' if camera else '~/'
        self._publishers: dict[Output, Publisher] = {
            output: node.create_publisher(
                CompressedImage if output.encode else Image,
                base + output.name,
                MASK_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in OUTPUTS.values()
        }
        self._buffers = {
            output.topic: mask_messages.ImageBuffer(output.encoding)
            for output in OUTPUTS.values()
            if output.encode is None
        }
        #: Masks have the size of their image, so its calibration holds for them as it is.
        self.camera_info = node.create_publisher(CameraInfo, base + topics.CAMERA_INFO, MASK_QOS)

    @property
    def label_mask_topic(self) -> str:
        """Full name of the topic that only this node should publish on."""
        return str(self._publishers[OUTPUTS['label_mask']].topic_name)

    def wanted(self) -> list[Output]:
        """The outputs that have a subscriber now."""
        return [o for o, p in self._publishers.items() if p.get_subscription_count()]

    def canvas(self, topic: str, size_hw: tuple[int, int]) -> ImageRgb:
        """Memory to paint a picture of a topic in; it holds until the next image's."""
        return self._buffers[topic].canvas((*size_hw, 3))

    def publish(self, outputs: list[Output], rendered: Rendered, header: Header) -> None:
        """Publish some outputs of one image, each with the header of its camera message."""
        for output in outputs:
            self._publishers[output].publish(self._message(output, rendered, header))

    def _message(self, output: Output, rendered: Rendered, header: Header) -> Any:
        pixels = output.pixels(rendered)
        if output.encode is None:
            return self._buffers[output.topic].message(pixels, header)
        return mask_messages.compressed_message(output.encode(pixels), output.format, header)

    def destroy(self, node: Node) -> None:
        """Take the topics down."""
        for publisher in (*self._publishers.values(), self.camera_info):
            node.destroy_publisher(publisher)


class LabelInfoOutput:
    """The latched description of the published labels."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._json = node.create_publisher(String, f'~/{topics.LABEL_INFO_JSON}', LATCHED_QOS)
        self._info: Publisher | None = None
        if mask_messages.LabelInfo is not None:
            self._info = node.create_publisher(
                mask_messages.LabelInfo, f'~/{topics.LABEL_INFO}', LATCHED_QOS
            )

    def publish(self, scheme: LabelScheme, min_confidence: float) -> None:
        """Publish anew, for present and for late subscribers."""
        self._json.publish(mask_messages.label_info_json(scheme))
        if self._info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._info.publish(mask_messages.label_info(scheme, min_confidence, header))

    def destroy(self, node: Node) -> None:
        """Take the topics down."""
        for publisher in filter(None, (self._json, self._info)):
            node.destroy_publisher(publisher)
