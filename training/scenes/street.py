# SPDX-License-Identifier: Apache-2.0
"""World of one seed: layout, daylight, blocks and traffic."""

from functools import cached_property, lru_cache

import numpy as np

from segmentation_node.errors import SettingError
from training.scenes.blocks import BLOCKS_KEPT, Block, BlockBuilder
from training.scenes.ground import Ground
from training.scenes.layout import BLOCK_M, draw_layout, draw_ride
from training.scenes.light import draw_light
from training.scenes.sky import Sky
from training.scenes.traffic import Traffic
from training.scenes.vehicles import Garage


class Street:
    """Endless street; the same seed always gives the same street.

    Raises:
        SettingError: the seed is negative.
    """

    def __init__(self, seed: int) -> None:
        if seed < 0:
            raise SettingError(f'seed {seed} is negative; use an integer of 0 or greater')
        self.seed = seed
        rng = np.random.default_rng([seed, 0])
        self.layout = draw_layout(rng)
        self.light = draw_light(rng)
        self.ride = draw_ride(rng, self.layout)
        garage = Garage(seed)
        self.traffic = Traffic(seed, self.layout, self.ride, garage)
        self._builder = BlockBuilder(seed, self.layout, self.light, garage)
        self._block = lru_cache(maxsize=BLOCKS_KEPT)(self._builder.build)

    def blocks(self, low: float, high: float) -> list[Block]:
        """Return the blocks that overlap low..high, nearest first."""
        first, last = int(np.floor(low / BLOCK_M)), int(np.floor(high / BLOCK_M))
        return [self._block(i) for i in range(first, last + 1)]

    @cached_property
    def ground(self) -> Ground:
        """Ground of the street."""
        return Ground(self.seed, self.layout, self.light)

    @cached_property
    def sky(self) -> Sky:
        """Sky and skyline."""
        return Sky(self.seed, self.layout, self.light, self._builder.lots.trees)
