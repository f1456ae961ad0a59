# SPDX-License-Identifier: Apache-2.0
"""Room for large frames in Fast DDS."""

from segmentation_node.paths import config_dir


def large_frames_environment() -> dict[str, str]:
    """Environment variables that give every process room for frames of several MB.

    The profile's own comment says why; Fast DDS 3 (Kilted and later) renamed the variable.
    """
    profile = str(config_dir() / 'transport_fastdds.xml')
    return {
        'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
    }
