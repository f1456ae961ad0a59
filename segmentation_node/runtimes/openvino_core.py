# SPDX-License-Identifier: Apache-2.0
"""The OpenVINO of this process."""

from functools import cache
from typing import Any

import openvino  # type: ignore[import-untyped]


@cache
def core() -> Any:
    """Return the one openvino.Core of this process, which lives until its end.

    Where the CPU has AMX, every core gives its thread another stack for signals, and puts back the
    one before when it is destroyed (2026.4). Cores that are not destroyed in the reverse order of
    their creation leave a stack that is gone, and the next signal, such as Ctrl-C, ends the
    process with SIGSEGV.
    """
    return openvino.Core()
