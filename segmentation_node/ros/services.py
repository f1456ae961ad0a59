# SPDX-License-Identifier: Apache-2.0
"""Services that answer, whatever they are asked."""

import traceback
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode

from segmentation_node.errors import one_line, printable

Callback = Callable[[Any, Any], Any]


def answer_always(node: LifecycleNode) -> None:
    """Let no request to the services that a node has now end it.

    rclpy hands what a callback raises to the executor, which ends the process with it: an
    `activate` for a node that is active would do. Here such a request is logged and answered by
    an empty response, which means failure; a transition that is not possible says which are.
    """
    for service in node.services:
        callback = service.callback
        if service.srv_type is ChangeState:
            callback = _only_possible(node, callback)
        service.callback = _answering(node, service.srv_name, callback)


def _answering(node: LifecycleNode, name: str, callback: Callback) -> Callback:
    def answer(request: Any, response: Any) -> Any:
        try:
            return callback(request, response)
        except Exception as error:  # noqa: BLE001 (whatever it is, the node goes on)
            node.get_logger().error(f'{name}: {type(error).__name__}: {one_line(error)}')
            node.get_logger().debug(traceback.format_exc())
            return response

    return answer


def _only_possible(node: LifecycleNode, callback: Callback) -> Callback:
    machine = node._state_machine  # noqa: SLF001 (rclpy has no public way to ask)

    def change_state(request: Any, response: Any) -> Any:
        wanted = request.transition
        possible = {number: label for number, label, *_ in machine.available_transitions}
        if wanted.label in possible.values() or (not wanted.label and wanted.id in possible):
            return callback(request, response)
        there_are = ', '.join(f'{label} ({number})' for number, label in sorted(possible.items()))
        node.get_logger().warning(
            f'transition {printable(wanted.label) or wanted.id} refused: the node is '
            f'{machine.current_state[1]}; possible are {there_are or "none"}'
        )
        response.success = False
        return response

    return change_state
