# SPDX-License-Identifier: Apache-2.0
"""How many images are in work, by number and by pixels, and no more than that."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from segmentation_node.web.clients import share_of
from segmentation_node.web.problems import ProblemError

#: A client is told to come back within this, however long the queue.
MAX_RETRY_AFTER_S: Final = 60


class Capacity:
    """Places for images, each counted once for every model that it goes through.

    It belongs to the event loop: nobody else may touch it.
    """

    def __init__(
        self,
        max_images: int,
        max_pixels: int,
        seconds_per_image: Callable[[], float],
        client_share: float = 1.0,
    ) -> None:
        """Begin with all places free.

        Args:
            max_images: at a time.
            max_pixels: of these together.
            seconds_per_image: how long one has taken of late.
            client_share: of images and pixels that one client may have, 0 to 1.
        """
        self._max_images, self._max_pixels = max_images, max_pixels
        self._client_images = share_of(max_images, client_share)
        self._client_pixels = share_of(max_pixels, client_share)
        self._seconds_per_image = seconds_per_image
        self.images = self.pixels = 0
        self._of_clients: dict[str, tuple[int, int]] = {}

    @contextmanager
    def taken(self, images: int, pixels: int, client: str = '') -> Iterator[None]:
        """Hold places for images of a client, of so many pixels together.

        Raises:
            ProblemError: there are none now, or never so many.
        """
        if images > self._client_images or pixels > self._client_pixels:
            raise ProblemError(
                'too-many-pixels',
                f'{images} images of {pixels} pixels together, each counted for every model; '
                f'expected at most {self._client_images} and {self._client_pixels}: ask in '
                f'several requests',
            )
        own_images, own_pixels = self._of_clients.get(client, (0, 0))
        if (
            self.images + images > self._max_images
            or self.pixels + pixels > self._max_pixels
            or own_images + images > self._client_images
            or own_pixels + pixels > self._client_pixels
        ):
            seconds = min(MAX_RETRY_AFTER_S, ceil(self.images * self._seconds_per_image()) or 1)
            raise ProblemError(
                'busy',
                f'{self.images} images are waiting or in work, {own_images} of them yours, and '
                f'{images} more would be too many; try again in {seconds} s',
                {'Retry-After': str(seconds)},
            )
        self._add(client, images, pixels)
        try:
            yield
        finally:
            self._add(client, -images, -pixels)

    def _add(self, client: str, images: int, pixels: int) -> None:
        self.images += images
        self.pixels += pixels
        own_images, own_pixels = self._of_clients.pop(client, (0, 0))
        if own_images + images:
            self._of_clients[client] = (own_images + images, own_pixels + pixels)
