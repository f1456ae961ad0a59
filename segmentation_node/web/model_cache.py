# SPDX-License-Identifier: Apache-2.0
"""Models of the service: each is loaded on first use and stays loaded."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SegmentationError
from segmentation_node.runtimes import TORCH_RUNTIMES
from segmentation_node.runtimes.short_thread import in_short_thread
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.service_settings import ServiceSettings

IDLE: Final = 'idle'
LOADING: Final = 'loading'
READY: Final = 'ready'
FAILED: Final = 'failed'
#: Height and width of the images that determine the batch size of a model.
TRIAL_HW: Final = (192, 320)

_log = logging.getLogger(__name__)


@dataclass
class ServedModel:
    """One model of the service.

    Args:
        name: name in requests.
        source: bundled name, folder or hub id.
        state: IDLE, LOADING, READY or FAILED.
        segmenter: set when READY.
        max_batch: largest batch; 1 if batching would change labels.
        load_s: load time.
        error: full reason why it FAILED; may contain paths of this machine.
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


class ModelCache:
    """Loads models one after the other in a thread.

    Args:
        settings: models and their runtime settings.
        on_loaded: called in that thread with each model and whether it is READY.
    """

    def __init__(
        self, settings: ServiceSettings, on_loaded: Callable[[ServedModel, bool], None]
    ) -> None:
        self._settings = settings
        self._on_loaded = on_loaded
        self.models = {name: ServedModel(name, source) for name, source in settings.models.items()}
        self._pending: queue.SimpleQueue[ServedModel] = queue.SimpleQueue()
        threading.Thread(target=self._run, name='model cache', daemon=True).start()

    def start_loading(self, name: str) -> None:
        """Load a model in the background unless it is loaded; one that failed is tried again.

        Only one thread at a time may call this.
        """
        model = self.models[name]
        if model.state in (IDLE, FAILED):
            model.state = LOADING
            self._pending.put(model)

    def _run(self) -> None:
        while True:
            model = self._pending.get()
            self._on_loaded(model, self._load(model))

    def _load(self, model: ServedModel) -> bool:
        started_s = time.perf_counter()
        try:
            model.segmenter = self._segmenter(model.source)
            model.max_batch = in_short_thread(partial(self._max_batch, model.segmenter))
        except SegmentationError as error:
            model.error, model.state = str(error), FAILED
            _log.error('model %s cannot be loaded: %s', model.name, error)
            return False
        except Exception as error:  # noqa: BLE001 (logged in full, and reported to the client)
            # Requests wait for the model, and other models must still be loaded.
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
        """Return the largest batch that does not change labels.

        With some networks, precisions and devices, the scores of an image differ in their last
        bits between a batch and a single run, which can change the label of a pixel. A result
        must not depend on which other requests arrive at the same time.
        """
        largest = self._settings.max_batch
        if not self._settings.exact or segmenter.runtime not in TORCH_RUNTIMES:
            return largest  # other runtimes run the images of a batch one by one
        images = trial_images(largest)
        single = np.concatenate([segmenter.segment([image]).labels for image in images])
        for size in sorted({2, largest}):
            if (segmenter.segment(images[:size]).labels != single[:size]).any():
                return 1
        return largest


def trial_images(count: int) -> list[UInt8Array]:
    """Return different images of random blocks, each (H, W, 3) uint8."""
    rng = np.random.default_rng(0)
    height, width = TRIAL_HW
    coarse = rng.integers(0, 256, (count, height // 16, width // 16, 3), np.uint8)
    return list(np.ascontiguousarray(coarse.repeat(16, axis=1).repeat(16, axis=2)))
