# SPDX-License-Identifier: Apache-2.0
"""Services that respond to every request, even to an invalid one."""

import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode

from segmentation_node.errors import one_line, printable

Callback = Callable[[Any, Any], Any]


def contain_errors(node: LifecycleNode) -> None:
    """Prevent errors in the existing services of a node from ending the process.

    rclpy passes an error of a service callback to the executor, which ends the process: an
    `activate` request to an active node is enough. Here the error is logged and the response is
    empty, which means failure. Rejected transitions are logged with the available ones.
    """
    for service in node.services:
        callback = service.callback
        if service.srv_type is ChangeState:
            callback = _reject_unavailable(node, callback)
        service.callback = _contained(node, service.srv_name, callback)


def _contained(node: LifecycleNode, name: str, callback: Callback) -> Callback:
    def respond(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001 (any error: the node goes on)
            node.get_logger().error(f'{name}: {type(error).__name__}: {one_line(error)}')
            node.get_logger().debug(traceback.format_exc())
            return response

    return respond


def _reject_unavailable(node: LifecycleNode, callback: Callback) -> Callback:
    machine = node._state_machine  # noqa: SLF001 (rclpy has no public access to it)

    def change_state(request: Any, response: Any) -> Any:
        wanted = request.transition
        available = {number: label for number, label, *_ in machine.available_transitions}
        if wanted.label in available.values() or (not wanted.label and wanted.id in available):
            return callback(request, response)
        listed = ', '.join(f'{label} ({number})' for number, label in sorted(available.items()))
        node.get_logger().warning(
            f'transition {printable(wanted.label) or wanted.id} rejected: the node is '
            f'{machine.current_state[1]}; available: {listed or "none"}'
        )
        response.success = False
        return response

    return change_state
