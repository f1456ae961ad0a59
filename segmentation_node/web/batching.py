# SPDX-License-Identifier: Apache-2.0
"""The one thread that runs networks, on batches of what has arrived.

One, since a network takes all cores there are: two at a time would take twice the memory and be no
faster.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

from segmentation_node.errors import CheckpointError
from segmentation_node.images.files import ImageRgb
from segmentation_node.images.rendering import LabelImage
from segmentation_node.labels import LabelScheme
from segmentation_node.web.settings import Settings
from segmentation_node.web.shelf import READY, Model, Shelf

#: Weight of the newest batch in the mean time that an image takes.
_NEWEST = 0.2


@dataclass(frozen=True)
class Segmented:
    """Labels of one image, (H, W) uint8, what measures their confidence, and how they came about.

    `wait_ms` is from the request to the start of the batch, `segment_ms` is what the whole batch
    of `batch` images took.
    """

    labels: LabelImage
    measure: Callable[[], LabelImage]
    scheme: LabelScheme
    wait_ms: float
    segment_ms: float
    batch: int


@dataclass(eq=False)
class _Job:
    model: str
    image_rgb: ImageRgb
    client: str
    #: Order in which jobs are run: how many jobs its client had before it, see Batcher.submit.
    turn: int = 0
    arrived_s: float = field(default_factory=time.perf_counter)
    answer: 'Future[Segmented]' = field(default_factory=Future)


class Batcher:
    """Runs what is submitted, one image of each client in turn, else in the order of arrival.

    Whatever else of the same model and size waits when an image's turn comes goes with it in one
    batch; nothing waits for company.

    Args:
        settings: limits of a batch, and the models.
        ran: called with model and number of images after each batch, in the batcher's thread.
    """

    def __init__(self, settings: Settings, ran: Callable[[str, int], None]) -> None:
        self._settings = settings
        self._ran = ran
        self._runnable: deque[_Job] = deque()
        self._turn = 0
        self._parked: dict[str, list[_Job]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self.seconds_per_image = 0.0
        self.shelf = Shelf(settings, self._on_settled)
        self._thread = threading.Thread(target=self._serve, name='batcher', daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether what is submitted will be run."""
        return self._thread.is_alive()

    def want(self, model: str) -> None:
        """Load a model without anything to run yet."""
        with self._changed:
            self.shelf.want(model)

    def submit(self, model: str, image_rgb: ImageRgb, client: str = '') -> 'Future[Segmented]':
        """Have an image, (H, W, 3) uint8, of a client segmented by one of the shelf's models.

        The future raises CheckpointError where the model cannot be loaded, ImageError where the
        model cannot take the image.
        """
        job = _Job(model, image_rgb, client)
        with self._changed:
            if self.shelf.models[model].state == READY:
                self._enqueue(job)
                self._changed.notify()
            else:
                self._parked.setdefault(model, []).append(job)
                self.shelf.want(model)
        return job.answer

    def close(self) -> None:
        """Run what is there and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _on_settled(self, model: Model, ready: bool) -> None:
        with self._changed:
            jobs = self._parked.pop(model.name, [])
            if ready:
                for job in jobs:
                    self._enqueue(job)
                self._changed.notify()
                return
        for job in jobs:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(CheckpointError(model.error))

    def _enqueue(self, job: _Job) -> None:
        """Put a job behind those of its turn.

        Turns are those of start-time fair queueing (Goyal, Vin and Cheng, 1997) with images of
        equal cost: a client's next image has the turn after its last one, but never one that is
        over. A client with many images thereby delays another's by one image, not by all.
        """
        last = max((j.turn for j in self._runnable if j.client == job.client), default=-1)
        job.turn = max(self._turn, last + 1)
        index = next((i for i, j in enumerate(self._runnable) if j.turn > job.turn), None)
        self._runnable.insert(len(self._runnable) if index is None else index, job)

    def _serve(self) -> None:
        while batch := self._take():
            # From here on nobody can call an image back.
            jobs = [job for job in batch if job.answer.set_running_or_notify_cancel()]
            if jobs:
                self._run(self.shelf.models[jobs[0].model], jobs)

    def _take(self) -> list[_Job]:
        """The next batch, which has one image at least; empty once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._runnable or self._closed)
            if not self._runnable:
                return []
            first = self._runnable[0]
            self._turn = first.turn
            height, width = first.image_rgb.shape[:2]
            fitting = max(1, self._settings.max_batch_pixels // (height * width))
            size = min(fitting, self.shelf.models[first.model].max_batch)
            batch = [job for job in self._runnable if _go_together(first, job)][:size]
            self._runnable = deque(job for job in self._runnable if job not in batch)
            return batch

    def _run(self, model: Model, jobs: list[_Job]) -> None:
        segmenter = model.loaded
        started_s = time.perf_counter()
        try:
            found = segmenter.segment([job.image_rgb for job in jobs])
        except BaseException as error:  # noqa: BLE001 (goes to those who asked, every one of them)
            for job in jobs:
                job.answer.set_exception(error)
            return
        took_s = time.perf_counter() - started_s
        self._note(took_s / len(jobs))
        self._ran(model.name, len(jobs))
        for index, job in enumerate(jobs):
            job.answer.set_result(
                Segmented(
                    found.labels[index],
                    partial(found.confidence_of, index),
                    segmenter.scheme,
                    (started_s - job.arrived_s) * 1e3,
                    took_s * 1e3,
                    len(jobs),
                )
            )

    def _note(self, seconds: float) -> None:
        before = self.seconds_per_image or seconds
        self.seconds_per_image = (1 - _NEWEST) * before + _NEWEST * seconds


def _go_together(one: _Job, other: _Job) -> bool:
    return one.model == other.model and one.image_rgb.shape == other.image_rgb.shape
