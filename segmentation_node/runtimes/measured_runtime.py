# SPDX-License-Identifier: Apache-2.0
"""Choice of the fastest of several ways to run a checkpoint, measured on this machine."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import Checkpoint
from segmentation_node.errors import SegmentationError, one_line
from segmentation_node.instances import DEFAULT_THRESHOLDS, Thresholds
from segmentation_node.networks.postprocessing import Segmentation
from segmentation_node.runtimes.activity import doing
from segmentation_node.runtimes.cache import Cache
from segmentation_node.runtimes.graph_files import KINDS, graph_digest
from segmentation_node.runtimes.machine import cpu_identity
from segmentation_node.runtimes.runtime import Candidate, Runtime

#: Rounds in which each candidate is called once. After the minimum, measuring stops as soon as the
#: time limit has passed.
_MIN_ROUNDS: Final = 3
_MAX_ROUNDS: Final = 7
_TIME_LIMIT_S: Final = 2.0
#: Candidates slower than the fastest by more than this factor are dropped after each round.
_MAX_SLOWDOWN: Final = 2.0
#: A more precise candidate is preferred if it is slower than the fastest by no more than this.
_PRECISION_SLOWDOWN: Final = 1.05
_BY_PRECISION: Final = ('fp32', 'fp16', 'bf16', 'int8')
#: Measured images have between 512 x 256 and 1448 x 724 pixels. With larger images, several
#: candidates would take gigabytes; with smaller ones, the network no longer dominates the time.
#: For other sizes, the candidate that is fastest in this range is either fastest, or fast enough.
_MIN_PIXELS: Final = 2**17
_MAX_PIXELS: Final = 2**20
#: From this number of cores on, half as many threads may be faster.
_MANY_CORES: Final = 4

_CHOICES: Final = Cache('choices', 2**20)

#: Serializes measurements in this process: concurrent ones would slow each other down and could
#: choose differently. The lock of the cache serializes those of other processes.
_MEASURING: Final = threading.Lock()

_log = logging.getLogger(__name__)


class MeasuredRuntime:
    """Runtime that runs the fastest of several candidates.

    A thread compiles the candidates and times all of them on the first image of a size. With
    `aside`, the first candidate runs images in the meantime, alternating with the timed calls. The
    choice applies to sizes with about as many pixels, and is cached for this CPU, this version of
    OpenVINO and this checkpoint.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        open_: Callable[[Candidate], Runtime],
        checkpoint: Checkpoint,
        input_size: tuple[int, int] | None,
        *,
        aside: bool,
    ) -> None:
        """Open the first candidate; raises as `open_runtime`."""
        self._aside = aside
        self._candidates, self._open = list(candidates), open_
        self._key = {
            **cpu_identity(), 'openvino': metadata.version('openvino'),
            'graphs': [graph_digest(checkpoint, 'openvino', kind) for kind in KINDS],
            'input_size': input_size,
            'candidates': [str(candidate) for candidate in candidates],
        }  # fmt: skip
        self._name = checkpoint.name
        self._opened = {candidates[0]: open_(candidates[0])}
        self._current = self._opened[candidates[0]]
        self._chosen: dict[int, Candidate] = {}
        #: Held while a timed network runs, and while any other that could disturb it does.
        self._turn = threading.Lock()
        self._measuring: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def device(self) -> str:
        return self._current.device

    @property
    def precision(self) -> str:
        return self._current.precision

    def run(
        self, images_rgb: UInt8Array, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> list[Segmentation]:
        runtime = self._for(images_rgb)
        with self._turn:
            return runtime.run(images_rgb, thresholds)

    def forward(self, images_rgb: UInt8Array) -> None:
        runtime = self._for(images_rgb)
        with self._turn:
            runtime.forward(images_rgb)

    def wait(self) -> None:
        """Wait until no measurement is running."""
        if self._measuring is not None:
            self._measuring.join()

    def _for(self, images_rgb: UInt8Array) -> Runtime:
        size = _size_class(images_rgb)
        is_measuring = self._measuring is not None and self._measuring.is_alive()
        if size not in self._chosen and not is_measuring and not self._recall(size):
            with self._turn:
                # Raises if the image cannot be run at all; then there is nothing to measure.
                self._current.forward(images_rgb[:1])
            self._measuring = threading.Thread(
                target=self._measure, args=(size, images_rgb[:1].copy()), name='measure',
                daemon=True,
            )  # fmt: skip
            self._measuring.start()
        if not self._aside:
            self.wait()
        chosen = self._chosen.get(size)
        if chosen is not None:
            self._current = self._opened[chosen]
        return self._current

    def _recall(self, size: int) -> bool:
        """Restore the choice from the cache; return false if there is none that works."""
        content = _CHOICES.get({**self._key, 'size': size})
        if content is None:
            return False
        entry = json.loads(content)
        chosen = Candidate(**entry['candidate'])
        try:
            if chosen not in self._opened:
                self._opened[chosen] = self._open(chosen)
        except SegmentationError as error:
            _log.warning('the cached choice %s is out of date: %s', chosen, error)
            return False
        self._chosen[size] = chosen
        _log.info('runtime auto for %s, from the cache: %s', self._name, entry['figures'])
        return True

    def _measure(self, size: int, image_rgb: UInt8Array) -> None:
        with (
            doing(f'measuring the fastest runtime for {self._name}'),
            _MEASURING,
            _CHOICES.locked(),
        ):
            if not self._recall(size):  # another runtime or process may have measured it
                self._choose(size, image_rgb)

    def _choose(self, size: int, image_rgb: UInt8Array) -> None:
        """Time all candidates on an image, rescaled if necessary, and choose one."""
        sample_rgb = _sample(image_rgb)
        for candidate in self._candidates:
            self._compile(candidate, sample_rgb)
        times = self._times([c for c in self._candidates if c in self._opened], sample_rgb)
        if not times:
            return  # not even the first candidate runs any more; the next image will report it
        chosen = choose(times)
        cores = int(str(cpu_identity()['cores']))
        if cores >= _MANY_CORES and not chosen.threads:
            fewer = replace(chosen, threads=cores // 2)
            if self._compile(fewer, sample_rgb):
                times |= self._times([chosen, fewer], sample_rgb)
                chosen = choose({c: times[c] for c in (chosen, fewer)})
        figures = _figures(chosen, times)
        height, width = sample_rgb.shape[1:3]
        _log.info('runtime auto for %s at %d x %d: %s', self._name, width, height, figures)
        content = {'candidate': asdict(chosen), 'figures': figures}
        _CHOICES.put({**self._key, 'size': size}, json.dumps(content).encode())
        self._compile(chosen, image_rgb)  # so that the next image does not wait
        self._chosen[size] = chosen
        # Releases the memory of the others.
        kept = self._chosen.values()
        self._opened = {c: runtime for c, runtime in self._opened.items() if c in kept}

    def _compile(self, candidate: Candidate, image_rgb: UInt8Array) -> bool:
        """Compile a candidate for an image; return false if it cannot run on this machine."""
        try:
            runtime = self._opened.get(candidate) or self._open(candidate)
            if runtime is self._current:
                with self._turn:
                    runtime.forward(image_rgb)
            else:
                runtime.forward(image_rgb)
            self._opened[candidate] = runtime
        except (SegmentationError, RuntimeError, MemoryError) as error:
            _log.warning('runtime auto: skipping %s: %s', candidate, one_line(error))
            return False
        return True

    def _times(
        self, candidates: Sequence[Candidate], image_rgb: UInt8Array
    ) -> dict[Candidate, float]:
        """Return the time of a call of each candidate in milliseconds, the minimum of several."""
        best = dict.fromkeys(candidates, float('inf'))
        until_s = time.monotonic() + _TIME_LIMIT_S
        left = list(candidates)
        for index in range(_MAX_ROUNDS):
            if index >= _MIN_ROUNDS and time.monotonic() > until_s:
                break
            for candidate in left:
                with self._turn:
                    started_s = time.perf_counter()
                    for segmentation in self._opened[candidate].run(image_rgb):
                        segmentation.labels  # noqa: B018 (computed on access)
                    took_ms = 1e3 * (time.perf_counter() - started_s)
                best[candidate] = min(best[candidate], took_ms)
            left = [c for c in left if best[c] <= _MAX_SLOWDOWN * min(best.values())]
        return best


def choose(times_ms: dict[Candidate, float]) -> Candidate:
    """Choose the most precise of the candidates that are about as fast as the fastest one."""
    limit = _PRECISION_SLOWDOWN * min(times_ms.values())
    fast = [candidate for candidate, time_ms in times_ms.items() if time_ms <= limit]
    return min(fast, key=lambda c: (_BY_PRECISION.index(c.precision), times_ms[c]))


def _size_class(images_rgb: UInt8Array) -> int:
    """Return a class of image sizes; pixel counts in a class differ by at most a factor of 1.4."""
    return round(math.log2(_pixels(images_rgb.shape[1], images_rgb.shape[2])))


def _pixels(height: int, width: int) -> int:
    return min(max(height * width, _MIN_PIXELS), _MAX_PIXELS)


def _sample(image_rgb: UInt8Array) -> UInt8Array:
    """Scale an image, (1, H, W, 3), to the range of sizes that are measured."""
    height, width = image_rgb.shape[1:3]
    wanted, ratio = _pixels(height, width), min(max(width / height, 0.25), 4.0)
    if wanted == height * width:
        return image_rgb
    size_wh = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
    return np.asarray(cv2.resize(image_rgb[0], size_wh), np.uint8)[None]


def _figures(chosen: Candidate, times_ms: dict[Candidate, float]) -> str:
    others = ', '.join(f'{c} {t:.0f}' for c, t in times_ms.items() if c != chosen)
    return f'{chosen} {times_ms[chosen]:.0f} ms' + (f'; {others}' if others else '')
