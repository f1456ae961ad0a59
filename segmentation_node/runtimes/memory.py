# SPDX-License-Identifier: Apache-2.0
"""Memory: keep freed memory for the next image, and check that enough is available."""

import ctypes
import resource
from pathlib import Path
from typing import Final

from segmentation_node.errors import MemoryLimitError

_CGROUP: Final = Path('/sys/fs/cgroup')

#: Constants from malloc.h of the GNU C library.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
#: Free memory to keep at the end of the heap, in bytes.
_KEPT: Final = 2**30


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory; return false if this C library does not support it.

    Every image needs the same amount of memory as the one before, for network layers and for
    masks. By default the library returns such large blocks to the system, which then has to clear
    them page by page for the next image. That takes longer than painting a mask, and a quarter of
    the time of DeepLabV3+ in fp32. From this call on, all threads share one heap: the library
    builds per-thread heaps from segments that it returns regardless of these settings.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT), (_M_ARENA_MAX, 1))
    return all(mallopt(*setting) for setting in settings)


def check_memory(network_hw: tuple[int, int], bytes_per_pixel: int) -> None:
    """Raise MemoryLimitError if a network input of this size would need more memory than is free.

    The system would otherwise kill this process, or others along with it.
    """
    needed, free = network_hw[0] * network_hw[1] * bytes_per_pixel, free_bytes()
    if needed > free:
        raise MemoryLimitError(
            f'a network input of {network_hw[1]} x {network_hw[0]} needs up to '
            f'{needed / 1e9:.1f} GB of memory, but {free / 1e9:.1f} GB are free; set a smaller '
            f'input_size, or send smaller images'
        )


def free_bytes() -> float:
    """Return the memory this process may still use: the least of machine, container and rlimit."""
    return min(_free_of_machine(), _free_of_container(), _free_of_process())


def _free_of_machine() -> float:
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
    except OSError:  # not Linux
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
    except OSError:  # no container, or cgroup version 1
        return float('inf')
    if limit.strip() == 'max':
        return float('inf')
    # The page cache is reclaimed when memory is short.
    files = dict(line.split() for line in statistics)
    return int(limit) - int(used) + int(files['inactive_file']) + int(files['active_file'])


def _free_of_process() -> float:
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return float('inf')
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[0])
    return soft - pages * resource.getpagesize()
