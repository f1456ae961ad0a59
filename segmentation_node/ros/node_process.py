# SPDX-License-Identifier: Apache-2.0
"""Process of a node: start, signals, exit status."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

import rclpy
from rclpy.exceptions import NameValidationException, ParameterException
from rclpy.executors import ExternalShutdownException

from segmentation_node import topics
from segmentation_node.errors import SegmentationError, one_line
from segmentation_node.ros.executor import GroupsExecutor
from segmentation_node.ros.log_forwarding import forward_log
from segmentation_node.ros.parameter_files import ignored_file_warnings
from segmentation_node.ros.supervised_node import SupervisedNode
from segmentation_node.ros.transport import enable_large_frames, remove_dead_segments
from segmentation_node.runtimes.memory import keep_freed_memory

AnyNode: TypeAlias = SupervisedNode[Any, Any, Any]

#: How long frames in progress may delay the end of the process.
STOP_S: Final = 0.5
#: Exit status after an internal error: EX_SOFTWARE of sysexits.h.
INTERNAL_ERROR: Final = 70


def main(
    args: list[str] | None = None, *, on_ros_started: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run the segmentation node until it is asked to stop: see `run`."""
    from segmentation_node.ros.node import SegmentationNode  # which other nodes do without

    run(SegmentationNode, topics.NODE_NAME, args, on_ros_started)


def run(
    create: Callable[[], AnyNode],
    command: str,
    args: list[str] | None = None,
    on_ros_started: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Run a node until it is asked to stop.

    The exit status is 0 after a requested end, 1 if the node cannot start with these settings,
    and INTERNAL_ERROR after an error of the node, where a restart may help.

    Args:
        create: returns the node.
        command: name of the command in messages.
        args: command line; that of the process by default.
        on_ros_started: is called as soon as ROS handles signals.
    """
    keep_freed_memory()
    profile, dead = enable_large_frames(), remove_dead_segments()
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # the base of most errors of rclpy
        _refuse_to_start(command, error, 'ROS cannot start: ')
    on_ros_started()
    node = _created(create, command)
    _log_start(node, args or sys.argv, profile, dead)
    status = _spin(node)
    node.stop_within(STOP_S)
    node.destroy_node()
    rclpy.try_shutdown()
    _exit(status)


def _created(create: Callable[[], AnyNode], command: str) -> AnyNode:
    try:
        return create()
    except (SegmentationError, ParameterException, NameValidationException) as error:
        _refuse_to_start(command, error)
    except RuntimeError as error:
        if rclpy.ok():
            _refuse_to_start(command, error)
        _exit(0)  # a signal shut ROS down meanwhile


def _log_start(node: AnyNode, args: list[str], profile: str, dead: list[str]) -> None:
    logger = node.get_logger()
    forward_log(logger)
    for warning in ignored_file_warnings(args, node.get_fully_qualified_name()):
        logger.warning(warning)
    if profile:
        logger.info(f'messages are sent through shared memory of sufficient size ({profile})')
    if dead:
        logger.info(f'removed {len(dead)} shared memory segments of killed processes')


def _spin(node: AnyNode) -> int:
    """Serve callbacks until the end and return the exit status."""
    try:
        GroupsExecutor(node, node.groups).spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:  # noqa: BLE001 (any error: shut down in order and log the reason)
        # A signal shuts ROS down at once, and a callback that publishes then raises.
        if node.context.ok():
            node.get_logger().fatal(f'internal error: {traceback.format_exc()}')
            return INTERNAL_ERROR
    return 0


def _refuse_to_start(command: str, error: Exception, prefix: str = '') -> NoReturn:
    remedy = ''
    if os.environ.get('ROS_SECURITY_ENABLE') == 'true' and isinstance(error, RuntimeError):
        remedy = (
            '. ROS_SECURITY_ENABLE is true, so nodes run only with security: check '
            'ROS_SECURITY_KEYSTORE, the enclave, and that the middleware was built with security'
        )
    print(f'{command}: {prefix}{one_line(error)}{remedy}', file=sys.stderr)
    _exit(1)


def _exit(status: int) -> NoReturn:
    """End the process at once.

    A running network cannot be interrupted, and it would crash if the interpreter shut down
    around its thread.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
