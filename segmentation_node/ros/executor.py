# SPDX-License-Identifier: Apache-2.0
"""Serves a node's frames by a thread of their own, and all else beside it."""

import threading
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node


class FrameExecutor(MultiThreadedExecutor):
    """Two executors share a node: one has the callback group of its frames, one the rest.

    rclpy wakes a pool of threads several times for a callback, and each time asks all that a node
    has, services, timers and parameters: twice what taking a frame costs. With a thread that
    knows nothing but the frames, those cost half as much.
    """

    def __init__(self, node: Node, frames: CallbackGroup, num_threads: int) -> None:
        super().__init__(num_threads=num_threads, context=node.context)
        self._group = frames
        self._frames = _GroupExecutor(node, frames)
        self.add_node(node)

    def can_execute(self, entity: Any) -> bool:
        """All but the frames."""
        return entity.callback_group is not self._group and super().can_execute(entity)

    def wake(self) -> None:
        """Look at the node anew: something was made or destroyed."""
        super().wake()
        self._frames.wake()

    def spin(self) -> None:
        """Serve both until shutdown."""
        threading.Thread(target=self._serve_frames, name='frames', daemon=True).start()
        super().spin()

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End both; false where a callback takes longer than that."""
        frames_ended = self._frames.shutdown(timeout_sec)
        return bool(super().shutdown(timeout_sec)) and bool(frames_ended)

    def _serve_frames(self) -> None:
        try:
            self._frames.spin()
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
