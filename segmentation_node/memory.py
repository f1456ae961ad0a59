# SPDX-License-Identifier: Apache-2.0
"""Memory: kept for the next image, and whether there is enough for it."""

import ctypes
import resource
from pathlib import Path
from typing import Final

from segmentation_node.errors import RoomError

_CGROUP: Final = Path('/sys/fs/cgroup')

#: Numbers of the GNU C library's malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
#: Free memory at the end of the heap that is kept, in bytes.
_KEPT: Final = 2**30


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed; false where it is none that can be told so.

    Every image takes the same megabytes as the one before, for layers of the network as for
    masks. Unless told otherwise the library returns such large pieces to the system, which then
    has to clear them page by page for the next image. That costs more than painting a mask, and
    a quarter of the time of DeepLabV3+ in fp32. All threads share one heap from now on: the others
    that the library makes for them are in pieces, which it returns whatever it was told.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_ARENA_MAX, 1))
    return all(mallopt(*setting) for setting in settings)


def check_room(network_hw: tuple[int, int], bytes_per_pixel: int) -> None:
    """Raise RoomError where a network's input of a size would take more memory than is free.

    A process that takes more is killed by the system, or takes others with it.
    """
    needed, free = network_hw[0] * network_hw[1] * bytes_per_pixel, free_bytes()
    if needed > free:
        raise RoomError(
            f'an input of {network_hw[1]} x {network_hw[0]} to the network takes up to '
            f'{needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; give a smaller '
            f'input_size, or send smaller images'
        )


def free_bytes() -> float:
    """Memory that this process may still take: of the machine, its container and its own limit."""
    return min(_free_of_machine(), _free_of_container(), _free_of_process())


def _free_of_machine() -> float:
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:  # no Linux
        return float('inf')
    sizes = dict(line.split(':', 1) for line in lines)
    return int(sizes['MemAvailable'].split()[0]) * 1024


def _free_of_container() -> float:
    try:
        limit, used = (
            (_CGROUP / name).read_text(encoding='ascii')
            for name in ('memory.max', 'memory.current')
        )
        statistics = (_CGROUP / 'memory.stat').read_text(encoding='ascii').splitlines()
    except OSError:  # no container, or none of the second version
        return float('inf')
    if limit.strip() == 'max':
        return float('inf')
    # Pages of files are given up where memory is short.
    files = dict(line.split() for line in statistics)
    return int(limit) - int(used) + int(files['inactive_file']) + int(files['active_file'])


def _free_of_process() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return float('inf')
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[0])
    return soft - pages * resource.getpagesize()
