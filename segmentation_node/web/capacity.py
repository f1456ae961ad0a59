# SPDX-License-Identifier: Apache-2.0
"""Limits on the number and total size of images in progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from segmentation_node.web.clients import share_of
from segmentation_node.web.problems import ProblemError

#: Longest time after which a client is told to retry.
MAX_RETRY_AFTER_S: Final = 60


class Capacity:
    """Number and total size of the images in progress, each counted once per model.

    Not thread-safe: all methods are called on the event loop.
    """

    def __init__(
        self,
        max_images: int,
        max_pixels: int,
        seconds_per_image: Callable[[], float],
        client_share: float = 1.0,
    ) -> None:
        """Start with no images in progress.

        Args:
            max_images: maximum number of images.
            max_pixels: maximum size of all images together.
            seconds_per_image: returns the recent average.
            client_share: share of both limits that one client may use, 0 to 1.
        """
        self._max_images, self._max_pixels = max_images, max_pixels
        self._client_images = share_of(max_images, client_share)
        self._client_pixels = share_of(max_pixels, client_share)
        self._seconds_per_image = seconds_per_image
        self.images = self.pixels = 0
        self._by_client: dict[str, tuple[int, int]] = {}

    @contextmanager
    def reserve(self, images: int, pixels: int, client: str = '') -> Iterator[None]:
        """Count a client's images, of `pixels` pixels in total, while the context lasts.

        Raises:
            ProblemError: they exceed what is free now, or what one client may ever use.
        """
        if images > self._client_images or pixels > self._client_pixels:
            raise ProblemError(
                'too-many-pixels',
                f'{images} images with {pixels} pixels in total, each counted once per model; '
                f'expected at most {self._client_images} images and {self._client_pixels} '
                f'pixels: split them into several requests',
            )
        own_images, own_pixels = self._by_client.get(client, (0, 0))
        if (
            self.images + images > self._max_images
            or self.pixels + pixels > self._max_pixels
            or own_images + images > self._client_images
            or own_pixels + pixels > self._client_pixels
        ):
            seconds = min(MAX_RETRY_AFTER_S, ceil(self.images * self._seconds_per_image()) or 1)
            raise ProblemError(
                'busy',
                f'{self.images} images are in progress, {own_images} of them yours, and {images} '
                f'more would be too many; try again in {seconds} s',
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
        own_images, own_pixels = self._by_client.pop(client, (0, 0))
        if own_images + images:
            self._by_client[client] = (own_images + images, own_pixels + pixels)
