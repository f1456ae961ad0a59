# SPDX-License-Identifier: Apache-2.0
"""Intake of frames: subscribes to the cameras and passes wanted frames to the worker."""

import threading
import time
from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segmentation_node import topics
from segmentation_node.pipeline.frames import LiveFrame, RateLimit
from segmentation_node.pipeline.worker import Worker
from segmentation_node.ros.camera_subscription import CameraSubscription
from segmentation_node.ros.diagnostics import NodeHealth
from segmentation_node.ros.publishers import CameraPublishers
from segmentation_node.ros.transport import reliable_camera_commands

#: Best effort matches every publisher; calibrations are too small to get lost.
CAMERA_INFO_QOS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


class Intake:
    """Subscriptions to the images and calibrations of the cameras.

    `max_rate_hz` may be replaced at any time.
    """

    def __init__(
        self,
        node: Node,
        *,
        compressed: bool,
        max_rate_hz: float,
        publishers: Mapping[str, CameraPublishers],
        worker: Worker,
        health: NodeHealth,
        group: CallbackGroup,
    ) -> None:
        """Subscribe.

        Args:
            node: owner of the subscriptions.
            compressed: subscribe to CompressedImage instead of Image.
            max_rate_hz: maximum rate per camera; 0 means no limit.
            publishers: outputs of each camera.
            worker: takes the wanted frames.
            health: counts frames.
            group: callback group of all subscriptions; mutually exclusive.

        Raises:
            SettingError: a reliability that the user has set is unknown.
        """
        self.max_rate_hz = max_rate_hz
        self._node, self._compressed, self._group = node, compressed, group
        self._publishers, self._worker, self._health = publishers, worker, health
        self._rates = {camera: RateLimit() for camera in publishers}
        # Held while a frame is accepted and while subscriptions are created or destroyed.
        self._lock = threading.Lock()
        self._closed = False
        self._cameras: list[CameraSubscription] = []
        self._camera_infos: list[Subscription] = []
        try:
            for camera in publishers:
                self._subscribe(camera)
        except Exception:
            self.close()
            raise

    @property
    def topics(self) -> list[str]:
        """Full names of the image topics."""
        return [camera.topic for camera in self._cameras]

    def follow(self) -> None:
        """Adapt the reliability of each subscription to its publishers."""
        for camera in self._cameras:
            camera.follow()

    def remedy_of(self, topic: str) -> str:
        """Return shell commands that prevent losses on an image topic."""
        camera = next((camera for camera in self._cameras if camera.topic == topic), None)
        return reliable_camera_commands(topic) if camera is None else camera.remedy

    def close(self) -> None:
        """Unsubscribe; no frame is accepted afterwards."""
        with self._lock:
            self._closed = True
            for camera in self._cameras:
                camera.close()
            for subscription in self._camera_infos:
                self._node.destroy_subscription(subscription)

    def _subscribe(self, camera: str) -> None:
        # Like image_transport: the suffix of the transport is appended after remapping.
        kind, suffix = (
            (CompressedImage, topics.COMPRESSED_SUFFIX) if self._compressed else (Image, '')
        )
        image = self._resolved(camera, topics.IMAGE) + suffix
        self._camera_infos.append(
            self._node.create_subscription(
                CameraInfo,
                self._resolved(camera, topics.CAMERA_INFO),
                partial(self._on_camera_info, camera),
                copy(CAMERA_INFO_QOS),  # rclpy writes overrides into it
                callback_group=self._group,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )
        self._cameras.append(
            CameraSubscription(
                self._node,
                kind,
                image,
                on_image=partial(self._on_image, camera),
                on_lost=partial(self._health.add_lost, image),
                group=self._group,
                lock=self._lock,
            )
        )

    def _resolved(self, camera: str, topic: str) -> str:
        return str(self._node.resolve_topic_name(f'{camera}/{topic}'.lstrip('/')))

    def _on_image(self, camera: str, message: Any) -> None:
        with self._lock:
            if self._closed:
                return  # it arrived while the subscription was being destroyed
            worker, health = self._worker, self._health
            now_s = time.monotonic()
            health.last_arrival_s = now_s
            worker.timings.arrivals.add(now_s)
            health.accounts.arrive()
            accepted = self._rates[camera].allows(self.max_rate_hz, now_s)
            if accepted and any(worker.wanted(camera)):
                health.note_wanted(now_s, worker.published_s)
                worker.slots.put(LiveFrame(camera, message, now_s))
            else:
                health.accounts.settle('not_wanted')

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        with self._lock:
            if not self._closed:
                self._publishers[camera].camera_info.publish(message)
