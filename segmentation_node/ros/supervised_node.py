# SPDX-License-Identifier: Apache-2.0
"""Managed node with declared parameters, diagnostics and a life cycle that reports its errors."""

import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from segmentation_node import topics
from segmentation_node.errors import SegmentationError, SettingError, one_line
from segmentation_node.pipeline.frames import stamp_ns_of
from segmentation_node.ros.diagnostics import SupervisedHealth
from segmentation_node.ros.parameters import (
    UNCONFIGURED,
    ParametersT,
    declare_parameters,
    integers_as_floats,
    unknown_parameters_warning,
)
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS
from segmentation_node.ros.services import contain_errors
from segmentation_node.ros.transitions import SUCCESS, reported

DIAGNOSTICS_PERIOD_S = 1.0


class FrameWorker(Protocol):
    """Thread of a node that processes frames."""

    failure: BaseException | None

    def drain(self) -> None:
        """Drop the waiting frames and return when those in progress are settled."""

    def stop(self, timeout_s: float = ...) -> object:
        """Drop the waiting frames and finish those in progress, or wait until the timeout."""


HealthT = TypeVar('HealthT', bound=SupervisedHealth)
WorkerT = TypeVar('WorkerT', bound=FrameWorker)


class SupervisedNode(LifecycleNode, Generic[ParametersT, HealthT, WorkerT]):
    """Base of the nodes of this package.

    Frames, diagnostics and everything else are served by different executor threads. The
    parameters are those of `PARAMETERS`, whose field `autostart` makes the node configure and
    activate itself.
    """

    PARAMETERS: ClassVar[Any]
    #: How often `follow` is called.
    FOLLOW_PERIOD_S: ClassVar[float] = 1.0

    def __init__(self, name: str, health: HealthT, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.health = health
        self.state = 'unconfigured'
        self.frames = MutuallyExclusiveCallbackGroup()
        self.diagnostics = MutuallyExclusiveCallbackGroup()
        #: Groups that are served by a thread each.
        self.groups = [self.frames, self.diagnostics]
        #: Created by `on_configure`.
        self._worker: WorkerT | None = None
        self._values: ParametersT = self._declare_parameters()
        self._status_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, DIAGNOSTICS_QOS
        )

    def begin(self) -> None:
        """Start the timers; the last call of a constructor."""
        self.call_every(DIAGNOSTICS_PERIOD_S, self._publish_status, self.diagnostics)
        self.call_every(self.FOLLOW_PERIOD_S, self.follow, self.frames)
        if self.get_parameter('autostart').value:
            self._autostart = self.call_every(0.0, self._start)
        contain_errors(self)

    def call_every(
        self, period_s: float, callback: Callable[[], None], group: CallbackGroup | None = None
    ) -> Timer:
        """Create a timer on the steady clock: simulated time may stand still, or never start."""
        return self.create_timer(
            period_s, callback, group, Clock(clock_type=ClockType.STEADY_TIME)
        )

    @abstractmethod
    def follow(self) -> None:
        """Adapt to publishers and subscribers that have appeared or disappeared."""

    @abstractmethod
    def change_parameters(self, values: ParametersT) -> None:
        """Make new values effective; raises SegmentationError and changes nothing."""

    @abstractmethod
    def status(self) -> DiagnosticStatus:
        """Return the present status."""

    @abstractmethod
    def exclusive_topics(self) -> Sequence[str]:
        """Return topics that no other node may publish on."""

    @abstractmethod
    def close_intake(self) -> None:
        """Unsubscribe, if subscribed."""

    @abstractmethod
    def destroy_publishers(self) -> None:
        """Destroy what `on_configure` has created besides the worker."""

    # Life cycle

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; frames in progress are still published."""
        self.close_intake()
        if self._worker is not None:
            self._worker.drain()
        return super().on_deactivate(state)

    @reported
    def on_cleanup(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Release the worker and the publishers."""
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

    def stop_within(self, timeout_s: float) -> None:
        """Stop the worker; wait for frames in progress until the timeout."""
        if self._worker is not None:
            self._worker.stop(timeout_s)

    def _release(self) -> None:
        self.close_intake()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None
        self.destroy_publishers()

    def destroy_node(self) -> None:
        """Destroy the node completely, so that other nodes notice it at once."""
        super().destroy_node()
        # The life cycle of rclpy (7.1) keeps a reference to the node, which would stay alive.
        # The shared memory of Fast DDS would outlive the process: megabytes with every restart.
        self._state_machine.destroy_when_not_in_use()

    def age_ms(self, message: Any) -> float:
        """Return the time since the stamp of a message."""
        return (self.get_clock().now().nanoseconds - stamp_ns_of(message)) / 1e6

    def report_frame(self, text: str) -> None:
        """Log a problem with a frame."""
        self.health.last_error = text
        # A broken camera must not fill the disk with log files; the counts include every frame.
        self.get_logger().error(text, throttle_duration_sec=1.0)

    def _start(self) -> None:
        self._autostart.cancel()
        if self.state != 'unconfigured':
            return  # a lifecycle manager was faster
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    # Parameters

    def _declare_parameters(self) -> ParametersT:
        overrides = self._parameter_overrides  # rclpy has no public access to them
        values: ParametersT = declare_parameters(self, overrides, self.PARAMETERS)
        if warning := unknown_parameters_warning(overrides, self.PARAMETERS):
            self.get_logger().warning(warning)
        if hasattr(self, 'add_pre_set_parameters_callback'):  # not in Humble
            self.add_pre_set_parameters_callback(
                partial(integers_as_floats, defaults=values.defaults())
            )
        self.add_on_set_parameters_callback(self._on_set_parameters)
        return values

    def _on_set_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            values = self._values.with_changes(changes)
            self.change_parameters(values)
        except SegmentationError as error:
            self.get_logger().warning(f'parameter rejected: {error}')
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # noqa: BLE001 (any error: the old values stay)
            if self.context.ok():  # otherwise a signal has shut ROS down
                self.get_logger().error(f'parameter rejected: {traceback.format_exc()}')
            reason = f'{type(error).__name__}: {one_line(error)}'
            return SetParametersResult(successful=False, reason=reason)
        self._values = values
        return SetParametersResult(successful=True)

    def check_configured(self, values: ParametersT) -> None:
        """Raise SettingError if a value differs that is fixed while the node is configured."""
        if fixed := values.changed(self._values, UNCONFIGURED):
            raise SettingError(
                f'{", ".join(fixed)} cannot change while the node is configured; '
                f'clean it up first (ros2 lifecycle set ... cleanup)'
            )

    # Diagnostics

    def _publish_status(self) -> None:
        worker = self._worker
        if worker is not None and worker.failure is not None:
            raise worker.failure
        previous = dict(self.health.warnings)
        self.health.warnings['rivals'] = self._rivals_warning()
        status = self.status()
        for kind, text in self.health.warnings.items():
            if text and not previous[kind]:
                remedy = f':\n{self.health.remedy}' if kind == 'losses' else ''
                self.get_logger().warning(text + remedy)
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_publisher.publish(message)

    def _rivals_warning(self) -> str:
        """Return a warning if other nodes publish on the same topics, such as one of our name."""
        rivals = [topic for topic in self.exclusive_topics() if self.count_publishers(topic) > 1]
        if not rivals:
            return ''
        return (
            f'another node publishes on {rivals[0]}, so that every message arrives twice: '
            f'give each node a different name (-r __node:=NAME), or stop the other node'
        )
