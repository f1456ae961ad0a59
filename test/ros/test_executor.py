# SPDX-License-Identifier: Apache-2.0
"""Callback groups of a node: all are served, and none delays another."""

import gc
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from patience import PATIENCE_S
from ros_process import DOMAIN_ID, isolated_environment

rclpy = pytest.importorskip('rclpy')

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # noqa: E402
from rclpy.executors import ExternalShutdownException  # noqa: E402
from rclpy.node import Node  # noqa: E402

from segmentation_node.ros.executor import GroupsExecutor  # noqa: E402


@pytest.fixture
def node() -> Iterator[Node]:
    os.environ.update(isolated_environment())
    context = rclpy.Context()
    context.init(domain_id=DOMAIN_ID)
    node = rclpy.create_node('two_at_a_time', context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


def test_frames_go_on_while_something_else_takes_long(node: Node) -> None:
    frames = MutuallyExclusiveCallbackGroup()
    began, frame_came, ended = threading.Event(), threading.Event(), threading.Event()
    seen: list[bool] = []

    def load() -> None:
        load_timer.cancel()
        began.set()
        seen.append(frame_came.wait(PATIENCE_S))
        ended.set()

    load_timer = node.create_timer(0.0, load)
    executor = GroupsExecutor(node, [frames])
    thread = threading.Thread(target=executor.spin)
    thread.start()
    assert began.wait(PATIENCE_S)
    # Made while both wait, as cameras are when the node is activated.
    node.create_timer(0.01, frame_came.set, frames)
    assert ended.wait(PATIENCE_S)
    assert executor.shutdown()
    thread.join(PATIENCE_S)
    assert seen == [True]


def test_construction_that_a_signal_ends_leaves_no_traceback(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, 'unraisablehook', ignored.append)
    node.context.try_shutdown()
    with pytest.raises(Exception, match='context'):
        GroupsExecutor(node, [])
    gc.collect()
    assert ignored == []


def test_shutdown_waits_for_no_callback(node: Node) -> None:
    began, held, ended = threading.Event(), threading.Event(), threading.Event()

    def load() -> None:
        began.set()
        held.wait()

    def spin() -> None:
        with suppress(ExternalShutdownException):
            GroupsExecutor(node, []).spin()
        ended.set()

    node.create_timer(0.01, load)
    thread = threading.Thread(target=spin)
    thread.start()
    assert began.wait(PATIENCE_S)
    node.context.shutdown()
    try:
        assert ended.wait(PATIENCE_S)
    finally:
        held.set()
        thread.join(PATIENCE_S)


def test_a_frame_that_fails_ends_the_node(node: Node) -> None:
    frames = MutuallyExclusiveCallbackGroup()
    node.create_timer(0.01, lambda: 1 // 0, frames)
    executor = GroupsExecutor(node, [frames])
    with pytest.raises(ZeroDivisionError):
        executor.spin()
    assert executor.shutdown()
