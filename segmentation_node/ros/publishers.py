# SPDX-License-Identifier: Apache-2.0
"""Publishers of the node: outputs of each camera, and the description of the labels."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Final

from rclpy.context import Context
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.outputs import (
    COMPRESSED,
    DETECTIONS,
    IMAGE,
    OUTPUTS,
    Output,
    ShutDown,
)
from segmentation_node.ros import mask_messages

#: Reliable, to match every subscription; depth 1, so that no mask waits behind another.
MASK_QOS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=QoSReliabilityPolicy.RELIABLE,
    durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
)
#: QoS that diagnostic tools expect of /diagnostics.
DIAGNOSTICS_QOS = QoSProfile(depth=10, reliability=QoSReliabilityPolicy.RELIABLE)
#: Type of the messages of each form; None if it is not installed.
MESSAGE_TYPES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        IMAGE: Image,
        COMPRESSED: CompressedImage,
        DETECTIONS: mask_messages.DETECTIONS_TYPE,
    }
)


@contextmanager
def shutdown_errors(context: Context) -> Iterator[None]:
    """Raise ShutDown instead of an error of rclpy if its context was shut down."""
    try:
        yield
    except RuntimeError as error:  # the base of most errors of rclpy
        if context.ok():
            raise
        raise ShutDown from error


class CameraPublishers:
    """Publishers of the outputs of one camera; used by one thread at a time.

    Colors are painted in the memory of their messages; label ids and confidence, with one byte per
    pixel, are copied. Then rclpy converts the message to C, and Fast DDS copies it to its history
    and from there to the memory shared with subscribers. `has_instances` tells of the model and
    may be replaced at any time.
    """

    def __init__(self, node: Node, camera: str, *, has_instances: bool = False) -> None:
        base = f'~/{camera}/' if camera else '~/'
        self.has_instances = has_instances
        self._publishers: dict[Output, Publisher] = {
            output: node.create_publisher(
                message_type,
                base + output.name,
                MASK_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in OUTPUTS.values()
            if (message_type := MESSAGE_TYPES[output.form]) is not None
        }
        #: Full name of the topic of label masks.
        self.label_mask_topic = str(self._publishers[OUTPUTS['label_mask']].topic_name)
        self._context = node.context
        self._buffers = {
            output.topic: mask_messages.ImageBuffer(output.encoding)
            for output in OUTPUTS.values()
            if output.form == IMAGE
        }
        #: Masks have the size of their image, so its calibration is valid for them.
        self.camera_info = node.create_publisher(CameraInfo, base + topics.CAMERA_INFO, MASK_QOS)
        #: Once a second, so that a late subscriber needs no latched message.
        self._scores = node.create_publisher(String, base + topics.SCORES, MASK_QOS)

    def wanted(self) -> list[Output]:
        """Return the available outputs that have a subscriber now; raises ShutDown."""
        return [output for output in self._subscribed() if self._is_available(output)]

    def unavailable(self) -> list[str]:
        """Return the names of outputs that have a subscriber, but need a model with instances."""
        return [output.name for output in self._subscribed() if not self._is_available(output)]

    def _subscribed(self) -> list[Output]:
        with shutdown_errors(self._context):
            return [o for o, p in self._publishers.items() if p.get_subscription_count()]

    def _is_available(self, output: Output) -> bool:
        return self.has_instances or not output.needs_instances

    def scores_wanted(self) -> bool:
        """Return whether the scores have a subscriber now; raises ShutDown."""
        with shutdown_errors(self._context):
            return bool(self._scores.get_subscription_count())

    def publish_scores(self, figures: Mapping[str, Any]) -> None:
        """Publish scores as JSON; raises ShutDown."""
        with shutdown_errors(self._context):
            self._scores.publish(String(data=json.dumps(figures, allow_nan=False)))

    def canvas(self, topic: str, size_hw: tuple[int, int]) -> UInt8Array:
        """Return memory to paint the picture of a topic in; valid until the next image."""
        painted: UInt8Array = self._buffers[topic].canvas((*size_hw, 3))
        return painted

    def publish(self, outputs: list[Output], rendered: Rendered, header: Header) -> None:
        """Publish outputs of one image with the header of its camera message.

        Raises ImageError and ShutDown.
        """
        for output in outputs:
            if output.needs_instances and rendered.instances is None:
                continue  # the model was replaced after the frame arrived
            message = self._message(output, rendered, header)
            with shutdown_errors(self._context):
                self._publishers[output].publish(message)

    def _message(self, output: Output, rendered: Rendered, header: Header) -> Any:
        content = output.render(rendered)
        if output.form == DETECTIONS:
            return mask_messages.detections_message(content, header)
        if output.encode is None:
            return self._buffers[output.topic].message(content, header)
        return mask_messages.compressed_message(output.encode(content), output.format, header)

    def destroy(self, node: Node) -> None:
        """Destroy the publishers."""
        for publisher in (*self._publishers.values(), self.camera_info, self._scores):
            node.destroy_publisher(publisher)


class LabelInfoOutput:
    """Latched description of the published labels."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._json = node.create_publisher(String, f'~/{topics.LABEL_INFO_JSON}', LATCHED_QOS)
        self._info: Publisher | None = None
        if mask_messages.LabelInfo is not None:
            self._info = node.create_publisher(
                mask_messages.LabelInfo, f'~/{topics.LABEL_INFO}', LATCHED_QOS
            )

    def publish(self, scheme: LabelScheme, min_confidence: float) -> None:
        """Publish the description to present and future subscribers."""
        self._json.publish(mask_messages.label_info_json(scheme))
        if self._info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            self._info.publish(mask_messages.label_info(scheme, min_confidence, header))

    def destroy(self, node: Node) -> None:
        """Destroy the publishers."""
        for publisher in filter(None, (self._json, self._info)):
            node.destroy_publisher(publisher)
