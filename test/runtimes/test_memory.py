# SPDX-License-Identifier: Apache-2.0
"""Large pieces of memory that were freed are at hand for the next image."""

import subprocess
import sys

import pytest

from segmentation_node.errors import MemoryLimitError
from segmentation_node.runtimes import memory

FILL_AGAIN = """
import resource
import threading
import numpy as np
from segmentation_node.runtimes.memory import keep_freed_memory

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


def test_what_there_is_no_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < memory.free_bytes() < 2**50
    monkeypatch.setattr(memory, '_free_of_container', lambda: 1e9)
    memory.check_memory((1000, 2000), 400)
    with pytest.raises(MemoryLimitError, match=r'network input of 2000 x 2000 needs up to 1.6 GB'):
        memory.check_memory((2000, 2000), 400)


def test_a_limit_of_the_process_is_known() -> None:
    asked = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from segmentation_node.runtimes.memory import free_bytes
print(free_bytes())
"""
    found = subprocess.run([sys.executable, '-c', asked], capture_output=True, check=True)
    assert 0 < float(found.stdout) < 2**30


def test_sizes_that_came_once_leave_no_memory() -> None:
    """Generated code is kept for some sizes of image, not for all that there ever were."""
    asked = """
from pathlib import Path
import numpy as np
from segmentation_node.runtimes.memory import keep_freed_memory
from segmentation_node.segmenter import Segmenter

keep_freed_memory()
segmenter = Segmenter('deeplabv3plus', runtime='openvino', precision='int8')
for index in range(40):
    segmenter.segment([np.zeros((200 + 32 * (index % 8), 300 + 32 * (index // 8), 3), np.uint8)])
    if index in (15, 39):
        print(int(Path('/proc/self/statm').read_text().split()[1]) * 4096 / 1e6)
"""
    command = [sys.executable, '-c', asked]
    found = subprocess.run(command, capture_output=True, check=True, text=True)
    before_mb, after_mb = map(float, found.stdout.split())
    assert after_mb - before_mb < 30
