# SPDX-License-Identifier: Apache-2.0
"""Function calls in a short-lived thread."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def in_short_thread(work: Callable[[], T]) -> T:
    """Call a function in a short-lived thread, wait for it, and return or raise its result.

    For work that PyTorch does once, for example loading. GNU OpenMP keeps helper threads for each
    thread that computed, until that thread ends. If there are more helpers than cores, they stop
    spinning while they wait for the next layer of a network; on two cores, DeepLabV3+ then takes
    a quarter longer.
    """
    with ThreadPoolExecutor(1, 'short') as pool:
        return pool.submit(work).result()
