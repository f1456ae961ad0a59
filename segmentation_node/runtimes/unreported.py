# SPDX-License-Identifier: Apache-2.0
"""Keeps the tools of OpenVINO from reporting each use of theirs to their makers.

They do so on every machine where nobody objected, but not in CI: a robot is not asked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: What openvino.convert_model and nncf take for the sign of a CI; read at conversion by the
#: first, at import by the second.
_IN_CI: Final = {'CI': 'true', 'NNCF_CI': '1'}


@contextmanager
def unreported() -> Iterator[None]:
    """In a with statement around their import and use."""
    before = {name: os.environ.get(name) for name in _IN_CI}
    os.environ.update(_IN_CI)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
