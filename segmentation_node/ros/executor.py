# SPDX-License-Identifier: Apache-2.0
"""Serves a node's callbacks by a few threads, each of which knows its own."""

import operator
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

#: How long a signal may go unseen: rclpy (7.1) wakes an executor before it ends the context, so
#: that one that is quick looks too early, and is woken no more.
SIGNAL_PERIOD_S: Final = 0.2


class _Executor(SingleThreadedExecutor):
    """An executor that can be destroyed even if a signal ended its construction."""

    #: The destructor of rclpy (7.1) reads it.
    _sigint_gc: Any = None


class GroupsExecutor(_Executor):
    """Several executors share a node: one for each of some callback groups, one for the rest.

    They have threads of their own; the one that spins waits for signals and errors, so that no
    callback holds them up, however long it takes.

    What rclpy has for callbacks side by side, a pool of threads, costs frames: until a thread of
    the pool gets hold of the interpreter, its executor submits the same callback over and over,
    for up to a tenth of a second (7.1), and every callback asks all that a node has anew.
    """

    def __init__(self, node: Node, groups: Collection[CallbackGroup]) -> None:
        super().__init__(context=node.context)
        self._parts = [_Part(node, partial(operator.is_, group)) for group in groups]
        self._parts.append(_Part(node, lambda group: group not in groups))
        self._ended = threading.Event()
        self.add_node(node)

    def can_execute(self, entity: Any) -> bool:
        """Nothing: it belongs to the others."""
        del entity
        return False

    def wake(self) -> None:
        """Look at the node anew: something was made or destroyed."""
        super().wake()
        for part in self._parts:
            part.wake()

    def spin(self) -> None:
        """Serve all until shutdown; raises what a callback raises, of any of them."""
        for part in self._parts:
            threading.Thread(target=self._serve, args=(part,), daemon=True).start()
        while self.context.ok() and not self._ended.is_set():
            self.spin_once(timeout_sec=SIGNAL_PERIOD_S)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End all; false where a callback takes longer than that."""
        self._ended.set()
        ended = [part.shutdown(timeout_sec) for part in self._parts]
        return bool(super().shutdown(timeout_sec)) and all(ended)

    def _serve(self, part: SingleThreadedExecutor) -> None:
        try:
            part.spin()
        except ExternalShutdownException:
            return  # which all learn
        except BaseException as error:  # noqa: BLE001 (raised again, where it ends the node)
            self.create_task(_raise, error)


class _Part(_Executor):
    """Serves some callback groups of a node, which belongs to another executor."""

    def __init__(self, node: Node, serves: Callable[[CallbackGroup], bool]) -> None:
        super().__init__(context=node.context)
        self._node, self._serves = node, serves

    def get_nodes(self) -> list[Node]:
        return [self._node]

    def can_execute(self, entity: Any) -> bool:
        return self._serves(entity.callback_group) and super().can_execute(entity)


def _raise(error: BaseException) -> None:
    raise error
