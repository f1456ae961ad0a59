# SPDX-License-Identifier: Apache-2.0
"""Profiles of Fast DDS: room for large frames, prompt discovery."""

import os
from typing import Final

from segmentation_node.paths import config_dir

#: Names of the variable that holds the path of a profile: up to Jazzy, and since Kilted (which
#: has Fast DDS 3).
FASTRTPS, FASTDDS = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
#: The variable that chooses transports without a profile.
_BUILTIN_TRANSPORTS: Final = 'FASTDDS_BUILTIN_TRANSPORTS'
_RMW: Final = 'rmw_fastrtps_cpp'
_WITH_FASTRTPS: Final = ('humble', 'iron', 'jazzy')


def large_frames_environment() -> dict[str, str]:
    """Environment variables that give every process room for frames of several MB.

    The profile's own comment says why.
    """
    return dict.fromkeys((FASTRTPS, FASTDDS), _profile('transport'))


def give_own_frames_room() -> str:
    """Let this process publish frames of several MB through shared memory, unless told otherwise.

    What the sender has room for decides. Without it, masks larger than half a megabyte are cut up,
    lost in part, and sent again. To be called before rclpy.init.

    Returns:
        the profile in use; empty where the user has chosen transports or another middleware.
    """
    chosen = any(name in os.environ for name in (FASTRTPS, FASTDDS, _BUILTIN_TRANSPORTS))
    if chosen or os.environ.get('RMW_IMPLEMENTATION', _RMW) != _RMW:
        return ''
    os.environ.update(large_frames_environment())
    return _profile('transport')


def local_environment(large_frames: bool) -> dict[str, str]:
    """Environment variables for a ROS graph on this machine only, which is found promptly.

    Args:
        large_frames: whether Fast DDS gets room for large frames, not its default transports.
    """
    if large_frames:
        return large_frames_environment()
    return dict.fromkeys((FASTRTPS, FASTDDS), _profile('discovery'))


def reliable_camera(topic: str) -> str:
    """Shell commands that start a camera driver so that none of its frames is lost.

    Args:
        topic: fully resolved name of the topic that it publishes.
    """
    # What comes from PyPI is of Jazzy.
    variable = FASTRTPS if os.environ.get('ROS_DISTRO', 'jazzy') in _WITH_FASTRTPS else FASTDDS
    return (
        f'export {variable}={_profile("transport")}\n'
        f'ros2 run CAMERA_PACKAGE CAMERA_NODE --ros-args '
        f'-p qos_overrides.{topic}.publisher.reliability:=reliable'
    )


def _profile(name: str) -> str:
    return str(config_dir() / f'{name}_fastdds.xml')
