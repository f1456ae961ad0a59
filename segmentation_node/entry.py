# SPDX-License-Identifier: Apache-2.0
"""Entry points of the commands, which end cleanly on signals from the start.

Importing ROS or a network takes up to seconds, in which Ctrl-C would cause a traceback from within
a library. This module imports nothing that takes time.
"""

import os
import signal

_ros_handles_signals = False


def _end(number: int, _frame: object) -> None:
    """End the process at once: nothing needs to be cleaned up yet."""
    if not _ros_handles_signals:
        os._exit(128 + number)  # the exit status of a shell after a signal


# Before all other imports, even that of the package's list of these signals: the time without a
# handler is a few milliseconds.
_BEFORE = {n: signal.signal(n, _end) for n in (signal.SIGINT, signal.SIGTERM)}

import sys  # noqa: E402
from functools import partial  # noqa: E402
from importlib import import_module  # noqa: E402


def segmentation_node() -> None:
    """Run the node."""
    from segmentation_node.ros.node_process import main

    main(on_ros_started=_leave_signals_to_ros)


def label_cloud() -> None:
    """Run the node that makes labeled point clouds."""
    from segmentation_node.ros.label_cloud.process import main

    main(on_ros_started=_leave_signals_to_ros)


def _leave_signals_to_ros() -> None:
    """Ignore signals here from now on: the handlers of ROS run first."""
    global _ros_handles_signals
    _ros_handles_signals = True


def _run(module: str) -> int:
    """Run the `main` of a module with the usual signal handlers."""
    main = import_module(f'segmentation_node.{module}').main
    for number, handler in _BEFORE.items():
        signal.signal(number, handler)
    try:
        return int(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


benchmark = partial(_run, 'benchmark.__main__')
export_model = partial(_run, 'export.export_model')
images_to_bag = partial(_run, 'bags.images_to_bag')
label_fleet = partial(_run, 'fleet.label_fleet')
replay_bag = partial(_run, 'bags.replay_bag')
score_bag = partial(_run, 'bags.score_bag')
score_images = partial(_run, 'folders.score_images')
segment_bag = partial(_run, 'bags.segment_bag')
segment_images = partial(_run, 'folders.segment_images')
