# SPDX-License-Identifier: Apache-2.0
"""Outcome and reporting of lifecycle transitions."""

import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, Protocol, TypeVar

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from segmentation_node.errors import SegmentationError
from segmentation_node.ros.diagnostics import SupervisedHealth

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE

#: States during and after each transition, as ROS names them.
_STATES: Final = {
    'on_configure': ('configuring', 'inactive'),
    'on_activate': ('activating', 'active'),
    'on_deactivate': ('deactivating', 'inactive'),
    'on_cleanup': ('cleaningup', 'unconfigured'),
    'on_shutdown': ('shuttingdown', 'finalized'),
    'on_error': ('errorprocessing', 'unconfigured'),
}


class ManagedNode(Protocol):
    """Attributes of a lifecycle node that `reported` uses."""

    state: str

    @property
    def health(self) -> SupervisedHealth:
        """Health that the diagnostics report."""
        ...

    @property
    def context(self) -> Any:
        """Context of ROS."""
        ...

    def get_logger(self) -> Any:
        """Return the logger of the node."""
        ...


NodeT = TypeVar('NodeT', bound=ManagedNode)
Transition = Callable[[NodeT, LifecycleState], TransitionCallbackReturn]


def reported(transition: Transition[NodeT]) -> Transition[NodeT]:
    """Keep `state` current and log errors of a transition, which rclpy swallows."""
    name = transition.__name__
    state_during, state_after = _STATES[name]

    @wraps(transition)
    def reporting(node: NodeT, previous: LifecycleState) -> TransitionCallbackReturn:
        state_before, node.state = node.state, state_during
        try:
            outcome = transition(node, previous)
        except SegmentationError as error:
            node.state = state_before
            node.health.note_refusal(str(error))
            node.get_logger().error(f'{name}: {error}')
            return FAILURE
        except Exception as error:
            if not node.context.ok():
                return FAILURE  # a signal shut ROS down meanwhile
            node.health.note_refusal(f'{type(error).__name__}: {error}')
            node.get_logger().error(f'{name}: {traceback.format_exc()}')
            raise
        node.state = state_after
        if name != 'on_error':  # it follows a failure, whose reason must stay
            node.health.refusal = ''
        return outcome

    return reporting
