# SPDX-License-Identifier: Apache-2.0
"""Subscriptions of the node label_cloud: matches messages and passes frames to the worker."""

import threading
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import String

from segmentation_node import topics
from segmentation_node.cloud.geometry import decode_cloud
from segmentation_node.cloud.matching import StampMatcher
from segmentation_node.cloud.worker import CloudWorker, MatchedFrame
from segmentation_node.errors import CloudError, ImageError
from segmentation_node.images.encodings import DEPTH, INSTANCES, LABELS, decode_image, values_view
from segmentation_node.pipeline.frames import stamp_ns_of
from segmentation_node.ros.camera_subscription import CameraSubscription
from segmentation_node.ros.intake import CAMERA_INFO_QOS
from segmentation_node.ros.label_cloud.health import CloudHealth
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.mask_messages import pick_converter
from segmentation_node.ros.publishers import LATCHED_QOS
from segmentation_node.ros.transport import reliable_camera_commands


@dataclass(frozen=True)
class Input:
    """A topic whose messages are matched; `decode` takes a message and the maximum of pixels."""

    topic: str
    kind: type[Any]
    decode: Callable[[Any, int], Any]


def _of_node(output: str) -> str:
    """Return the topic of an output of a segmentation node in the same namespace."""
    return f'{topics.NODE_NAME}/{output}'


def _values(encodings: tuple[str, ...]) -> Callable[[Any, int], Any]:
    return lambda message, max_pixels: values_view(message, encodings, max_pixels)


def _color_decoder(message: Any, max_pixels: int) -> Callable[[], Any]:
    """Return a function that decodes a color image, for the thread that needs it."""
    _, convert = pick_converter()
    return partial(decode_image, message, convert, max_pixels=max_pixels)


DEPTH_IMAGE: Final = Input(topics.DEPTH, Image, _values(DEPTH))
ORGANIZED_CLOUD: Final = Input(topics.CLOUD, PointCloud2, decode_cloud)
LABEL_MASK: Final = Input(_of_node(topics.LABEL_MASK), Image, _values(LABELS))
CONFIDENCE: Final = Input(_of_node(topics.CONFIDENCE), Image, _values(LABELS))
INSTANCE_MASK: Final = Input(_of_node(topics.INSTANCE_MASK), Image, _values(INSTANCES))
COLOR_IMAGE: Final = Input(topics.IMAGE, Image, _color_decoder)
LABEL_INFO: Final = _of_node(topics.LABEL_INFO_JSON)


def depth_input(values: CloudParameters) -> Input:
    """Return the input that has the coordinates."""
    return DEPTH_IMAGE if values.source == 'depth' else ORGANIZED_CLOUD


def other_inputs(values: CloudParameters) -> Iterator[Input]:
    """Yield the inputs that must have the stamp of the label mask."""
    if values.use_confidence:
        yield CONFIDENCE
    if values.use_instances:
        yield INSTANCE_MASK
    if values.color == 'image':
        yield COLOR_IMAGE


class CloudIntake:
    """Subscriptions to everything that a cloud is built of."""

    def __init__(
        self,
        node: Node,
        values: CloudParameters,
        *,
        worker: CloudWorker,
        health: CloudHealth,
        wanted: Callable[[], bool],
        on_camera_info: Callable[[Any], None],
        on_label_info: Callable[[str], None],
        report: Callable[[str], None],
        group: CallbackGroup,
    ) -> None:
        """Subscribe.

        Args:
            node: owner of the subscriptions.
            values: select the inputs.
            worker: takes matched frames.
            health: counts messages.
            wanted: returns whether clouds have a subscriber.
            on_camera_info: receives each calibration.
            on_label_info: receives each description of the labels.
            report: receives the text of a problem with a message.
            group: callback group of all subscriptions; mutually exclusive.

        Raises:
            SettingError: a reliability that the user has set is unknown.
        """
        self._node, self._worker, self._health = node, worker, health
        self._wanted, self._report = wanted, report
        #: Maximum number of pixels of an image or cloud; may be replaced at any time.
        self.max_image_pixels = values.max_image_pixels
        self._depth, others = depth_input(values), list(other_inputs(values))
        self._inputs = [self._depth, LABEL_MASK, *others]
        self._accounts = {
            self._depth.topic: health.accounts, LABEL_MASK.topic: health.mask_accounts,
        }  # fmt: skip
        self._matcher: StampMatcher[Any] = StampMatcher(
            self._depth.topic,
            LABEL_MASK.topic,
            [each.topic for each in others],
            tolerance_ns=round(values.tolerance_s * 1e9),
            queue_size=values.queue_size,
            superseded=lambda topic: self._settle(topic, 'superseded'),
        )
        now_s = time.monotonic()
        self._arrivals_s = {each.topic: now_s for each in self._inputs}
        self._lock = threading.Lock()
        self._closed = False
        self._subscriptions: list[CameraSubscription] = []
        self._small: list[Any] = []
        try:
            self._subscribe(group, on_camera_info, on_label_info)
        except Exception:
            self.close()
            raise

    @property
    def topics(self) -> list[str]:
        """Full names of the matched topics."""
        return [subscription.topic for subscription in self._subscriptions]

    def silent(self, since_s: float) -> list[str]:
        """Return the full names of the matched topics without a message since a time."""
        return [
            subscription.topic
            for each, subscription in zip(self._inputs, self._subscriptions, strict=True)
            if self._arrivals_s[each.topic] < since_s
        ]

    def follow(self) -> None:
        """Adapt the reliability of each subscription to its publishers."""
        for subscription in self._subscriptions:
            subscription.follow()

    def remedy_of(self, topic: str) -> str:
        """Return shell commands that prevent losses on a topic."""
        found = (each.remedy for each in self._subscriptions if each.topic == topic)
        return next(found, reliable_camera_commands(topic))

    def close(self) -> None:
        """Unsubscribe; waiting messages are not wanted, and no other is accepted afterwards."""
        with self._lock:
            self._closed = True
            for subscription in self._subscriptions:
                subscription.close()
            for small in self._small:
                self._node.destroy_subscription(small)
            for topic, count in self._matcher.clear().items():
                for _ in range(count):
                    self._settle(topic, 'not_wanted')

    def _subscribe(
        self,
        group: CallbackGroup,
        on_camera_info: Callable[[Any], None],
        on_label_info: Callable[[str], None],
    ) -> None:
        if self._depth is DEPTH_IMAGE:
            self._subscribe_small(
                CameraInfo, topics.CAMERA_INFO, on_camera_info, CAMERA_INFO_QOS, group
            )
        self._subscribe_small(
            String, LABEL_INFO, lambda message: on_label_info(message.data), LATCHED_QOS, group
        )
        for each in self._inputs:
            topic = self._node.resolve_topic_name(each.topic)
            self._subscriptions.append(
                CameraSubscription(
                    self._node,
                    each.kind,
                    topic,
                    on_image=partial(self._on_message, each),
                    on_lost=partial(self._on_lost, each.topic, topic),
                    group=group,
                    lock=self._lock,
                )
            )

    def _subscribe_small(
        self,
        kind: type[Any],
        topic: str,
        callback: Callable[[Any], None],
        qos: QoSProfile,
        group: CallbackGroup,
    ) -> None:
        def receive(message: Any) -> None:
            with self._lock:
                if not self._closed:
                    callback(message)

        self._small.append(
            self._node.create_subscription(
                kind,
                topic,
                receive,
                copy(qos),  # rclpy writes overrides into it
                callback_group=group,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )

    def _on_lost(self, topic: str, full_name: str, count: int) -> None:
        if topic == self._depth.topic:
            self._health.add_lost(full_name, count)
        elif topic in self._accounts:
            self._accounts[topic].add_lost(count)

    def _on_message(self, source: Input, message: Any) -> None:
        with self._lock:
            if self._closed:
                return  # it arrived while the subscription was being destroyed
            self._note_arrival(source.topic)
            if not self._wanted():
                self._settle(source.topic, 'not_wanted')
                return
            try:
                decoded = source.decode(message, self.max_image_pixels)
            except (ImageError, CloudError) as error:
                self._report(f'malformed message on {source.topic}: {error}')
                self._settle(source.topic, 'malformed')
                return
            match = self._matcher.add(source.topic, stamp_ns_of(message), (message, decoded))
            if match is not None:
                self._worker.slots.put(self._frame(match))

    def _note_arrival(self, topic: str) -> None:
        now_s = self._arrivals_s[topic] = time.monotonic()
        if topic in self._accounts:
            self._accounts[topic].arrive()
        if topic == self._depth.topic:
            self._health.last_arrival_s = now_s
            self._worker.timings.arrivals.add(now_s)

    def _settle(self, topic: str, fate: str) -> None:
        if topic in self._accounts:
            self._accounts[topic].settle(fate)

    def _frame(self, match: dict[str, Any]) -> MatchedFrame:
        decoded = {topic: item for topic, (_, item) in match.items()}
        return MatchedFrame(
            match[self._depth.topic][0].header,
            decoded[self._depth.topic],
            decoded[LABEL_MASK.topic],
            decoded.get(CONFIDENCE.topic),
            decoded.get(INSTANCE_MASK.topic),
            decoded.get(COLOR_IMAGE.topic),
        )
