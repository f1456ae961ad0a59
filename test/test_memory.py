# SPDX-License-Identifier: Apache-2.0
"""Large pieces of memory that were freed are at hand for the next image."""

import subprocess
import sys

import pytest

FILL_AGAIN = """
import resource
import threading
import numpy as np
from segmentation_node.memory import keep_freed_memory

def fill():
    for _ in range(3):
        # More than a thread's own heap has in one piece.
        [np.full(48 * 2**20, 1, np.uint8) for _ in range(2)]

def fill_in_thread():
    thread = threading.Thread(target=fill)
    thread.start()
    thread.join()

if {keep}:
    assert keep_freed_memory()
{fill}()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
{fill}()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('fill', ['fill', 'fill_in_thread'])
def test_freed_memory_is_not_given_back(fill: str, keep: bool) -> None:
    script = FILL_AGAIN.format(fill=fill, keep=keep)
    ended = subprocess.run(
        [sys.executable, '-c', script], check=True, capture_output=True, text=True
    )
    faults = int(ended.stdout)
    # Given back, it would be 24 large pages at least for each of six.
    assert faults < 24 if keep else faults >= 144
