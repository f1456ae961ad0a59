# SPDX-License-Identifier: Apache-2.0
"""Run two models on one camera and show them side by side in RViz.

The nodes are named left and right; the arguments of seg.launch.py apply to both. A bag is played
once both are active.
"""

from launch import LaunchDescription

from segmentation_node.ros.launching.arguments import COMPARE
from segmentation_node.ros.launching.startup import description


def generate_launch_description() -> LaunchDescription:
    """Run one node per model."""
    models = {'left': 'model', 'right': 'other_model'}
    return description(
        __file__,
        COMPARE,
        lambda given: {node: given[argument] for node, argument in models.items()},
    )
