# SPDX-License-Identifier: Apache-2.0
"""Settings of the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from segmentation_node.images.bit_depth import FULL_BITS
from segmentation_node.web.transfer_limits import TransferLimits

#: Default address of service and page: reachable only from this machine.
HOST: Final = '127.0.0.1'
PORT: Final = 8000
PAGE_PORT: Final = 8501
#: Maximum file size of an upload to the page.
PAGE_UPLOAD_MB: Final = 64
#: Environment variable with the key; command lines are visible to all users of a machine.
API_KEY_VARIABLE: Final = 'SEGMENTATION_API_KEY'


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of one service.

    Args:
        models: bundled name, folder or hub id of each model by its name in requests, the default
            first.
        runtime, device, precision, input_size: as for the Segmenter.
        bits_per_sample: significant bits of 16-bit images, as for Samples.
        preload: load all models at start-up instead of on first use.
        exact: batch images only if this changes no label.
        api_key: key required of requests; empty for none.
        page_url: address of the page for browsers; empty for no page.
        cors_origins: origins whose web pages may call the service; none by default.
        max_upload_bytes: size of one image file.
        max_batch_upload_bytes: total size of the files of a batch.
        max_pixels, max_side: size of one image, checked before it is decoded.
        max_images: number of images in a batch request.
        max_requests: concurrent uploads, from their headers to the end of the response. When
            exceeded, a slow one is evicted.
        max_waiting: images in progress, each counted once per model.
        max_waiting_pixels: total size of these; bounds their memory.
        max_batch, max_batch_pixels: size of a batch. More than four images exceed the caches of
            a CPU, and each takes longer.
        max_connections: open connections. When exceeded, one that waits for its client is
            evicted.
        client_share: share of connections, uploads and images in progress that one client may
            use, 0 to 1. A client is an IPv4 address or an IPv6 /64 network.
        keep_alive_s: time until an idle connection is closed.
        header_timeout_s: time from the first byte of a request to the end of its headers.
        stall_timeout_s, min_bytes_per_s, max_transfer_s: longest time without a byte, lowest mean
            rate and longest duration of an upload, and of a response that is read slowly.
        linger_s: time for which a rejected upload is still read and discarded, so that a client
            that sends everything before it reads receives the response.
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
    def transfer_limits(self) -> TransferLimits:
        """Time limits of uploads and responses."""
        return TransferLimits(self.stall_timeout_s, self.min_bytes_per_s, self.max_transfer_s)
