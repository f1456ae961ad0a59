# SPDX-License-Identifier: Apache-2.0
"""What is costly to make and to keep, for the keys that are asked for."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar('Key', bound=Hashable)
Made = TypeVar('Made')


class Recent(Generic[Key, Made]):
    """Keeps what was made for the newest keys by use, as far as their weights are `most` at most.

    The newest is kept whatever its weight.

    Unlike a method in functools.lru_cache it holds no owner, which then would hold itself: a model
    that is replaced gives its memory back at once.
    """

    def __init__(self, most: int, weight: Callable[[Key], int] = lambda _: 1) -> None:
        self._most, self._weight = most, weight
        self._made: OrderedDict[Key, Made] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Made]) -> Made:
        """What there is for a key, made now unless it still is there."""
        if key not in self._made:
            # Before the new one is made, so that both need not fit into the memory together.
            while self._made and sum(map(self._weight, (*self._made, key))) > self._most:
                self._made.popitem(last=False)
            self._made[key] = make()
        self._made.move_to_end(key)
        return self._made[key]
