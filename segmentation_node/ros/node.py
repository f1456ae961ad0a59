# SPDX-License-Identifier: Apache-2.0
"""The segmentation node: a managed node that turns camera images into label masks."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from copy import copy
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from segmentation_node import topics
from segmentation_node.errors import SegmentationError, SettingError, one_line, printable
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import ImageRgb, decode_compressed, decode_image
from segmentation_node.pipeline.frames import Frame, RateLimit
from segmentation_node.pipeline.worker import Worker
from segmentation_node.ros.camera_subscription import CameraSubscription
from segmentation_node.ros.diagnostics import Health
from segmentation_node.ros.executor import GroupsExecutor
from segmentation_node.ros.logging import forward_log
from segmentation_node.ros.mask_messages import pick_converter
from segmentation_node.ros.parameter_files import unheard_files
from segmentation_node.ros.parameters import (
    RELOADS,
    UNCONFIGURED,
    Parameters,
    as_declared,
    declare_parameters,
    undeclared,
)
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS, CameraPublishers, LabelInfoOutput
from segmentation_node.ros.services import answer_always
from segmentation_node.ros.transport import (
    enable_large_frames,
    reliable_camera,
    remove_dead_segments,
)
from segmentation_node.runtimes.activity import doing
from segmentation_node.runtimes.memory import keep_freed_memory

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

#: Best effort matches every publisher; calibrations are small enough to arrive.
CAMERA_INFO_QOS = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
#: How often cameras are looked at, beside the events of the middleware that tell of them.
FOLLOW_PERIOD_S = 1.0
#: How long the frame in work may hold up the end.
STOP_S: Final = 0.5
#: Exit status of a failure that is the node's own: EX_SOFTWARE of sysexits.h.
FAILED: Final = 70
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

#: States in and after a transition, as the life cycle calls them.
_STATES = {
    'on_configure': ('configuring', 'inactive'),
    'on_activate': ('activating', 'active'),
    'on_deactivate': ('deactivating', 'inactive'),
    'on_cleanup': ('cleaningup', 'unconfigured'),
    'on_shutdown': ('shuttingdown', 'finalized'),
    'on_error': ('errorprocessing', 'unconfigured'),
}

Transition = Callable[['SegmentationNode', LifecycleState], TransitionCallbackReturn]


def _reported(transition: Transition) -> Transition:
    """Log what goes wrong in a transition; rclpy swallows exceptions there."""

    @wraps(transition)
    def reporting(self: 'SegmentationNode', state: LifecycleState) -> TransitionCallbackReturn:
        before = self._state
        self._state, after = _STATES[transition.__name__]
        try:
            outcome = transition(self, state)
        except SegmentationError as error:
            self._state = before
            self.health.refuse(str(error))
            self.get_logger().error(f'{transition.__name__}: {error}')
            return FAILURE
        except Exception as error:
            if not self.context.ok():
                return FAILURE  # a signal took ROS down meanwhile
            self.health.refuse(f'{type(error).__name__}: {error}')
            self.get_logger().error(f'{transition.__name__}: {traceback.format_exc()}')
            raise
        self._state = after
        if transition.__name__ != 'on_error':  # it follows upon what must not be forgotten
            self.health.refused = ''
        return outcome

    return reporting


class SegmentationNode(LifecycleNode):
    """Subscribes to cameras, segments their newest frames, publishes masks.

    Frames, parameters and diagnostics are served by different executor threads, so that loading
    a model, which a parameter or a transition may ask for, holds up no frame.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(topics.NODE_NAME, **kwargs)
        self.health = Health()
        self._state = 'unconfigured'
        overrides = self._parameter_overrides  # rclpy tells them nowhere else
        self._values: Parameters = declare_parameters(self, overrides)
        if warning := undeclared(overrides):
            self.get_logger().warning(warning)
        self._samples = Samples(self._values.bits_per_sample)
        self._worker: Worker | None = None
        self._outputs: dict[str, CameraPublishers] = {}
        self._label_info: LabelInfoOutput | None = None
        self._cameras: list[CameraSubscription] = []
        self._camera_infos: list[Subscription] = []
        # Held while a frame is taken in and while what it needs is taken down.
        self._intake = threading.Lock()
        self._rates: dict[str, RateLimit] = {}
        self.frames = MutuallyExclusiveCallbackGroup()
        self.diagnostics = MutuallyExclusiveCallbackGroup()
        if hasattr(self, 'add_pre_set_parameters_callback'):  # not in Humble
            self.add_pre_set_parameters_callback(as_declared)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._status_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, DIAGNOSTICS_QOS
        )
        # On the steady clock: simulated time may stand still, or never come.
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._diagnose, self.diagnostics, steady)
        self.create_timer(FOLLOW_PERIOD_S, self._follow_cameras, self.frames, steady)
        if self._values.autostart:
            self._autostart = self.create_timer(0.0, self._start, clock=steady)
        answer_always(self)

    def _start(self) -> None:
        self._autostart.cancel()
        if self._state != 'unconfigured':
            return  # a lifecycle manager was quicker
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Life cycle

    @_reported
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, advertise the topics."""
        values = self._values
        self.get_logger().info(f'loading {printable(values.model)} ...')
        segmenter = load_segmenter(values)
        name, convert = pick_converter()
        decode: Callable[..., ImageRgb] = partial(decode_image, convert=convert)
        if values.image_transport == 'compressed':
            decode = decode_compressed
        self._outputs = {camera: CameraPublishers(self, camera) for camera in values.cameras}
        self._label_info = LabelInfoOutput(self)
        worker = Worker(
            segmenter=segmenter,
            overlay_alpha=values.overlay_alpha,
            publishers=self._outputs,
            accounts=self.health.accounts,
            decode=lambda image: decode(
                image, max_pixels=self._values.max_image_pixels, samples=self._samples
            ),
            latency_ms=self._latency_ms,
            report=self._report_frame,
        )
        worker.start()
        self._worker = worker
        self._label_info.publish(segmenter.scheme, values.min_confidence)
        self.get_logger().info(
            f'{values.model} ({segmenter.scheme.name}) on {segmenter.runtime}, '
            f'{segmenter.device}, {segmenter.precision}; camera formats by {name}'
        )
        return SUCCESS

    @_reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        try:
            for camera in self._values.cameras:
                self._rates[camera] = RateLimit()
                self._subscribe(camera)
        except SettingError:
            self._unsubscribe()
            raise
        self.health.active_since_s = time.monotonic()
        listening = ', '.join(camera.topic for camera in self._cameras)
        self.get_logger().info(f'active, listening to {listening}')
        return super().on_activate(state)

    @_reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the frame in work is still published."""
        self._unsubscribe()
        if self._worker is not None:
            self._worker.drain()
        return super().on_deactivate(state)

    @_reported
    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Give up the model and the topics."""
        self._release()
        return SUCCESS

    @_reported
    def on_shutdown(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Give up everything."""
        self._release()
        return SUCCESS

    @_reported
    def on_error(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, with nothing held."""
        self._release()
        return SUCCESS

    def _subscribe(self, camera: str) -> None:
        kind, suffix = Image, ''
        if self._values.image_transport == 'compressed':
            # As image_transport does: the transport's name follows the topic after remapping.
            kind, suffix = CompressedImage, topics.COMPRESSED_SUFFIX
        image = self.resolve_topic_name(f'{camera}/{topics.IMAGE}'.lstrip('/')) + suffix
        camera_info = self.resolve_topic_name(f'{camera}/{topics.CAMERA_INFO}'.lstrip('/'))
        self._camera_infos.append(
            self.create_subscription(
                CameraInfo,
                camera_info,
                partial(self._on_camera_info, camera),
                copy(CAMERA_INFO_QOS),  # rclpy writes overrides into it
                callback_group=self.frames,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        )
        self._cameras.append(
            CameraSubscription(
                self,
                kind,
                image,
                on_image=partial(self._on_image, camera),
                on_lost=partial(self.health.lose, image),
                group=self.frames,
                lock=self._intake,
            )
        )

    def _unsubscribe(self) -> None:
        with self._intake:
            for camera in self._cameras:
                camera.close()
            for subscription in self._camera_infos:
                self.destroy_subscription(subscription)
            self._cameras, self._camera_infos = [], []

    def _follow_cameras(self) -> None:
        for camera in self._cameras:
            camera.follow()

    def _release(self) -> None:
        self._unsubscribe()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        for outputs in self._outputs.values():
            outputs.destroy(self)
        self._outputs = {}
        if self._label_info is not None:
            self._label_info.destroy(self)
            self._label_info = None

    def destroy_node(self) -> None:
        """Take down all of the node, of which others learn at once."""
        super().destroy_node()
        # rclpy's life cycle (7.1) forgets its own hold on the node, which then stays whole. The
        # shared memory of Fast DDS would outlive the process: megabytes with every restart.
        self._state_machine.destroy_when_not_in_use()

    def stop_within(self, timeout_s: float) -> None:
        """End the worker without waiting longer than that for a frame in work."""
        if self._worker is not None:
            self._worker.stop(timeout_s)

    # Frames

    def _on_image(self, camera: str, message: Any) -> None:
        with self._intake:
            worker, accounts = self._worker, self.health.accounts
            if worker is None or not self._camera_infos:
                return  # it came while the node was being taken down
            now_s = time.monotonic()
            self.health.last_arrival_s = now_s
            worker.timings.arrivals.add(now_s)
            accounts.arrive()
            taken = self._rates[camera].allows(self._values.max_rate_hz, now_s)
            if taken and self._outputs[camera].wanted():
                self.health.expect(now_s, worker.published_s)
                worker.slots.put(Frame(camera, message, now_s))
            else:
                accounts.settle('not_wanted')

    def _on_camera_info(self, camera: str, message: CameraInfo) -> None:
        with self._intake:
            if self._camera_infos:
                self._outputs[camera].camera_info.publish(message)

    def _latency_ms(self, message: Any) -> float:
        # In plain numbers: rclpy's Time raises on a negative stamp, and cameras send anything.
        stamp = message.header.stamp
        stamp_ns = int(stamp.sec) * 10**9 + int(stamp.nanosec)
        return (self.get_clock().now().nanoseconds - stamp_ns) / 1e6

    def _report_frame(self, text: str) -> None:
        self.health.last_error = text
        # A broken camera must not fill the disk with log files; the counts miss nothing.
        self.get_logger().error(text, throttle_duration_sec=1.0)

    # Parameters

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            wanted = self._values.with_changes(changes)
            self._apply(wanted)
        except SegmentationError as error:
            self.get_logger().warning(f'parameter refused: {error}')
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 (whatever it is, the old values hold)
            if self.context.ok():  # a signal may have taken ROS down
                self.get_logger().error(f'parameter refused: {traceback.format_exc()}')
            reason = f'{type(error).__name__}: {one_line(error)}'
            return SetParametersResult(successful=False, reason=reason)
        if wanted.bits_per_sample != self._values.bits_per_sample:
            self._samples = Samples(wanted.bits_per_sample)
        self._values = wanted
        return SetParametersResult(successful=True)

    def _apply(self, wanted: Parameters) -> None:
        """Make changed values effective; raises SegmentationError and changes nothing."""
        worker = self._worker
        if worker is None or wanted == self._values:  # it is a parameter of ROS's own
            return
        fixed = wanted.changed(self._values, UNCONFIGURED)
        if fixed:
            raise SettingError(
                f'{", ".join(fixed)} cannot change while the node is configured; '
                f'clean it up first (ros2 lifecycle set ... cleanup)'
            )
        if wanted.changed(self._values, RELOADS):
            self.get_logger().info(f'loading {printable(wanted.model)} aside ...')
            worker.segmenter = load_segmenter(wanted, worker.image_sizes_hw)
            self.get_logger().info(f'now running {printable(wanted.model)}')
        worker.segmenter.min_confidence = wanted.min_confidence
        worker.overlay_alpha = wanted.overlay_alpha
        if self._label_info is not None:
            self._label_info.publish(worker.segmenter.scheme, wanted.min_confidence)

    # Diagnostics

    def _diagnose(self) -> None:
        worker = self._worker
        if worker is not None and worker.failure is not None:
            raise worker.failure
        self._look_for_rivals()
        was_losing = self.health.losing
        status = self.health.status(
            self.get_fully_qualified_name(), self._state, worker, self._remedy_of
        )
        if self.health.losing and not was_losing:
            self.get_logger().warning(f'{self.health.losing}:\n{self.health.remedy}')
        stamp = self.get_clock().now().to_msg()
        message = DiagnosticArray(status=[status])
        message.header.stamp = stamp
        self._status_publisher.publish(message)

    def _look_for_rivals(self) -> None:
        """See whether others publish what this node does, such as a second one of its name."""
        topics_ = [output.label_mask_topic for output in self._outputs.values()]
        rivals = [topic for topic in topics_ if self.count_publishers(topic) > 1]
        before, self.health.rivalry = self.health.rivalry, ''
        if rivals:
            self.health.rivalry = (
                f'somebody else publishes on {rivals[0]}, too, so that masks come twice: give '
                f'each node a name of its own (-r __node:=NAME), or end the other'
            )
        if self.health.rivalry and not before:
            self.get_logger().warning(self.health.rivalry)

    def _remedy_of(self, topic: str) -> str:
        """Remedy for frames that are lost between a camera and the node."""
        camera = next((camera for camera in self._cameras if camera.topic == topic), None)
        return reliable_camera(topic) if camera is None else camera.remedy


def load_segmenter(
    values: Parameters, image_sizes_hw: Collection[tuple[int, int]] = ()
) -> 'Segmenter':
    """A segmenter for parameter values, ready for images of some sizes and of `image_size`.

    Raises SegmentationError.
    """
    with doing(f'loading {printable(values.model)}'):
        # Imported with the first model: the node answers and can be stopped while torch loads.
        from segmentation_node.segmenter import Segmenter

        segmenter = Segmenter(
            values.model,
            runtime=values.runtime,
            device=values.device,
            precision=values.precision,
            input_size=values.input_size_hw,
            label_scheme=values.label_scheme or None,
            min_confidence=values.min_confidence,
            measure_aside=True,
        )
        for image_hw in {*image_sizes_hw, values.image_size_hw}:
            if image_hw is not None:
                segmenter.prepare(image_hw)
        return segmenter


def main(
    args: list[str] | None = None, *, ros_is_up: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run the node until it is told to stop; `ros_is_up` is called when ROS handles signals.

    Exit status 0 is an end that was asked for, 1 a start that cannot succeed as it was asked for,
    and FAILED a failure of the node's own, after which a new start may go well.
    """
    keep_freed_memory()
    profile, dead = enable_large_frames(), remove_dead_segments()
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # of rclpy, as most of its errors are
        _refuse_to_start(error, 'ROS cannot start: ')
    ros_is_up()
    try:
        node = SegmentationNode()
    except (SegmentationError, ParameterException, NameValidationException) as error:
        _refuse_to_start(error)
    except RuntimeError as error:
        if rclpy.ok():
            _refuse_to_start(error)
        _leave(0)  # a signal took ROS down meanwhile
    forward_log(node.get_logger())
    for warning in unheard_files(args or sys.argv, node.get_fully_qualified_name()):
        node.get_logger().warning(warning)
    if profile:
        node.get_logger().info(f'masks leave by shared memory of their size ({profile})')
    if dead:
        node.get_logger().info(f'removed the shared memory of {len(dead)} processes that are dead')
    status = 0
    try:
        GroupsExecutor(node, [node.frames, node.diagnostics]).spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:  # noqa: BLE001 (whatever it is, an orderly end, and the reason)
        # A signal takes ROS down at once; a callback that was about to publish meets that.
        if node.context.ok():
            status = FAILED
            node.get_logger().fatal(f'the node ends: {traceback.format_exc()}')
    node.stop_within(STOP_S)
    node.destroy_node()
    rclpy.try_shutdown()
    _leave(status)


def _refuse_to_start(error: Exception, what: str = '') -> NoReturn:
    remedy = ''
    if os.environ.get('ROS_SECURITY_ENABLE') == 'true' and isinstance(error, RuntimeError):
        remedy = (
            '. ROS_SECURITY_ENABLE is true, and nothing runs without security then: check '
            'ROS_SECURITY_KEYSTORE, the enclave, and that the middleware was built with security'
        )
    print(f'segmentation_node: {what}{one_line(error)}{remedy}', file=sys.stderr)
    _leave(1)


def _leave(status: int) -> NoReturn:
    """End the process now.

    A network in work cannot be interrupted, and the interpreter's own end would pull the ground
    from under its thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
