# SPDX-License-Identifier: Apache-2.0
"""Serves callback groups of a node by a thread each, and all else beside them."""

import threading
from collections.abc import Collection
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


class GroupsExecutor(SingleThreadedExecutor):
    """Several executors share a node: one for each of some callback groups, one for the rest.

    What rclpy has for callbacks side by side, a pool of threads, costs frames: until a thread of
    the pool gets hold of the interpreter, its executor submits the same callback over and over,
    for up to a tenth of a second (7.1), and every callback asks all that a node has anew.
    """

    def __init__(self, node: Node, groups: Collection[CallbackGroup]) -> None:
        super().__init__(context=node.context)
        self._groups = groups
        self._beside = [_GroupExecutor(node, group) for group in groups]
        self.add_node(node)

    def can_execute(self, entity: Any) -> bool:
        """All but what is in the groups."""
        return entity.callback_group not in self._groups and super().can_execute(entity)

    def wake(self) -> None:
        """Look at the node anew: something was made or destroyed."""
        super().wake()
        for executor in self._beside:
            executor.wake()

    def spin(self) -> None:
        """Serve all until shutdown; raises what a callback raises, of any of them."""
        for executor in self._beside:
            threading.Thread(target=partial(self._serve, executor), daemon=True).start()
        super().spin()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End all; false where a callback takes longer than that."""
        ended = [executor.shutdown(timeout_sec) for executor in self._beside]
        return bool(super().shutdown(timeout_sec)) and all(ended)

    def _serve(self, executor: SingleThreadedExecutor) -> None:
        try:
            executor.spin()
        except BaseException as error:  # noqa: BLE001 (raised again, where it ends the node)
            self.create_task(_raise, error)


class _GroupExecutor(SingleThreadedExecutor):
    """Serves one callback group of a node, which belongs to another executor."""

    def __init__(self, node: Node, group: CallbackGroup) -> None:
        super().__init__(context=node.context)
        self._node, self._group = node, group

    def get_nodes(self) -> list[Node]:
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        return entity.callback_group is self._group and super().can_execute(entity)


def _raise(error: BaseException) -> None:
    raise error
