# SPDX-License-Identifier: Apache-2.0
"""Work in a thread that ends with it."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def in_passing_thread(work: Callable[[], T]) -> T:
    """Do something in a thread of its own, wait for it, and return or raise what it does.

    For what PyTorch computes once, such as loading. GNU's OpenMP keeps helpers for every thread
    that ever computed, until it ends. When there are more of them than cores they no longer wait
    awake for the next layer of a network, and on two cores DeepLabV3+ takes a quarter longer.
    """
    with ThreadPoolExecutor(1, 'passing') as pool:
        return pool.submit(work).result()
