# SPDX-License-Identifier: Apache-2.0
"""The models that can be asked for: each is loaded with its first request, and stays."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from segmentation_node.errors import SegmentationError
from segmentation_node.images.files import ImageRgb
from segmentation_node.runtimes import TORCH_RUNTIMES
from segmentation_node.runtimes.short_thread import in_short_thread
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.settings import Settings

IDLE: Final = 'idle'
LOADING: Final = 'loading'
READY: Final = 'ready'
FAILED: Final = 'failed'
#: Height and width of the pictures that a new model is tried on.
TRIAL_HW: Final = (192, 320)

_log = logging.getLogger(__name__)


@dataclass
class Model:
    """One model on the shelf.

    Args:
        name: by which it is asked for.
        source: bundled name, folder or hub id.
        state: IDLE, LOADING, READY or FAILED.
        segmenter: once READY.
        max_batch: images that it takes at once; 1 where company would change their labels.
        load_s: how long it took to load.
        error: why it FAILED, in full; it may name files of the machine.
    """

    name: str
    source: str
    state: str = IDLE
    segmenter: Segmenter | None = None
    max_batch: int = 1
    load_s: float = 0.0
    error: str = ''

    @property
    def loaded(self) -> Segmenter:
        """The segmenter of a model that is READY."""
        if self.segmenter is None:
            raise RuntimeError(f'model {self.name} is {self.state}, expected {READY}')
        return self.segmenter


class Shelf:
    """Loads models one after the other in a thread of its own.

    Args:
        settings: which models, and how they are run.
        settled: called in that thread with each model and whether it is ready.
    """

    def __init__(self, settings: Settings, settled: Callable[[Model, bool], None]) -> None:
        self._settings = settings
        self._settled = settled
        self.models = {name: Model(name, source) for name, source in settings.models.items()}
        self._wanted: queue.SimpleQueue[Model] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name='shelf', daemon=True).start()

    def want(self, name: str) -> None:
        """See to it that a model is loaded; one that failed is tried again.

        Only one thread at a time may call this.
        """
        model = self.models[name]
        if model.state in (IDLE, FAILED):
            model.state = LOADING
            self._wanted.put(model)

    def _serve(self) -> None:
        while True:
            model = self._wanted.get()
            self._settled(model, self._load(model))

    def _load(self, model: Model) -> bool:
        started_s = time.perf_counter()
        try:
            model.segmenter = self._segmenter(model.source)
            model.max_batch = in_short_thread(partial(self._max_batch, model.segmenter))
        except SegmentationError as error:
            model.error, model.state = str(error), FAILED
            _log.error('model %s cannot be loaded: %s', model.name, error)
            return False
        except Exception as error:  # noqa: BLE001 (told, and logged in full)
            # Whoever waits for the model must hear of it, and the others be loaded all the same.
            model.error, model.state = repr(error), FAILED
            _log.exception('model %s cannot be loaded', model.name)
            return False
        model.load_s = time.perf_counter() - started_s
        model.error, model.state = '', READY
        _log.info('model %s is ready after %.1f s', model.name, model.load_s)
        return True

    def _segmenter(self, source: str) -> Segmenter:
        settings = self._settings
        return Segmenter(
            source,
            runtime=settings.runtime,
            device=settings.device,
            precision=settings.precision,
            input_size=settings.input_size,
        )

    def _max_batch(self, segmenter: Segmenter) -> int:
        """How many images to run at once.

        What is computed for an image in company may differ in its last bits from what is computed
        for it alone, with some networks, precisions and devices, and a pixel may tip over. An
        answer must not depend on who else asks at the moment.
        """
        largest = self._settings.max_batch
        if not self._settings.exact or segmenter.runtime not in TORCH_RUNTIMES:
            return largest  # the other runtimes run the images of a batch one by one
        images = trial_images(largest)
        alone = np.concatenate([segmenter.segment([image]).labels for image in images])
        for size in sorted({2, largest}):
            if (segmenter.segment(images[:size]).labels != alone[:size]).any():
                return 1
        return largest


def trial_images(count: int) -> list[ImageRgb]:
    """Pictures of many edges, each (H, W, 3) uint8 and unlike the others."""
    rng = np.random.default_rng(0)
    height, width = TRIAL_HW
    coarse = rng.integers(0, 256, (count, height // 16, width // 16, 3), np.uint8)
    return list(np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2)))
