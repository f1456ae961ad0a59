# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO of this process."""

import os
from functools import cache
from typing import Any, Final

import openvino  # type: ignore[import-untyped]

#: What oneDNN keeps of what it generated, beside what compiled graphs hold. Its default of 1024
#: primitives grows by megabytes with every new size of image, for sizes that may never come again.
_PRIMITIVES: Final = 128


@cache
def core() -> Any:
    """Return the one openvino.Core of this process, which lives until its end.

    Where the CPU has AMX, every core gives its thread another stack for signals, and puts back the
    one before when it is destroyed (2026.4). Cores that are not destroyed in the reverse order of
    their creation leave a stack that is gone, and the next signal, such as Ctrl-C, ends the
    process with SIGSEGV.
    """
    os.environ.setdefault('ONEDNN_PRIMITIVE_CACHE_CAPACITY', str(_PRIMITIVES))
    return openvino.Core()
