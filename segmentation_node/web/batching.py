# SPDX-License-Identifier: Apache-2.0
"""The thread that runs the networks, in batches of queued images.

A single thread, because a network uses all cores: two at a time would need twice the memory and
be no faster.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import CheckpointError
from segmentation_node.images.rendering import no_instances
from segmentation_node.instances import Instances
from segmentation_node.labels import LabelScheme
from segmentation_node.web.model_cache import READY, ModelCache, ServedModel
from segmentation_node.web.service_settings import ServiceSettings

#: Weight of the newest batch in the moving average of the time per image.
_NEWEST = 0.2


@dataclass(frozen=True)
class SegmentedImage:
    """Labels of one image, (H, W) uint8, with timings.

    `confidence` computes the confidence, (H, W) uint8. `wait_ms` is the time from the request to
    the start of the batch, `segment_ms` the duration of the whole batch of `batch` images.
    `distance` is that from the images that the model knows, above `max_distance` the image is
    `out_of_domain`; all are None if the model cannot tell. `find_instances` returns the instances,
    None if the model has none.
    """

    labels: UInt8Array
    confidence: Callable[[], UInt8Array]
    scheme: LabelScheme
    wait_ms: float
    segment_ms: float
    batch: int
    distance: float | None
    max_distance: float | None
    out_of_domain: bool | None
    find_instances: Callable[[], Instances | None] = no_instances


@dataclass(eq=False)
class _Job:
    model: str
    image_rgb: UInt8Array
    client: str
    #: Position in the fair order, see Batcher._enqueue.
    turn: int = 0
    arrived_s: float = field(default_factory=time.perf_counter)
    result: 'Future[SegmentedImage]' = field(default_factory=Future)


class Batcher:
    """Runs queued images in batches, fairly between clients.

    Clients take turns, one image each; within a turn, images run in the order of arrival. Queued
    images of the same model and size join the batch; no image waits for others to arrive.

    Args:
        settings: models and batch limits.
        on_batch: called after each batch with the model and the number of images, in this thread.
    """

    def __init__(self, settings: ServiceSettings, on_batch: Callable[[str, int], None]) -> None:
        self._settings = settings
        self._on_batch = on_batch
        self._runnable: deque[_Job] = deque()
        self._turn = 0
        self._waiting_for_model: dict[str, list[_Job]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self.seconds_per_image = 0.0
        self.cache = ModelCache(settings, self._on_loaded)
        self._thread = threading.Thread(target=self._run, name='batcher', daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the thread is running."""
        return self._thread.is_alive()

    def start_loading(self, model: str) -> None:
        """Load a model before its first image."""
        with self._changed:
            self.cache.start_loading(model)

    def submit(
        self, model: str, image_rgb: UInt8Array, client: str = ''
    ) -> 'Future[SegmentedImage]':
        """Queue a client's image, (H, W, 3) uint8, for one of the models.

        The future raises CheckpointError if the model cannot be loaded, ImageError if the model
        does not accept the image.
        """
        job = _Job(model, image_rgb, client)
        with self._changed:
            if self.cache.models[model].state == READY:
                self._enqueue(job)
                self._changed.notify()
            else:
                self._waiting_for_model.setdefault(model, []).append(job)
                self.cache.start_loading(model)
        return job.result

    def close(self) -> None:
        """Run the queued images and stop the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _on_loaded(self, model: ServedModel, ready: bool) -> None:
        with self._changed:
            jobs = self._waiting_for_model.pop(model.name, [])
            if ready:
                for job in jobs:
                    self._enqueue(job)
                self._changed.notify()
                return
        for job in jobs:
            if job.result.set_running_or_notify_cancel():
                job.result.set_exception(CheckpointError(model.error))

    def _enqueue(self, job: _Job) -> None:
        """Queue a job behind the others of its turn.

        This is start-time fair queueing (Goyal, Vin and Cheng, 1997) with images of equal cost:
        a client's next image gets the turn after its previous one, but never a past turn. A
        client with many images thus delays another client by one image, not by all of them.
        """
        last = max((j.turn for j in self._runnable if j.client == job.client), default=-1)
        job.turn = max(self._turn, last + 1)
        index = next((i for i, j in enumerate(self._runnable) if j.turn > job.turn), None)
        self._runnable.insert(len(self._runnable) if index is None else index, job)

    def _run(self) -> None:
        while batch := self._take():
            # From here on, a job can no longer be canceled.
            jobs = [job for job in batch if job.result.set_running_or_notify_cancel()]
            if jobs:
                self._run_batch(self.cache.models[jobs[0].model], jobs)

    def _take(self) -> list[_Job]:
        """Wait for the next batch, at least one image; empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._runnable or self._closed)
            if not self._runnable:
                return []
            first = self._runnable[0]
            self._turn = first.turn
            height, width = first.image_rgb.shape[:2]
            fitting = max(1, self._settings.max_batch_pixels // (height * width))
            size = min(fitting, self.cache.models[first.model].max_batch)
            batch = [job for job in self._runnable if _same_batch(first, job)][:size]
            self._runnable = deque(job for job in self._runnable if job not in batch)
            return batch

    def _run_batch(self, model: ServedModel, jobs: list[_Job]) -> None:
        segmenter = model.loaded
        started_s = time.perf_counter()
        try:
            prediction = segmenter.segment([job.image_rgb for job in jobs])
        except BaseException as error:  # noqa: BLE001 (every waiting request receives it)
            for job in jobs:
                job.result.set_exception(error)
            return
        took_s = time.perf_counter() - started_s
        self._update_average(took_s / len(jobs))
        self._on_batch(model.name, len(jobs))
        outside = prediction.out_of_domain
        for index, job in enumerate(jobs):
            job.result.set_result(
                SegmentedImage(
                    prediction.labels[index],
                    partial(prediction.confidence_of, index),
                    segmenter.scheme,
                    (started_s - job.arrived_s) * 1e3,
                    took_s * 1e3,
                    len(jobs),
                    None if prediction.distances is None else prediction.distances[index],
                    prediction.max_distance,
                    None if outside is None else outside[index],
                    partial(prediction.instances_of, index),
                )
            )

    def _update_average(self, seconds: float) -> None:
        before = self.seconds_per_image or seconds
        self.seconds_per_image = (1 - _NEWEST) * before + _NEWEST * seconds


def _same_batch(one: _Job, other: _Job) -> bool:
    return one.model == other.model and one.image_rgb.shape == other.image_rgb.shape
