# SPDX-License-Identifier: Apache-2.0
"""What can be set about the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from segmentation_node.images.bit_depth import FULL_BITS
from segmentation_node.web.pace import Pace

#: Where service and page listen unless told otherwise: for this machine alone.
HOST: Final = '127.0.0.1'
PORT: Final = 8000
PAGE_PORT: Final = 8501
#: Of a file that the page takes, at most.
PAGE_UPLOAD_MB: Final = 64
#: The key is taken from here alone: a command line can be read by everybody on the machine.
API_KEY_VARIABLE: Final = 'SEGMENTATION_API_KEY'


@dataclass(frozen=True)
class Settings:
    """How one service behaves.

    Args:
        models: bundled name, folder or hub id by the name that it is asked for, the default first.
        runtime, device, precision, input_size: as for the Segmenter.
        bits_per_sample: how many bits of images of 16 bits are significant, as for Samples.
        preload: load all models at the start instead of each with its first request.
        exact: run a batch only where it gives, to the pixel, what its images give one by one.
        api_key: what requests must bring; empty lets everybody in.
        page_url: address of the page as browsers reach it; empty where there is none.
        cors_origins: web pages of these origins may call the service; none by default.
        max_upload_bytes: of one image file.
        max_batch_upload_bytes: of the files of a batch, together.
        max_pixels, max_side: of one image, known from its header before it is decoded.
        max_images: of one request for a batch.
        max_requests: uploads that are received or answered at a time. A slow one makes room for
            a new one where there are too many.
        max_waiting: images that wait for a model or are with one, each counted for every model.
        max_waiting_pixels: of these, all together; bounds the memory that they take.
        max_batch, max_batch_pixels: what is run through a network at once; with more than four
            images a CPU leaves its caches, and each takes longer.
        max_connections: open at a time. One that waits for its client makes room for a new one
            where there are too many.
        client_share: of connections, uploads and waiting images, the part that one client may
            have, 0 to 1. A client is an IPv4 address or an IPv6 network of 64 bits.
        keep_alive_s: an idle connection is closed after so long.
        header_timeout_s: from the first byte of a request to the end of its headers.
        stall_timeout_s, min_bytes_per_s, max_transfer_s: longest silence, lowest mean rate and
            longest time of an upload, and of a response where the client is slow to read it.
        linger_s: for so long a refused upload is still read and discarded, so that a client that
            sends all before it reads receives the refusal.
    """

    models: Mapping[str, str]
    runtime: str = 'auto'
    device: str = 'auto'
    precision: str = 'auto'
    input_size: tuple[int, int] | None = None
    bits_per_sample: int = FULL_BITS
    preload: bool = False
    exact: bool = True
    api_key: str = ''
    page_url: str = ''
    cors_origins: tuple[str, ...] = ()
    max_upload_bytes: int = 2**24
    max_batch_upload_bytes: int = 2**26
    max_pixels: int = 2**24
    max_side: int = 2**14
    max_images: int = 16
    max_requests: int = 128
    max_waiting: int = 96
    max_waiting_pixels: int = 2**27
    max_batch: int = 4
    max_batch_pixels: int = 2**22
    max_connections: int = 512
    client_share: float = 0.75
    keep_alive_s: float = 5.0
    header_timeout_s: float = 10.0
    stall_timeout_s: float = 10.0
    min_bytes_per_s: float = 2.0**13
    max_transfer_s: float = 300.0
    linger_s: float = 30.0

    @property
    def pace(self) -> Pace:
        """The pace of uploads and responses."""
        return Pace(self.stall_timeout_s, self.min_bytes_per_s, self.max_transfer_s)
