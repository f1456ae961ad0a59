# SPDX-License-Identifier: Apache-2.0
"""What users can choose from, importable without the libraries behind the choices."""

from typing import Final

RUNTIMES: Final = ('auto', 'torch')
PRECISIONS: Final = ('auto', 'fp32', 'bf16', 'fp16')
