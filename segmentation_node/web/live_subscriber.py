# SPDX-License-Identifier: Apache-2.0
"""What segmentation nodes in the ROS graph show and say, for whoever looks at the moment.

The node segments only while somebody subscribes to an output; so here is subscribed only while
somebody looks, and to nothing but what they look at.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage

from segmentation_node import topics
from segmentation_node.pipeline.outputs import OUTPUTS
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS

OVERLAY: Final = f'/{OUTPUTS[topics.OVERLAY + topics.COMPRESSED_SUFFIX].name}'
OVERLAY_TYPE: Final = 'sensor_msgs/msg/CompressedImage'
#: The newest picture alone, and no reliability that a slow viewer would be waited for with.
NEWEST: Final = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
#: Only our nodes have this in their diagnostics.
ACCOUNT: Final = 'in_flight'

Status = dict[str, str]


class LiveGraph:
    """A node in a ROS context of its own, spun by a thread; to be called from any thread."""

    def __init__(self) -> None:
        self._context = rclpy.Context()
        # Signals stay with the service.
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
        """Where overlays are published: the node's name, or below it the camera's."""
        return sorted(
            name.removesuffix(OVERLAY)
            for name, types in self._node.get_topic_names_and_types()
            if name.endswith(OVERLAY)
            and OVERLAY_TYPE in types
            and self._node.count_publishers(name)
        )

    @contextmanager
    def overlays(self, camera: str, take: Callable[[bytes], None]) -> Iterator[None]:
        """Call `take` with every compressed overlay of a camera, in ROS's own thread."""

        def on_overlay(message: Any) -> None:
            take(bytes(message.data))

        with self._subscribed(CompressedImage, camera + OVERLAY, on_overlay, NEWEST):
            yield

    @contextmanager
    def statuses(self, take: Callable[[list[Status]], None]) -> Iterator[None]:
        """Call `take` with what segmentation nodes say of themselves, in ROS's own thread."""

        def on_diagnostics(message: Any) -> None:
            found = [
                {
                    'name': status.name,
                    'level': str(status.level[0]),
                    'message': status.message,
                    **{value.key: value.value for value in status.values},
                }
                for status in message.status
            ]
            if ours := [status for status in found if ACCOUNT in status]:
                take(ours)

        with self._subscribed(
            DiagnosticArray, topics.DIAGNOSTICS, on_diagnostics, DIAGNOSTICS_QOS
        ):
            yield

    @contextmanager
    def _subscribed(
        self, kind: Any, topic: str, callback: Callable[[Any], None], qos: QoSProfile
    ) -> Iterator[None]:
        """Subscribe meanwhile; in ROS's thread, which may be waiting for the subscription."""
        made: list[Subscription] = []

        def begin() -> None:
            made.append(self._node.create_subscription(kind, topic, callback, qos))

        def end() -> None:
            for subscription in made:
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
