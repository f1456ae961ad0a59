# SPDX-License-Identifier: Apache-2.0
"""What can be set about the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

#: Where service and page listen unless told otherwise: for this machine alone.
HOST: Final = '127.0.0.1'
PORT: Final = 8000
PAGE_PORT: Final = 8501
#: The key is taken from here alone: a command line can be read by everybody on the machine.
API_KEY_VARIABLE: Final = 'SEGMENTATION_API_KEY'


@dataclass(frozen=True)
class Settings:
    """How one service behaves.

    Args:
        models: bundled name, folder or hub id by the name that it is asked for, the default first.
        runtime, device, precision, input_size: as for the Segmenter.
        preload: load all models at the start instead of each with its first request.
        exact: run a batch only where it gives, to the pixel, what its images give one by one.
        api_key: what requests must bring; empty lets everybody in.
        cors_origins: web pages of these origins may call the service; none by default.
        max_upload_bytes: of one image file.
        max_batch_upload_bytes: of the files of a batch, together.
        max_pixels, max_side: of one image, known from its header before it is decoded.
        max_images: of one request for a batch.
        max_requests: uploads that are received or answered at a time.
        max_waiting: images that wait for a model or are with one, each counted for every model.
        max_waiting_pixels: of these, all together; bounds the memory that they take.
        max_batch, max_batch_pixels: what is run through a network at once; with more than four
            images a CPU leaves its caches, and each takes longer.
    """

    models: Mapping[str, str]
    runtime: str = 'auto'
    device: str = 'auto'
    precision: str = 'auto'
    input_size: tuple[int, int] | None = None
    preload: bool = False
    exact: bool = True
    api_key: str = ''
    cors_origins: tuple[str, ...] = ()
    max_upload_bytes: int = 2**24
    max_batch_upload_bytes: int = 2**26
    max_pixels: int = 2**24
    max_side: int = 2**14
    max_images: int = 16
    max_requests: int = 128
    max_waiting: int = 64
    max_waiting_pixels: int = 2**27
    max_batch: int = 4
    max_batch_pixels: int = 2**22
