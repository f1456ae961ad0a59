# SPDX-License-Identifier: Apache-2.0
"""Runs two models on one camera and shows them side by side in RViz.

The nodes are called left and right; the arguments of seg.launch.py apply to both. A bag starts
once both are active.
"""

from launch import LaunchDescription

from segmentation_node.ros.launching.arguments import COMPARE
from segmentation_node.ros.launching.startup import description


def generate_launch_description() -> LaunchDescription:
    """Run a node for either model."""
    models = {'left': 'model', 'right': 'other_model'}
    return description(
        __file__,
        COMPARE,
        lambda given: {node: given[argument] for node, argument in models.items()},
    )
