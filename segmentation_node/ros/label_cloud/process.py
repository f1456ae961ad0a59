# SPDX-License-Identifier: Apache-2.0
"""Process of the node label_cloud."""

from collections.abc import Callable
from typing import NoReturn

from segmentation_node import topics
from segmentation_node.ros.label_cloud.node import LabelCloudNode
from segmentation_node.ros.node_process import run


def main(
    args: list[str] | None = None, *, on_ros_started: Callable[[], None] = lambda: None
) -> NoReturn:
    """Run the node until it is asked to stop: see `run`."""
    run(LabelCloudNode, topics.CLOUD_NODE_NAME, args, on_ros_started)
