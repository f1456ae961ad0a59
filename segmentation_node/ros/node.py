# SPDX-License-Identifier: Apache-2.0
"""The segmentation node: a managed node that turns camera images into label masks."""

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SegmentationError, SettingError, one_line, printable
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import decode_compressed, decode_image
from segmentation_node.pipeline.worker import Worker
from segmentation_node.ros.diagnostics import NodeHealth
from segmentation_node.ros.intake import Intake
from segmentation_node.ros.mask_messages import pick_converter
from segmentation_node.ros.model import load_model
from segmentation_node.ros.parameters import (
    RELOADS,
    UNCONFIGURED,
    Parameters,
    declare_parameters,
    integers_as_floats,
    unknown_parameters_warning,
)
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS, CameraPublishers, LabelInfoOutput
from segmentation_node.ros.services import contain_errors
from segmentation_node.ros.transitions import SUCCESS, reported
from segmentation_node.ros.transport import reliable_camera_commands

#: How often the reliability of cameras is checked, in addition to events of the middleware.
FOLLOW_PERIOD_S = 1.0
DIAGNOSTICS_PERIOD_S = 1.0


class SegmentationNode(LifecycleNode):
    """Subscribes to cameras, segments their newest frames and publishes masks.

    Frames, diagnostics and everything else are served by different executor threads, so that
    loading a model during a transition or a parameter change delays no frame.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(topics.NODE_NAME, **kwargs)
        self.health = NodeHealth()
        self.state = 'unconfigured'
        self.frames = MutuallyExclusiveCallbackGroup()
        self.diagnostics = MutuallyExclusiveCallbackGroup()
        self._worker: Worker | None = None
        self._intake: Intake | None = None
        self._camera_publishers: dict[str, CameraPublishers] = {}
        self._label_info: LabelInfoOutput | None = None
        self._values = self._declare_parameters()
        self._samples = Samples(self._values.bits_per_sample)
        self._status_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, DIAGNOSTICS_QOS
        )
        self._create_timers()
        contain_errors(self)

    def _declare_parameters(self) -> Parameters:
        overrides = self._parameter_overrides  # rclpy has no public access to them
        values = declare_parameters(self, overrides)
        if warning := unknown_parameters_warning(overrides):
            self.get_logger().warning(warning)
        if hasattr(self, 'add_pre_set_parameters_callback'):  # not in Humble
            self.add_pre_set_parameters_callback(integers_as_floats)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        return values

    def _create_timers(self) -> None:
        # On the steady clock: simulated time may stand still, or never start.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_status, self.diagnostics, steady)
        self.create_timer(FOLLOW_PERIOD_S, self._follow_cameras, self.frames, steady)
        if self._values.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=steady)

    def _start(self) -> None:
        self._autostart.cancel()
        if self.state != 'unconfigured':
            return  # a lifecycle manager was faster
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _follow_cameras(self) -> None:
        if (intake := self._intake) is not None:
            intake.follow()

    # Life cycle

    @reported
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        values = self._values
        self.get_logger().info(f'loading {printable(values.model)} ...')
        segmenter = load_model(values)
        converter, decode = self._decoder(compressed=values.image_transport == 'compressed')
        self._camera_publishers = {
            camera: CameraPublishers(self, camera, has_instances=segmenter.has_instances)
            for camera in values.cameras
        }
        self._label_info = LabelInfoOutput(self)
        self._worker = Worker(
            segmenter=segmenter,
            overlay_alpha=values.overlay_alpha,
            publishers=self._camera_publishers,
            accounts=self.health.accounts,
            decode=decode,
            latency_ms=self._latency_ms,
            report=self._report_frame,
            outlines=values.overlay_outlines,
        )
        self._worker.start()
        self._label_info.publish(segmenter.scheme, values.min_confidence)
        self.get_logger().info(
            f'{values.model} ({segmenter.scheme.name}) on {segmenter.runtime}, '
            f'{segmenter.device}, {segmenter.precision}; image formats converted by {converter}'
        )
        return SUCCESS

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        if self._worker is None:
            raise SettingError('the node has no model; configure it first')
        values = self._values
        self._intake = Intake(
            self,
            compressed=values.image_transport == 'compressed',
            max_rate_hz=values.max_rate_hz,
            publishers=self._camera_publishers,
            worker=self._worker,
            health=self.health,
            group=self.frames,
        )
        self.health.active_since_s = time.monotonic()
        self.get_logger().info(f'active, listening to {", ".join(self._intake.topics)}')
        return super().on_activate(state)

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; frames in progress are still published."""
        self._close_intake()
        if self._worker is not None:
            self._worker.drain()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Release the model and the publishers."""
        self._release()
        return SUCCESS

    @reported
    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything."""
        self._release()
        return SUCCESS

    @reported
    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Release everything and become unconfigured."""
        self._release()
        return SUCCESS

    def _close_intake(self) -> None:
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def _release(self) -> None:
        self._close_intake()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for publishers in self._camera_publishers.values():
            publishers.destroy(self)
        self._camera_publishers = {}
        if self._label_info is not None:
            self._label_info.destroy(self)
            self._label_info = None

    def stop_within(self, timeout_s: float) -> None:
        """Stop the worker; wait for frames in progress until the timeout."""
        if self._worker is not None:
            self._worker.stop(timeout_s)

    def destroy_node(self) -> None:
        """Destroy the node completely, so that other nodes notice it at once."""
        super().destroy_node()
        # The life cycle of rclpy (7.1) keeps a reference to the node, which would stay alive.
        # The shared memory of Fast DDS would outlive the process: megabytes with every restart.
        self._state_machine.destroy_when_not_in_use()

    # Frames

    def _decoder(self, *, compressed: bool) -> tuple[str, Callable[[Any], UInt8Array]]:
        """Return the name of the library that converts formats, and the decoder of messages."""
        converter, convert = pick_converter()
        decode: Callable[..., UInt8Array] = (
            decode_compressed if compressed else partial(decode_image, convert=convert)
        )
        return converter, lambda message: decode(
            message, max_pixels=self._values.max_image_pixels, samples=self._samples
        )

    def _latency_ms(self, message: Any) -> float:
        # In plain numbers: the Time of rclpy raises on a negative stamp, which cameras may send.
        stamp = message.header.stamp
        stamp_ns = int(stamp.sec) * 10**9 + int(stamp.nanosec)
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e6

    def _report_frame(self, text: str) -> None:
        self.health.last_error = text
        # A broken camera must not fill the disk with log files; the counts include every frame.
        self.get_logger().error(text, throttle_duration_sec=1.0)

    # Parameters

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            self._change_parameters(self._values.with_changes(changes))
        except SegmentationError as error:
            self.get_logger().warning(f'parameter rejected: {error}')
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 (any error: the old values stay)
            if self.context.ok():  # otherwise a signal has shut ROS down
                self.get_logger().error(f'parameter rejected: {traceback.format_exc()}')
            reason = f'{type(error).__name__}: {one_line(error)}'
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _change_parameters(self, values: Parameters) -> None:
        """Make new values effective; raises SegmentationError and changes nothing."""
        if self._worker is not None and values != self._values:
            self._change_worker(self._worker, values)
        if self._intake is not None:
            self._intake.max_rate_hz = values.max_rate_hz
        if values.bits_per_sample != self._values.bits_per_sample:
            self._samples = Samples(values.bits_per_sample)
        self._values = values

    def _change_worker(self, worker: Worker, values: Parameters) -> None:
        if fixed := values.changed(self._values, UNCONFIGURED):
            raise SettingError(
                f'{", ".join(fixed)} cannot change while the node is configured; '
                f'clean it up first (ros2 lifecycle set ... cleanup)'
            )
        if values.changed(self._values, RELOADS):
            self.get_logger().info(f'loading {printable(values.model)} in the background ...')
            worker.segmenter = load_model(values, worker.image_sizes_hw)
            for publishers in self._camera_publishers.values():
                publishers.has_instances = worker.segmenter.has_instances
            self.get_logger().info(f'now running {printable(values.model)}')
        worker.segmenter.min_confidence = values.min_confidence
        worker.segmenter.thresholds = values.thresholds
        worker.overlay_alpha, worker.outlines = values.overlay_alpha, values.overlay_outlines
        if self._label_info is not None:
            self._label_info.publish(worker.segmenter.scheme, values.min_confidence)

    # Diagnostics

    def _publish_status(self) -> None:
        worker = self._worker
        if worker is not None and worker.failure is not None:
            raise worker.failure
        self._check_for_rivals()
        self._check_for_instances()
        previous_warning = self.health.loss_warning
        status = self.health.status(
            self.get_fully_qualified_name(), self.state, worker, self._remedy_of
        )
        if self.health.loss_warning and not previous_warning:
            self.get_logger().warning(f'{self.health.loss_warning}:\n{self.health.remedy}')
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_publisher.publish(message)

    def _check_for_rivals(self) -> None:
        """Warn if other nodes publish on the same topics, such as a second node of this name."""
        topics_ = [publishers.label_mask_topic for publishers in self._camera_publishers.values()]
        rivals = [topic for topic in topics_ if self.count_publishers(topic) > 1]
        previous_warning, self.health.rival_warning = self.health.rival_warning, ''
        if rivals:
            self.health.rival_warning = (
                f'another node publishes on {rivals[0]}, so that every mask arrives twice: give '
                f'each node a different name (-r __node:=NAME), or stop the other node'
            )
        if self.health.rival_warning and not previous_warning:
            self.get_logger().warning(self.health.rival_warning)

    def _check_for_instances(self) -> None:
        """Warn if outputs are subscribed that the model does not have."""
        missing = {
            name for each in self._camera_publishers.values() for name in each.unavailable()
        }
        previous_warning, self.health.instances_warning = self.health.instances_warning, ''
        if missing:
            self.health.instances_warning = (
                f'{", ".join(sorted(missing))} subscribed, but model {self._values.model} has no '
                f'instances, so that nothing is published there: choose a panoptic model or one '
                f'of instances'
            )
        if self.health.instances_warning and not previous_warning:
            self.get_logger().warning(self.health.instances_warning)

    def _remedy_of(self, topic: str) -> str:
        intake = self._intake
        return reliable_camera_commands(topic) if intake is None else intake.remedy_of(topic)
