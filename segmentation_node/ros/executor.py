# SPDX-License-Identifier: Apache-2.0
"""Executor that serves the callback groups of a node by separate threads."""

import operator
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

#: How often to check for a shutdown: rclpy (7.1) wakes an executor just before it ends the
#: context, so an executor that checks at once finds the context valid and is not woken again.
SHUTDOWN_POLL_S: Final = 0.2


class _Executor(SingleThreadedExecutor):
    """Executor that can be destroyed even if a signal interrupted its constructor."""

    #: Read by the destructor of rclpy (7.1).
    _sigint_gc: Any = None


class GroupsExecutor(_Executor):
    """Serves a node with one thread for each given callback group and one for all others.

    The thread that spins only waits for signals and errors, so that no callback delays them.

    The MultiThreadedExecutor of rclpy (7.1) loses frames: until a thread of its pool gets the
    interpreter lock, it submits the same callback repeatedly, for up to 0.1 s, and it queries all
    entities of the node again for every callback.
    """

    def __init__(self, node: Node, groups: Collection[CallbackGroup]) -> None:
        super().__init__(context=node.context)
        self._executors = [_GroupExecutor(node, partial(operator.is_, group)) for group in groups]
        self._executors.append(_GroupExecutor(node, lambda group: group not in groups))
        self._ended = threading.Event()
        self.add_node(node)

    def can_execute(self, entity: Any) -> bool:
        """Return False: the executors of the groups execute all callbacks."""
        del entity
        return False

    def wake(self) -> None:
        """Make all threads check the node for new and destroyed entities."""
        super().wake()
        for executor in self._executors:
            executor.wake()

    def spin(self) -> None:
        """Serve callbacks until shutdown; raises the error of any callback."""
        for executor in self._executors:
            threading.Thread(target=self._serve, args=(executor,), daemon=True).start()
        while self.context.ok() and not self._ended.is_set():
            self.spin_once(timeout_sec=SHUTDOWN_POLL_S)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """Stop all threads; returns False if a callback takes longer than the timeout."""
        self._ended.set()
        ended = [executor.shutdown(timeout_sec) for executor in self._executors]
        return bool(super().shutdown(timeout_sec)) and all(ended)

    def _serve(self, executor: SingleThreadedExecutor) -> None:
        try:
            executor.spin()
        except ExternalShutdownException:
            return  # every executor gets it
        except BaseException as error:  # noqa: BLE001 (raised again by the thread that spins)
            self.create_task(_raise, error)


class _GroupExecutor(_Executor):
    """Serves some callback groups of a node that was added to another executor."""

    def __init__(self, node: Node, serves: Callable[[CallbackGroup], bool]) -> None:
        super().__init__(context=node.context)
        self._node, self._serves = node, serves

    def get_nodes(self) -> list[Node]:
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        return self._serves(entity.callback_group) and super().can_execute(entity)


def _raise(error: BaseException) -> None:
    raise error
