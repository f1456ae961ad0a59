# SPDX-License-Identifier: Apache-2.0
"""Worker processes, one per variant, that are called in alternation."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from segmentation_node.benchmark.input_frames import InputFrames
from segmentation_node.benchmark.measurements import Absent, Calls
from segmentation_node.benchmark.timing import alternating
from segmentation_node.benchmark.variant_process import NETWORK, SEGMENT
from segmentation_node.benchmark.variants import AUTO, Variant
from segmentation_node.processes import Child, DemoError, wait_for

#: Timeout that allows for a download from the hub, the compilation of a graph, and slow frames.
PATIENCE_S: Final = 900.0


class Unavailable(Exception):  # noqa: N818 (a fact to report, not an error)
    """Raised with the reason if a variant is not available on this machine."""


class VariantWorker:
    """Process that runs one variant; a context manager."""

    def __init__(self, variant: Variant, device: str, log: Path) -> None:
        self.variant = variant
        command = [
            sys.executable, '-m', 'segmentation_node.benchmark.variant_process',
            variant.model, variant.runtime, variant.precision, device,
        ]  # fmt: skip
        name = f'worker_{"_".join(variant.key)}'.replace('/', '_')
        log_file = log / f'{name}.log'
        self._child = Child(str(variant), command, log_file, reports=True, commands=True)
        self._asked = 0

    def __enter__(self) -> 'VariantWorker':
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def facts(self) -> dict[str, Any]:
        """Wait until the variant is loaded and return what it runs; raises Unavailable."""
        return self._answer()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return the answer; raises Unavailable."""
        self._asked += 1
        try:
            self._child.tell({'id': self._asked, 'do': do, **arguments})
        except DemoError as error:
            raise Unavailable(_first_line(error)) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        def answered() -> bool:
            return (
                self._child.report.get('id') == self._asked or self._child.exit_status is not None
            )

        wait_for(answered, PATIENCE_S, lambda: Unavailable(f'no answer for {PATIENCE_S:.0f} s'))
        answer = self._child.report
        if answer.get('id') != self._asked:
            raise Unavailable(_first_line(self._child.failure()))
        if 'unavailable' in answer:
            # Readers of the results know the model by its name, not by its path.
            name = self.variant.key[0]
            raise Unavailable(str(answer['unavailable']).replace(self.variant.model, name))
        return answer


def _first_line(error: Exception) -> str:
    """Return the message without the process output, which names folders of this machine."""
    return str(error).partition(';')[0]


class WorkerPool:
    """Workers of all variants of one model; unavailable variants are reported and skipped."""

    def __init__(self, variants: Sequence[Variant], device: str, log: Path) -> None:
        self._wanted, self._device, self._log = variants, device, log
        self.workers: dict[Variant, VariantWorker] = {}
        self.absent: list[Absent] = []
        self._stack = ExitStack()

    def __enter__(self) -> 'WorkerPool':
        """Start the workers one after the other."""
        with ExitStack() as stack:
            for variant in self._wanted:
                self.workers[variant] = stack.enter_context(
                    VariantWorker(variant, self._device, self._log)
                )
                self._answer(variant, 'calls', self.workers[variant].facts)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def variants(self) -> list[Variant]:
        """Variants that are available."""
        return list(self.workers)

    def _ask(
        self, variant: Variant, part: str, do: str, **arguments: Any
    ) -> dict[str, Any] | None:
        """Return the answer of a worker; None if it is unavailable."""
        return self._answer(variant, part, lambda: self.workers[variant].ask(do, **arguments))

    def _answer(
        self, variant: Variant, part: str, answer: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Return the answer of a worker; if unavailable, record the reason and stop the worker."""
        try:
            return answer()
        except Unavailable as reason:
            self.absent.append(Absent(*variant.key, part, str(reason)))
            self.workers.pop(variant).__exit__()
            return None

    def time(
        self,
        frames: InputFrames,
        what: Sequence[str],
        rounds: int,
        seconds: float,
        progress: Callable[[], object],
    ) -> list[Calls]:
        """Time calls of all variants in alternation; `progress` is called after each turn."""
        turns = self.turns(what)
        images = [str(path) for path in frames.images]
        for variant in self.variants:
            own = [name for of, name in turns if of == variant]
            self._ask(variant, 'calls', 'load', images=images, what=own)
        results = {
            (variant, name): Calls(*variant.key, frames.size, name) for variant, name in turns
        }
        for _, (variant, name) in alternating(turns, rounds):
            progress()
            if variant not in self.workers:
                continue
            times = self._ask(variant, 'calls', 'time', what=name, seconds=seconds)
            if times is not None:
                results[variant, name].wall_ms.append(times['wall_ms'])
                results[variant, name].cpu_ms.append(times['cpu_ms'])
        return [calls for calls in results.values() if calls.wall_ms]

    def turns(self, what: Iterable[str]) -> list[tuple[Variant, str]]:
        """Return the turns of one round; the baseline's network cannot be timed separately."""
        turns = []
        for variant in self.variants:
            if NETWORK in what and not variant.is_common:
                turns.append((variant, NETWORK))
            if SEGMENT in what:
                turns.append((variant, SEGMENT))
        return turns

    def labels(self, variant: Variant, frames: InputFrames, folder: Path) -> list[Path] | None:
        """Return a variant's label files in the order of the frames; None if it is unavailable."""
        folder.mkdir(parents=True, exist_ok=True)
        images = [str(path) for path in frames.images]
        done = self._ask(variant, 'quality', 'labels', images=images, folder=str(folder))
        return None if done is None else [folder / f'{i}.png' for i in range(len(images))]


def default_of(model: str, device: str, size_wh: tuple[int, int], log: Path) -> list[str]:
    """Return the runtime and precision that `auto` chooses for a size; raises Unavailable."""
    with VariantWorker(Variant(model, AUTO, AUTO), device, log) as worker:
        worker.facts()
        facts = worker.ask('prepare', width=size_wh[0], height=size_wh[1])
    return [facts['runtime'], facts['precision']]
