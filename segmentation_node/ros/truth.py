# SPDX-License-Identifier: Apache-2.0
"""Intake of truth: subscribes to label masks with the truth, and to their description."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segmentation_node import topics
from segmentation_node.errors import ImageError
from segmentation_node.images.encodings import label_view
from segmentation_node.pipeline.frames import stamp_ns_of
from segmentation_node.pipeline.live_scores import LiveScores
from segmentation_node.ros.camera_subscription import CameraSubscription
from segmentation_node.ros.publishers import LATCHED_QOS


def truth_topics(node: Node, cameras: list[str], truth_topic: str) -> dict[str, str]:
    """Return the full name of the truth of each camera, after remapping; '' for no truth.

    A relative name is below the prefix of the camera, as the name of its image is.
    """
    if not truth_topic:
        return dict.fromkeys(cameras, '')
    relative = not truth_topic.startswith('/')
    return {
        camera: str(
            node.resolve_topic_name(
                f'{camera}/{truth_topic}'.lstrip('/') if relative else truth_topic
            )
        )
        for camera in cameras
    }


class TruthIntake:
    """Subscriptions to the truth of the cameras."""

    def __init__(
        self,
        node: Node,
        truth: Mapping[str, str],
        *,
        scores: LiveScores,
        max_pixels: Callable[[], int],
        group: CallbackGroup,
    ) -> None:
        """Subscribe.

        Args:
            node: owner of the subscriptions.
            truth: topic of each camera; empty for a camera without truth.
            scores: takes the truth.
            max_pixels: returns the maximum number of pixels of a label mask.
            group: callback group of all subscriptions; mutually exclusive.

        Raises:
            SettingError: a reliability that the user has set is unknown.
        """
        self._node, self._scores, self._max_pixels = node, scores, max_pixels
        self._lock = threading.Lock()
        self._closed = False
        self._masks: list[CameraSubscription] = []
        self._descriptions: list[Subscription] = []
        try:
            for camera, topic in truth.items():
                if topic:
                    self._subscribe(camera, topic, group)
        except Exception:
            self.close()
            raise

    def follow(self) -> None:
        """Adapt the reliability of each subscription to its publishers."""
        for masks in self._masks:
            masks.follow()

    def close(self) -> None:
        """Unsubscribe; no truth is accepted afterwards."""
        with self._lock:
            self._closed = True
            for masks in self._masks:
                masks.close()
            for description in self._descriptions:
                self._node.destroy_subscription(description)

    def _subscribe(self, camera: str, topic: str, group: CallbackGroup) -> None:
        self._descriptions.append(
            self._node.create_subscription(
                String,
                topics.label_info_beside(topic),
                partial(self._on_description, camera),
                LATCHED_QOS,
                callback_group=group,
            )
        )
        self._masks.append(
            CameraSubscription(
                self._node,
                Image,
                topic,
                on_image=partial(self._on_truth, camera),
                on_lost=partial(self._scores.add_lost_truth, camera),
                group=group,
                lock=self._lock,
            )
        )

    def _on_truth(self, camera: str, message: Any) -> None:
        with self._lock:
            if self._closed:
                return  # it arrived while the subscription was being destroyed
            try:
                labels = label_view(message, self._max_pixels())
            except ImageError as error:
                self._scores.refuse_truth(camera, f'malformed truth: {error}')
                return
            self._scores.add_truth(camera, stamp_ns_of(message), labels)

    def _on_description(self, camera: str, message: String) -> None:
        with self._lock:
            if not self._closed:
                self._scores.describe_truth(camera, message.data)
