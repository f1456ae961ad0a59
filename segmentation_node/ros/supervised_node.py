# SPDX-License-Identifier: Apache-2.0
"""Managed node with declared parameters, diagnostics and a life cycle that reports its errors."""

import traceback
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter
from rclpy.timer import Timer

from segmentation_node import topics
from segmentation_node.errors import SegmentationError, one_line
from segmentation_node.pipeline.frames import stamp_ns_of
from segmentation_node.ros.diagnostics import SupervisedHealth
from segmentation_node.ros.parameters import (
    ParametersT,
    declare_parameters,
    integers_as_floats,
    unknown_parameters_warning,
)
from segmentation_node.ros.publishers import DIAGNOSTICS_QOS
from segmentation_node.ros.services import contain_errors
from segmentation_node.ros.transitions import SUCCESS

DIAGNOSTICS_PERIOD_S = 1.0


class SupervisedNode(LifecycleNode, Generic[ParametersT]):
    """Base of the nodes of this package.

    Frames, diagnostics and everything else are served by different executor threads. The
    parameters are those of `PARAMETERS`, whose field `autostart` makes the node configure and
    activate itself.
    """

    PARAMETERS: ClassVar[Any]
    #: How often `follow` is called.
    FOLLOW_PERIOD_S: ClassVar[float] = 1.0

    def __init__(self, name: str, health: SupervisedHealth, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._health = health
        self.state = 'unconfigured'
        self.frames = MutuallyExclusiveCallbackGroup()
        self.diagnostics = MutuallyExclusiveCallbackGroup()
        #: Groups that are served by a thread each.
        self.groups = [self.frames, self.diagnostics]
        self._values: ParametersT = self._declare_parameters()
        self._status_publisher = self.create_publisher(
            DiagnosticArray, topics.DIAGNOSTICS, DIAGNOSTICS_QOS
        )

    @property
    def health(self) -> SupervisedHealth:
        """Health that the diagnostics report."""
        return self._health

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
        """Return the present status; raises the error of a thread that has failed."""

    @abstractmethod
    def exclusive_topics(self) -> Sequence[str]:
        """Return topics that no other node may publish on."""

    @abstractmethod
    def stop_within(self, timeout_s: float) -> None:
        """Stop all work; wait for frames in progress until the timeout."""

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

    # Diagnostics

    def _publish_status(self) -> None:
        self._check_for_rivals()
        previous_warning = self.health.loss_warning
        status = self.status()
        if self.health.loss_warning and not previous_warning:
            self.get_logger().warning(f'{self.health.loss_warning}:\n{self.health.remedy}')
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._status_publisher.publish(message)

    def _check_for_rivals(self) -> None:
        """Warn if other nodes publish on the same topics, such as a second node of this name."""
        rivals = [topic for topic in self.exclusive_topics() if self.count_publishers(topic) > 1]
        previous_warning, self.health.rival_warning = self.health.rival_warning, ''
        if rivals:
            self.health.rival_warning = (
                f'another node publishes on {rivals[0]}, so that every message arrives twice: '
                f'give each node a different name (-r __node:=NAME), or stop the other node'
            )
        if self.health.rival_warning and not previous_warning:
            self.get_logger().warning(self.health.rival_warning)
