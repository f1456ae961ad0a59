# SPDX-License-Identifier: Apache-2.0
"""Fast DDS: profiles with room for large frames and prompt discovery, and what the dead left."""

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path
from typing import Final

from segmentation_node.paths import config_dir

#: Names of the variable that holds the path of a profile: up to Jazzy, and since Kilted (which
#: has Fast DDS 3).
FASTRTPS, FASTDDS = 'FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE'
#: The variable that chooses transports without a profile.
_BUILTIN_TRANSPORTS: Final = 'FASTDDS_BUILTIN_TRANSPORTS'
#: Where Linux has the shared memory of all processes.
SHARED_MEMORY: Final = Path('/dev/shm')  # noqa: S108 (no temporary file of ours)
_SEGMENT: Final = re.compile(r'fastrtps_[0-9a-f]{16}')
_YOUNG_S: Final = 2.0
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


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the shared memory of participants of this user that were killed; returns its names.

    Each is tens of megabytes, and Fast DDS does not look for it: a node that is killed and started
    again, over and over, would fill the memory. A participant holds a lock on the file beside its
    segment for as long as it lives.
    """
    removed: list[str] = []
    for lock in folder.glob('fastrtps_*_el'):
        segment = lock.with_name(lock.name.removesuffix('_el'))
        # Those of ports belong to all who use the port, and Fast DDS mends them itself.
        if not _SEGMENT.fullmatch(segment.name):
            continue
        with contextlib.suppress(OSError), lock.open('rb') as file:  # of others, or just gone
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < _YOUNG_S:
                continue  # one that starts now may not have its lock yet
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.unlink(missing_ok=True)
            lock.unlink()
            removed.append(segment.name)
    return removed


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
