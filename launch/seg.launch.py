# SPDX-License-Identifier: Apache-2.0
"""Run the segmentation node on a camera; optionally play a bag and open RViz."""

from launch import LaunchDescription

from segmentation_node.ros.launching.arguments import SEG
from segmentation_node.ros.launching.startup import description


def generate_launch_description() -> LaunchDescription:
    """Run one node; each of its parameters is a launch argument."""
    return description(__file__, SEG, lambda given: {given['node_name']: given['model']})
