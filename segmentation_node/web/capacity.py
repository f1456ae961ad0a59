# SPDX-License-Identifier: Apache-2.0
"""How many images are in work, by number and by pixels, and no more than that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from segmentation_node.web.problems import ProblemError

#: A client is told to come back within this, however long the queue.
MAX_RETRY_AFTER_S: Final = 60


class Capacity:
    """Places for images, each counted once for every model that it goes through.

    It belongs to the event loop: nobody else may touch it.
    """

    def __init__(
        self, max_images: int, max_pixels: int, seconds_per_image: Callable[[], float]
    ) -> None:
        """Begin with all places free.

        Args:
            max_images: at a time.
            max_pixels: of these together.
            seconds_per_image: how long one has taken of late.
        """
        self._max_images, self._max_pixels = max_images, max_pixels
        self._seconds_per_image = seconds_per_image
        self.images = self.pixels = 0

    @contextmanager
    def taken(self, images: int, pixels: int) -> Iterator[None]:
        """Hold places for images of so many pixels together.

        Raises:
            ProblemError: there are none now, or never so many.
        """
        if images > self._max_images or pixels > self._max_pixels:
            raise ProblemError(
                'too-many-pixels',
                f'{images} images of {pixels} pixels together, each counted for every model; '
                f'expected at most {self._max_images} and {self._max_pixels}: ask in several '
                f'requests',
            )
        if self.images + images > self._max_images or self.pixels + pixels > self._max_pixels:
            seconds = min(MAX_RETRY_AFTER_S, ceil(self.images * self._seconds_per_image()) or 1)
            raise ProblemError(
                'busy',
                f'{self.images} images are waiting or in work, and {images} more would be too '
                f'many; try again in {seconds} s',
                {'Retry-After': str(seconds)},
            )
        self.images += images
        self.pixels += pixels
        try:
            yield
        finally:
            self.images -= images
            self.pixels -= pixels
