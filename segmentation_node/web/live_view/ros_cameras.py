# SPDX-License-Identifier: Apache-2.0
"""Overlays, diagnostics and scores of the segmentation nodes in the ROS graph.

A node computes an output only while it has a subscriber, so this module subscribes to an output
only while it has a viewer.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from segmentation_node import topics
from segmentation_node.errors import ForeignError
from segmentation_node.pipeline.outputs import OUTPUTS
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS
from segmentation_node.untrusted import parse_json

OVERLAY: Final = f'/{OUTPUTS[topics.OVERLAY + topics.COMPRESSED_SUFFIX].name}'
OVERLAY_TYPE: Final = 'sensor_msgs/msg/CompressedImage'
#: Only the newest picture, best effort: a slow viewer must not delay the node.
OVERLAY_QOS: Final = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
SCORES: Final = f'/{topics.SCORES}'
#: Limit of the scores of a camera; a report of 40 classes at 100 Hz has half of it.
MAX_SCORES_BYTES: Final = 2**17
#: Diagnostics key that only segmentation nodes have.
NODE_KEY: Final = 'in_flight'

Status = dict[str, str]
Scores = dict[str, Any]


class RosCameras:
    """ROS node that is spun by a thread; all methods are thread-safe."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        # The service handles signals itself.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node('live_view', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name='live', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        self._context.try_shutdown()

    def cameras(self) -> list[str]:
        """Return the name of each node or camera that publishes overlays."""
        return sorted(
            name.removesuffix(OVERLAY)
            for name, types in self._node.get_topic_names_and_types()
            if name.endswith(OVERLAY)
            and OVERLAY_TYPE in types
            and self._node.count_publishers(name)
        )

    @contextmanager
    def overlays(self, camera: str, take: Callable[[bytes], None]) -> Iterator[None]:
        """Call `take` with every overlay of a camera, a JPEG, in the ROS thread."""

        def on_overlay(message: Any) -> None:
            take(bytes(message.data))

        with self._subscribed(CompressedImage, camera + OVERLAY, on_overlay, OVERLAY_QOS):
            yield

    @contextmanager
    def statuses(self, take: Callable[[list[Status]], None]) -> Iterator[None]:
        """Call `take` with the diagnostics of the segmentation nodes, in the ROS thread."""

        def on_diagnostics(message: Any) -> None:
            statuses = [
                {
                    'name': status.name,
                    'level': str(status.level[0]),
                    'message': status.message,
                    **{value.key: value.value for value in status.values},
                }
                for status in message.status
            ]
            if ours := [status for status in statuses if NODE_KEY in status]:
                take(ours)

        with self._subscribed(
            DiagnosticArray, topics.DIAGNOSTICS, on_diagnostics, DIAGNOSTICS_QOS
        ):
            yield

    @contextmanager
    def scores(self, take: Callable[[str, Scores], None]) -> Iterator[None]:
        """Call `take` with the name and the scores of each camera, in the ROS thread.

        Cameras that appear later are included. Nodes measure scores only while this lasts.
        """
        subscriptions: dict[str, Subscription] = {}

        def on_scores(camera: str, message: String) -> None:
            try:
                scores = parse_json(message.data, max_bytes=MAX_SCORES_BYTES)
            except ForeignError:
                return  # not the JSON of a segmentation node
            if isinstance(scores, dict):
                take(camera, scores)

        def follow(_: object) -> None:
            cameras = self.cameras()
            for camera in subscriptions.keys() - set(cameras):
                self._node.destroy_subscription(subscriptions.pop(camera))
            for camera in cameras:
                if camera not in subscriptions:
                    subscriptions[camera] = self._node.create_subscription(
                        String, camera + SCORES, partial(on_scores, camera), OVERLAY_QOS
                    )

        def end() -> None:
            for subscription in subscriptions.values():
                self._node.destroy_subscription(subscription)

        try:
            with self._subscribed(DiagnosticArray, topics.DIAGNOSTICS, follow, DIAGNOSTICS_QOS):
                yield
        finally:
            self._executor.create_task(end)

    @contextmanager
    def _subscribed(
        self, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Iterator[None]:
        """Subscribe while the context lasts, in the ROS thread: its executor may be waiting."""
        subscriptions: list[Subscription] = []

        def begin() -> None:
            subscriptions.append(self._node.create_subscription(kind, topic, callback, qos))

        def end() -> None:
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)

        self._executor.create_task(begin)
        try:
            yield
        finally:
            self._executor.create_task(end)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return
