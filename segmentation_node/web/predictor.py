# SPDX-License-Identifier: Apache-2.0
"""Processing of a request, from uploaded files to masks, outside the event loop."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import CheckpointError, ImageError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.web.batching import Batcher, SegmentedImage
from segmentation_node.web.capacity import Capacity
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.responses import ImageResult, PredictOptions, model_result
from segmentation_node.web.service_settings import ServiceSettings
from segmentation_node.web.uploads import Upload

T = TypeVar('T')


@dataclass(frozen=True)
class ProcessedImage:
    """One uploaded image, (H, W, 3) uint8 RGB, with the result of each requested model."""

    format: str
    image_rgb: UInt8Array
    decode_ms: float
    results: Mapping[str, SegmentedImage]

    def response(self, options: PredictOptions) -> ImageResult:
        """Return the response body; blocks while masks are compressed."""
        height, width = self.image_rgb.shape[:2]
        return ImageResult.model_validate(
            {
                'width': width,
                'height': height,
                'format': self.format,
                'results': [
                    model_result(model, self.image_rgb, segmented, options, self.decode_ms)
                    for model, segmented in self.results.items()
                ],
            }
        )


class Predictor:
    """Decodes, segments and encodes images; all methods are called on one event loop."""

    def __init__(self, settings: ServiceSettings, on_batch: Callable[[str, int], None]) -> None:
        self.settings = settings
        self.batcher = Batcher(settings, on_batch)
        self.capacity = Capacity(
            settings.max_waiting,
            settings.max_waiting_pixels,
            lambda: self.batcher.seconds_per_image,
            settings.client_share,
        )
        self._samples = Samples(settings.bits_per_sample)
        # More threads gain nothing: the network uses the same cores.
        self._pool = ThreadPoolExecutor(os.cpu_count(), 'codec')

    def close(self) -> None:
        """Finish the queued images and stop the threads."""
        self.batcher.close()
        self._pool.shutdown()

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run a CPU-bound function in a thread, so that the event loop is not blocked."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def process(
        self, files: Sequence[bytes], models: Sequence[str], client: str
    ) -> AsyncIterator[list[ProcessedImage]]:
        """Segment a client's image files with each of several models.

        The images count as in progress until the context is left; leave it when the response is
        ready to be sent.

        Raises:
            ProblemError: a file is not a valid image, the queue is full, or a model fails.
        """
        uploads = [
            await self._for_file(index, files, partial(Upload.inspect, data, self.settings))
            for index, data in enumerate(files)
        ]
        pixels = sum(upload.pixels for upload in uploads) * len(models)
        with self.capacity.reserve(len(files) * len(models), pixels, client):
            yield await self._segment(files, uploads, models, client)

    async def _segment(
        self,
        files: Sequence[bytes],
        uploads: Sequence[Upload],
        models: Sequence[str],
        client: str,
    ) -> list[ProcessedImage]:
        decoded = []
        for index, upload in enumerate(uploads):
            started_s = time.perf_counter()
            image_rgb = await self._for_file(index, files, partial(upload.decode, self._samples))
            decode_ms = (time.perf_counter() - started_s) * 1e3
            decoded.append((upload.format, image_rgb, decode_ms))
        jobs = [
            [asyncio.wrap_future(self.batcher.submit(m, image_rgb, client)) for m in models]
            for _, image_rgb, _ in decoded
        ]
        # Waits for all jobs even if one fails: each counts as in progress until it is done.
        await asyncio.wait([job for row in jobs for job in row])
        return [
            ProcessedImage(
                *image, {m: _job_result(m, job) for m, job in zip(models, row, strict=True)}
            )
            for image, row in zip(decoded, jobs, strict=True)
        ]

    async def _for_file(self, index: int, files: Sequence[bytes], work: Callable[[], T]) -> T:
        """Run a step for one of the files in a thread; its problem names the file."""
        try:
            return await self.run_in_thread(work)
        except ProblemError as problem:
            if len(files) > 1:
                problem.detail = f'image {index}: {problem.detail}'
                problem.members = {**problem.members, 'image': index}
            raise


def _job_result(model: str, job: 'asyncio.Future[SegmentedImage]') -> SegmentedImage:
    try:
        return job.result()
    except ImageError as error:
        raise ProblemError('damaged-image', str(error)) from error
    except CheckpointError as error:
        # The reason may contain paths of this machine.
        raise ProblemError(
            'model-failed',
            f"model {model} cannot be loaded; the reason is in the service's log. Choose another "
            f'model, or try again later',
        ) from error
