# SPDX-License-Identifier: Apache-2.0
"""Command that loads one variant of a model in a separate process and runs it on request.

Separate processes keep the threads and memory of runtimes apart, and a runtime that crashes does
not affect the others. The process reads commands and writes answers as lines of JSON, see
`Commands`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any, Final, TextIO

from segmentation_node.arrays import UInt8Array
from segmentation_node.benchmark.variants import COMMON
from segmentation_node.errors import SegmentationError, one_line
from segmentation_node.images.files import encode_png, read_image

#: Parts that can be timed: the network alone (pixels to class scores), or image to labels.
NETWORK: Final = 'network'
SEGMENT: Final = 'segment'
#: Calls before timing; the first one fills the caches that the second one uses.
WARM_UP_CALLS: Final = 2


class LoadedVariant:
    """Loaded variant of a model."""

    def __init__(self, model: str, runtime: str, precision: str, device: str) -> None:
        self.label: Callable[[UInt8Array], UInt8Array]
        self._segmenter: Any = None  # imported on demand: it takes seconds; the baseline has none
        if runtime == COMMON:
            from segmentation_node.benchmark.common_model import CommonModel

            common = CommonModel(model, device)
            self.label = common.labels
            self._run: dict[str, Callable[[UInt8Array], object]] = {SEGMENT: self.label}
            self._facts = {'runtime': COMMON, 'precision': 'fp32', 'device': common.device}
            return
        from segmentation_node.runtimes.memory import keep_freed_memory
        from segmentation_node.segmenter import Segmenter

        keep_freed_memory()  # as the node does
        segmenter = Segmenter(model, runtime=runtime, precision=precision, device=device)
        self._segmenter = segmenter
        self.label = lambda image_rgb: segmenter.segment([image_rgb]).labels[0]
        self._run = {
            SEGMENT: self.label,
            NETWORK: lambda image_rgb: segmenter.forward([image_rgb]),
        }

    @property
    def facts(self) -> dict[str, str]:
        """Runtime, precision and device in use."""
        if self._segmenter is None:
            return self._facts
        segmenter = self._segmenter
        return {
            'runtime': segmenter.runtime,
            'precision': segmenter.precision,
            'device': segmenter.device,
        }

    def prepare_for(self, image_hw: tuple[int, int]) -> None:
        """Prepare for an image size; with `auto`, find the fastest runtime."""
        if self._segmenter is not None:
            self._segmenter.prepare(image_hw)

    def prepare(self, images: Sequence[UInt8Array], what: str) -> Iterator[Callable[[], object]]:
        """Warm up and return an endless iterator of calls to time."""
        calls = [partial(self._run[what], image) for image in images]
        for call, _ in zip(cycle(calls), range(WARM_UP_CALLS), strict=False):
            call()
        return cycle(calls)


class Commands:
    """Executes commands; every command consists of the name of a method and its arguments."""

    def __init__(self, variant: LoadedVariant) -> None:
        self._variant = variant
        self._calls: dict[str, Iterator[Callable[[], object]]] = {}
        self._do: dict[str, Callable[..., dict[str, Any]]] = {
            'prepare': self.prepare,
            'load': self.load,
            'time': self.time,
            'labels': self.labels,
        }

    def prepare(self, width: int, height: int) -> dict[str, Any]:
        """Prepare for an image size and return what runs it."""
        self._variant.prepare_for((height, width))
        return self._variant.facts

    def load(self, images: Sequence[str], what: Sequence[str]) -> dict[str, Any]:
        """Read images, discard previous ones, and warm up."""
        pixels = [read_image(Path(image)) for image in images]
        started_s = time.perf_counter()
        self._calls = {name: self._variant.prepare(pixels, name) for name in what}
        return {'warm_up_s': time.perf_counter() - started_s}

    def time(self, what: str, seconds: float) -> dict[str, Any]:
        """Time calls for some seconds, at least one; return wall-clock and CPU milliseconds."""
        wall_ms: list[float] = []
        cpu_ms: list[float] = []
        until_s = time.perf_counter() + seconds
        while not wall_ms or time.perf_counter() < until_s:
            call = next(self._calls[what])
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            call()
            cpu_ms.append(round(1000 * (time.process_time() - cpu_s), 3))
            wall_ms.append(round(1000 * (time.perf_counter() - wall_s), 3))
        return {'wall_ms': wall_ms, 'cpu_ms': cpu_ms}

    def labels(self, images: Sequence[str], folder: str) -> dict[str, Any]:
        """Write the labels of images as PNG files 0.png, 1.png, ... to a folder."""
        for index, image in enumerate(images):
            labels = self._variant.label(read_image(Path(image)))
            Path(folder, f'{index}.png').write_bytes(encode_png(labels))
        return {}

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to one command, with the number of the command."""
        arguments = dict(command)
        number, do = arguments.pop('id'), arguments.pop('do')
        try:
            answer = self._do[do](**arguments)
        except (SegmentationError, RuntimeError, MemoryError) as error:
            # torch and OpenVINO raise RuntimeError for operations that a precision does not
            # support, and if they run out of memory.
            answer = {'unavailable': one_line(error) or type(error).__name__}
        return {'id': number, **answer}


@contextmanager
def _reserved_stdout() -> Iterator[TextIO]:
    """Reserve standard output for answers; output of libraries goes to standard error."""
    with os.fdopen(os.dup(1), 'w') as reserved:
        os.dup2(2, 1)
        yield reserved


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='worker', description='Run one variant of a model, controlled by lines of JSON.'
    )
    for name in ('model', 'runtime', 'precision', 'device'):
        parser.add_argument(name)
    args = parser.parse_args(argv)
    with _reserved_stdout() as out:

        def say(answer: Mapping[str, Any]) -> None:
            print(json.dumps(answer), file=out, flush=True)

        try:
            variant = LoadedVariant(args.model, args.runtime, args.precision, args.device)
        except (SegmentationError, RuntimeError, ImportError) as error:
            say({'id': 0, 'unavailable': one_line(error) or type(error).__name__})
            return 0
        say({'id': 0, **variant.facts})
        commands = Commands(variant)
        for line in sys.stdin:
            say(commands.answer(json.loads(line)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
