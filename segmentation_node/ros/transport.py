# SPDX-License-Identifier: Apache-2.0
"""Fast DDS: profiles for large frames and prompt discovery, and cleanup of shared memory."""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final

from segmentation_node.paths import config_dir

#: Environment variables for the path of a profile: up to Jazzy, and since Kilted (Fast DDS 3).
FASTRTPS, FASTDDS = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
#: Environment variable that selects transports without a profile.
_BUILTIN_TRANSPORTS: Final = 'FASTDDS_BUILTIN_TRANSPORTS'
#: Folder of the shared memory of all processes on Linux.
SHARED_MEMORY: Final = Path('/dev/shm')  # noqa: S108 (not used for temporary files)
_SEGMENT: Final = re.compile(r'fastrtps_[0-9a-f]{16}')
_YOUNG_S: Final = 2.0
_RMW: Final = 'rmw_fastrtps_cpp'
_WITH_FASTRTPS: Final = ('humble', 'iron', 'jazzy')


def large_frames_environment() -> dict[str, str]:
    """Return environment variables that prepare any process for frames of several MB.

    The comment in the profile gives the reason.
    """
    return dict.fromkeys((FASTRTPS, FASTDDS), _profile('transport'))


def enable_large_frames() -> str:
    """Let this process publish frames of several MB through shared memory.

    The buffer size of the sender is decisive. By default, masks larger than 0.5 MB are split into
    fragments, some of which are lost and sent again. Must be called before rclpy.init.

    Returns:
        Path of the profile; empty if the user has selected transports or another middleware.
    """
    chosen = any(name in os.environ for name in (FASTRTPS, FASTDDS, _BUILTIN_TRANSPORTS))
    if chosen or os.environ.get('RMW_IMPLEMENTATION', _RMW) != _RMW:
        return ''
    os.environ.update(large_frames_environment())
    return _profile('transport')


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove shared memory segments of killed processes of this user; returns their names.

    Each segment takes tens of megabytes, and Fast DDS does not remove it: a node that is killed
    and restarted repeatedly would fill the memory. A living participant holds a lock on the file
    next to its segment.
    """
    removed: list[str] = []
    for lock in folder.glob('fastrtps_*_el'):
        segment = lock.with_name(lock.name.removesuffix('_el'))
        # Port segments are shared by all users of the port, and Fast DDS repairs them itself.
        if not _SEGMENT.fullmatch(segment.name):
            continue
        with contextlib.suppress(OSError), lock.open('rb') as file:  # no access, or deleted
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue  # a starting participant may not have locked it yet
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink(missing_ok=True)
            lock.unlink()
            removed.append(segment.name)
    return removed


def local_environment(large_frames: bool) -> dict[str, str]:
    """Return environment variables for a ROS graph on one machine, with prompt discovery.

    Args:
        large_frames: use the profile for large frames instead of the default transports.
    """
    if large_frames:
        return large_frames_environment()
    return dict.fromkeys((FASTRTPS, FASTDDS), _profile('discovery'))


def reliable_camera_commands(topic: str) -> str:
    """Return shell commands that start a camera driver without losses in transport.

    Args:
        topic: fully resolved name of the topic that the driver publishes.
    """
    # The PyPI packages are built from Jazzy.
    variable = FASTRTPS if os.environ.get('ROS_DISTRO', 'jazzy') in _WITH_FASTRTPS else FASTDDS
    return (
        f'export {variable}={_profile("transport")}\n'
        f'ros2 run CAMERA_PACKAGE CAMERA_NODE --ros-args '
        f'-p qos_overrides.{topic}.publisher.reliability:=reliable'
    )


def _profile(name: str) -> str:
    return str(config_dir() / f'{name}_fastdds.xml')
