# SPDX-License-Identifier: Apache-2.0
"""The package's own log, which knows no ROS, in the log of a node."""

import logging
from typing import Any

from segmentation_node.paths import PACKAGE


class _Forward(logging.Handler):
    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy knows a call of its log by its line, where only one severity is allowed.
        text = record.getMessage()
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def forward_log(logger: Any) -> None:
    """Send what the package logs to a node's logger, from severity info up."""
    log = logging.getLogger(PACKAGE)
    log.addHandler(_Forward(logger))
    log.setLevel(logging.INFO)
    log.propagate = False
