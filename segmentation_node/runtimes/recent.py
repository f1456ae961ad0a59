# SPDX-License-Identifier: Apache-2.0
"""LRU cache that does not keep its owner alive."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar('Key', bound=Hashable)
Value = TypeVar('Value')


class Recent(Generic[Key, Value]):
    """LRU cache of values whose keys have a total weight of at most `capacity`.

    The newest value is kept whatever its weight.

    Unlike functools.lru_cache on a method, it holds no reference to its owner, so there is no
    reference cycle: a model that is replaced releases its memory at once.
    """

    def __init__(self, capacity: int, weight: Callable[[Key], int] = lambda _: 1) -> None:
        self._capacity, self._weight = capacity, weight
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return the value for a key; `make` creates it if it is not cached."""
        if key not in self._values:
            # Evict first, so that old and new value need not fit into memory together.
            while self._values and sum(map(self._weight, (*self._values, key))) > self._capacity:
                self._values.popitem(last=False)
            self._values[key] = make()
        self._values.move_to_end(key)
        return self._values[key]
