# SPDX-License-Identifier: Apache-2.0
"""Forwarding of the package's log, which is independent of ROS, to the log of a node."""

import logging
from typing import Any

from segmentation_node.paths import PACKAGE


class _ForwardHandler(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # One line per severity: rclpy allows only one severity for each calling line.
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def forward_log(logger: Any) -> None:
    """Send log records of the package to a node's logger, from severity info up."""
    log = logging.getLogger(PACKAGE)
    log.addHandler(_ForwardHandler(logger))
    log.setLevel(logging.INFO)
    log.propagate = False
