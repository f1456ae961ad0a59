# SPDX-License-Identifier: Apache-2.0
"""Entry points of the commands, which a signal ends well from the first instruction on.

Importing ROS or a network takes up to seconds, in which Python would answer Ctrl-C by a traceback
from the midst of a library. This module imports nothing that takes time.
"""

import os
import signal
import sys
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Start:
    """Ends the process at once on SIGINT and SIGTERM, as long as there is nothing to put away."""

    def __init__(self) -> None:
        self._is_over = False
        self._before = {number: signal.signal(number, self._end) for number in _SIGNALS}

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if not self._is_over:
            os._exit(128 + number)  # as a shell reports a command that a signal ended

    def leave_to_ros(self) -> None:
        """Let ROS, whose handlers are in front of ours, take itself down."""
        self._is_over = True

    def restore(self) -> None:
        """Let signals act as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def segmentation_node() -> None:
    """Run the node."""
    start = _Start()
    from segmentation_node.ros.node import main

    main(ros_is_up=start.leave_to_ros)


def _run(module: str) -> Any:
    """Run the `main` of a module."""
    start = _Start()
    main = import_module(f'segmentation_node.{module}').main
    start.restore()
    try:
        return main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


benchmark = partial(_run, 'benchmark.__main__')
export_model = partial(_run, 'export.export_model')
images_to_bag = partial(_run, 'bags.images_to_bag')
replay_bag = partial(_run, 'bags.replay_bag')
score_bag = partial(_run, 'bags.score_bag')
score_images = partial(_run, 'folders.score_images')
segment_bag = partial(_run, 'bags.segment_bag')
segment_images = partial(_run, 'folders.segment_images')
