# SPDX-License-Identifier: Apache-2.0
"""Starts the segmentation node on a camera and, when asked, plays a bag and opens RViz."""

from launch import LaunchDescription

from segmentation_node.ros.launching.arguments import SEG
from segmentation_node.ros.launching.startup import description


def generate_launch_description() -> LaunchDescription:
    """Run one node; every parameter of it is an argument."""
    return description(__file__, SEG, lambda given: {given['node_name']: given['model']})
