# SPDX-License-Identifier: Apache-2.0
"""From uploaded files to masks: the work of a request, none of it on the event loop."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from segmentation_node.errors import CheckpointError, ImageError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.files import ImageRgb
from segmentation_node.web.answers import Prediction, Wish, model_answer
from segmentation_node.web.batching import Batcher, Segmented
from segmentation_node.web.capacity import Capacity
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.settings import Settings
from segmentation_node.web.uploads import Upload

T = TypeVar('T')


@dataclass(frozen=True)
class Seen:
    """One uploaded image, (H, W, 3) uint8 RGB, and what each model asked for made of it."""

    format: str
    image_rgb: ImageRgb
    decode_ms: float
    found: Mapping[str, Segmented]

    def prediction(self, wish: Wish) -> Prediction:
        """What goes over the wire; takes as long as it takes to compress pictures."""
        height, width = self.image_rgb.shape[:2]
        return Prediction.model_validate(
            {
                'width': width,
                'height': height,
                'format': self.format,
                'results': [
                    model_answer(name, self.image_rgb, found, wish, self.decode_ms)
                    for name, found in self.found.items()
                ],
            }
        )


class Predictor:
    """Decodes, segments and encodes; belongs to one event loop."""

    def __init__(self, settings: Settings, ran: Callable[[str, int], None]) -> None:
        self.settings = settings
        self.batcher = Batcher(settings, ran)
        self.capacity = Capacity(
            settings.max_waiting,
            settings.max_waiting_pixels,
            lambda: self.batcher.seconds_per_image,
            settings.client_share,
        )
        self._samples = Samples(settings.bits_per_sample)
        # Decoding and encoding share the cores with the network and gain nothing from more.
        self._pool = ThreadPoolExecutor(os.cpu_count(), 'codec')

    def close(self) -> None:
        """Give up the threads."""
        self.batcher.close()
        self._pool.shutdown()

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run what keeps a core busy without keeping the event loop from its requests."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def segmented(
        self, files: Sequence[bytes], models: Sequence[str], client: str
    ) -> AsyncIterator[list[Seen]]:
        """Segment image files of a client with every one of some models.

        The places that the images take in the queue are held until the context is left, which is
        to be when the answer is ready to be sent.

        Raises:
            ProblemError: a file is no image that can be taken, there is no room, or a model fails.
        """
        uploads = [
            await self._checked(index, files, partial(Upload.inspect, data, self.settings))
            for index, data in enumerate(files)
        ]
        pixels = sum(upload.pixels for upload in uploads) * len(models)
        with self.capacity.taken(len(files) * len(models), pixels, client):
            yield await self._seen(files, uploads, models, client)

    async def _seen(
        self,
        files: Sequence[bytes],
        uploads: Sequence[Upload],
        models: Sequence[str],
        client: str,
    ) -> list[Seen]:
        begun = []
        for index, upload in enumerate(uploads):
            started_s = time.perf_counter()
            image_rgb = await self._checked(index, files, partial(upload.decode, self._samples))
            decode_ms = (time.perf_counter() - started_s) * 1e3
            begun.append((upload.format, image_rgb, decode_ms))
        jobs = [
            [asyncio.wrap_future(self.batcher.submit(m, image_rgb, client)) for m in models]
            for _, image_rgb, _ in begun
        ]
        # All of them, also where one fails: what is in work keeps its place until it is done.
        await asyncio.wait([job for row in jobs for job in row])
        return [
            Seen(*image, {m: _outcome(m, job) for m, job in zip(models, row, strict=True)})
            for image, row in zip(begun, jobs, strict=True)
        ]

    async def _checked(self, index: int, files: Sequence[bytes], work: Callable[[], T]) -> T:
        """Run a step for one of the files; its problem says for which."""
        try:
            return await self.off_loop(work)
        except ProblemError as problem:
            if len(files) > 1:
                problem.detail = f'image {index}: {problem.detail}'
                problem.members = {**problem.members, 'image': index}
            raise


def _outcome(model: str, job: 'asyncio.Future[Segmented]') -> Segmented:
    try:
        return job.result()
    except ImageError as error:
        raise ProblemError('damaged-image', str(error)) from error
    except CheckpointError as error:
        # The reason may name files of the machine.
        raise ProblemError(
            'model-failed',
            f"model {model} cannot be loaded; the service's log tells why. Take another one, or "
            f'try again later',
        ) from error
