# SPDX-License-Identifier: Apache-2.0
"""Disables OpenVINO telemetry.

The tools of OpenVINO send telemetry by default, except in CI; on a robot nobody opts out.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: Environment variables that mark a CI job: openvino.convert_model reads the first at conversion,
#: nncf the second at import.
_IN_CI: Final = {'CI': 'true', 'NNCF_CI': '1'}


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Disable telemetry within a with statement around the import and use of these tools."""
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
