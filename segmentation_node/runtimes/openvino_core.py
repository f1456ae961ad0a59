# SPDX-License-Identifier: Apache-2.0
"""Shared OpenVINO core of this process."""

import os
from functools import cache
from typing import Any, Final

import openvino  # type: ignore[import-untyped]

#: Capacity of oneDNN's cache of generated primitives, in addition to those in compiled graphs.
#: With the default of 1024 the cache grows by megabytes for every new image size, even if that
#: size never occurs again.
_PRIMITIVES: Final = 128


@cache
def core() -> Any:
    """Return the only openvino.Core of this process, which lives until the process ends.

    On CPUs with AMX, every Core installs a new signal stack in its thread, and restores the
    previous one when it is destroyed (OpenVINO 2026.4). If Cores are not destroyed in reverse
    order of their creation, the thread is left with a freed stack, and the next signal, such as
    that of Ctrl-C, ends the process with SIGSEGV.
    """
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', str(_PRIMITIVES))
    return openvino.Core()
