# SPDX-License-Identifier: Apache-2.0
"""Entry points of the commands, which end cleanly on signals from the start.

Importing ROS or a network takes up to seconds, in which Ctrl-C would cause a traceback from within
a library. This module imports nothing that takes time.
"""

import os
import signal
import sys
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any

from segmentation_node.interrupt import SIGNALS


class _Startup:
    """Ends the process at once on SIGINT and SIGTERM while nothing needs to be cleaned up."""

    def __init__(self) -> None:
        self._is_over = False
        self._before = {number: signal.signal(number, self._end) for number in SIGNALS}

    def _end(self, number: int, _frame: FrameType | None) -> None:
        if not self._is_over:
            os._exit(128 + number)  # the exit status of a shell after a signal

    def leave_to_ros(self) -> None:
        """Leave signals to ROS, whose handlers run first."""
        self._is_over = True

    def restore(self) -> None:
        """Restore the previous signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def segmentation_node() -> None:
    """Run the node."""
    startup = _Startup()
    from segmentation_node.ros.node_process import main

    main(on_ros_started=startup.leave_to_ros)


def _run(module: str) -> Any:
    """Run the `main` of a module."""
    startup = _Startup()
    main = import_module(f'segmentation_node.{module}').main
    startup.restore()
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
