# SPDX-License-Identifier: Apache-2.0
"""Run the segmentation node on a camera, and label_cloud on its masks and the depth."""

from launch import LaunchDescription

from segmentation_node.ros.launching.arguments import LABEL_CLOUD
from segmentation_node.ros.launching.startup import description


def generate_launch_description() -> LaunchDescription:
    """Run both nodes; parameters of label_cloud are launch arguments with the prefix cloud_."""
    return description(
        __file__,
        LABEL_CLOUD,
        lambda given: {given['node_name']: given['model']},
        cloud=True,
    )
