# SPDX-License-Identifier: Apache-2.0
"""Memory that is used again for the next image."""

import ctypes
from typing import Final

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
