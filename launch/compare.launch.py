# SPDX-License-Identifier: Apache-2.0
"""Runs two models on one camera and shows them side by side in RViz.

The nodes are called left and right; the arguments of seg.launch.py hold for both. A bag starts
once the right one is active.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.substitutions import LaunchConfiguration

SEG = str(Path(__file__).with_name('seg.launch.py'))


def generate_launch_description() -> LaunchDescription:
    """Include seg.launch.py for either model; the second brings the bag and RViz."""
    left = {'node_name': 'left', 'rviz': 'false', 'bag': ''}
    right = {'node_name': 'right', 'model': LaunchConfiguration('other_model')}
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'other_model',
                default_value='mask2former',
                description='Model on the right; the argument model is on the left',
            ),
            DeclareLaunchArgument(
                'rviz',
                default_value='true',
                description='Show the camera, both overlays and both colour masks in RViz',
                choices=['true', 'false'],
            ),
            DeclareLaunchArgument(
                'rviz_config',
                default_value='compare.rviz',
                description="Layout of RViz: a path, or a file in the package's config/",
            ),
            DeclareLaunchArgument(
                'node_name',
                default_value='',
                description='Not to be set: the nodes are called left and right',
                choices=[''],
            ),
            OpaqueFunction(function=_set_the_clock),
            GroupAction([IncludeLaunchDescription(SEG, launch_arguments=left.items())]),
            IncludeLaunchDescription(SEG, launch_arguments=right.items()),
        ]
    )


def _set_the_clock(context: LaunchContext) -> None:
    """Let both nodes follow the clock of a bag, of which only the right one is told."""
    given = context.launch_configurations
    if given.get('bag') and not given.get('use_sim_time'):
        given['use_sim_time'] = 'true'
