# SPDX-License-Identifier: Apache-2.0
"""Paths of the source tree."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
TESTS: Final = ROOT / 'test'
