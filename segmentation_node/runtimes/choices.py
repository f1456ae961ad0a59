# SPDX-License-Identifier: Apache-2.0
"""Choices and defaults of user options, kept free of heavy imports."""

from typing import Final

PRECISIONS: Final = ('auto', 'fp32', 'bf16', 'fp16', 'int8')

DEFAULT_MODEL: Final = 'deeplabv3plus'
DEFAULT_OVERLAY_ALPHA: Final = 0.5
