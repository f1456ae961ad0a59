# SPDX-License-Identifier: Apache-2.0
"""Managed node that labels point clouds with the masks of the segmentation node."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2

from segmentation_node import topics
from segmentation_node.cloud.points import Points
from segmentation_node.cloud.worker import CloudWorker, Recipe
from segmentation_node.errors import SchemeError, SettingError
from segmentation_node.labels import scheme_from_json
from segmentation_node.ros.diagnostics import SILENCE_S
from segmentation_node.ros.label_cloud.health import CloudHealth
from segmentation_node.ros.label_cloud.intake import CloudIntake
from segmentation_node.ros.label_cloud.messages import cloud_message
from segmentation_node.ros.label_cloud.parameters import CloudParameters
from segmentation_node.ros.publishers import MASK_QOS, shutdown_errors
from segmentation_node.ros.supervised_node import SupervisedNode
from segmentation_node.ros.transitions import SUCCESS, reported
from segmentation_node.ros.transport import reliable_camera_commands


class LabelCloudNode(SupervisedNode[CloudParameters, CloudHealth, CloudWorker]):
    """Matches depth with label masks and publishes points with labels.

    It subscribes only while its points have a subscriber, so that the segmentation node computes
    no masks for nobody.
    """

    PARAMETERS = CloudParameters
    #: How often the subscribers of the points are counted.
    FOLLOW_PERIOD_S = 0.2

    def __init__(self, **kwargs: Any) -> None:
        self._intake: CloudIntake | None = None
        self._publisher: Publisher | None = None
        self._recipe = Recipe()
        #: Held while the intake is opened or closed.
        self._intake_lock = threading.Lock()
        #: Held while the recipe is replaced.
        self._recipe_lock = threading.Lock()
        super().__init__(topics.CLOUD_NODE_NAME, CloudHealth(), **kwargs)
        self._change_recipe(**_of_parameters(self._values))
        self.begin()

    # Life cycle

    @reported
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Create the publisher and the worker."""
        self._publisher = self.create_publisher(
            PointCloud2,
            f'~/{topics.POINTS}',
            MASK_QOS,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        self._worker = CloudWorker(
            recipe=self._recipe,
            depth_accounts=self.health.accounts,
            mask_accounts=self.health.mask_accounts,
            publish=self._publish,
            age_ms=self.age_ms,
            report=self.report_frame,
        )
        self._worker.start()
        return SUCCESS

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; `follow` unsubscribes while nobody wants the points."""
        with self._intake_lock:
            intake = self._open_intake()
        self.health.active_since_s = time.monotonic()
        self.get_logger().info(f'active, listening to {", ".join(intake.topics)}')
        return super().on_activate(state)

    def follow(self) -> None:
        """Subscribe while the points have a subscriber, as reliably as the publishers."""
        with self._intake_lock:
            if self.state != 'active':
                return
            if not self._wanted():
                self._close_open_intake()
            elif self._intake is None:
                self._open_intake()
            else:
                self._intake.follow()

    def _open_intake(self) -> CloudIntake:
        if self._worker is None:
            raise SettingError('the node is not configured; configure it first')
        self.health.wanted_since_s = time.monotonic()
        self._intake = CloudIntake(
            self,
            self._values,
            worker=self._worker,
            health=self.health,
            wanted=self._wanted,
            on_camera_info=lambda message: self._change_recipe(camera_info=message),
            on_label_info=self._on_label_info,
            report=self.report_frame,
            group=self.frames,
        )
        return self._intake

    def close_intake(self) -> None:
        """Unsubscribe from all inputs."""
        with self._intake_lock:
            self._close_open_intake()

    def _close_open_intake(self) -> None:
        self.health.wanted_since_s = math.inf
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def destroy_publishers(self) -> None:
        """Destroy the publisher of the points."""
        if self._publisher is not None:
            self.destroy_publisher(self._publisher)
            self._publisher = None

    # Frames

    def _wanted(self) -> bool:
        return self._publisher is not None and self._publisher.get_subscription_count() > 0

    def _publish(self, points: Points, header: Any) -> None:
        message = cloud_message(points, header)
        with shutdown_errors(self.context):
            if self._publisher is not None:
                self._publisher.publish(message)

    def _on_label_info(self, text: str) -> None:
        try:
            self._change_recipe(scheme=scheme_from_json(text))
            self._recipe.ids()
        except SchemeError as error:
            self.report_frame(f'label info rejected: {error}')
        except SettingError as error:  # the frames fail until a parameter is changed
            self.report_frame(str(error))

    def _change_recipe(self, **changes: Any) -> None:
        with self._recipe_lock:
            self._recipe = replace(self._recipe, **changes)
            if self._worker is not None:
                self._worker.recipe = self._recipe

    # Parameters

    def change_parameters(self, values: CloudParameters) -> None:
        """Make new values effective; raises SegmentationError and changes nothing."""
        if self._worker is not None:
            self.check_configured(values)
        changes = _of_parameters(values)
        if self._recipe.scheme is not None:
            replace(self._recipe, **changes).ids()
        self._change_recipe(**changes)
        if (intake := self._intake) is not None:
            intake.max_image_pixels = values.max_image_pixels

    # Diagnostics

    def status(self) -> DiagnosticStatus:
        """Return the present status."""
        intake = self._intake
        return self.health.status(
            self.get_fully_qualified_name(),
            self.state,
            self._worker,
            [] if intake is None else intake.silent(time.monotonic() - SILENCE_S),
            reliable_camera_commands if intake is None else intake.remedy_of,
        )

    def exclusive_topics(self) -> Sequence[str]:
        """Return the topic of the points."""
        return [] if self._publisher is None else [str(self._publisher.topic_name)]


def _of_parameters(values: CloudParameters) -> dict[str, Any]:
    """Return the settings of a recipe."""
    return {
        'selection': values.selection,
        'organized': values.organized,
        'intrinsics': values.intrinsics,
    }
