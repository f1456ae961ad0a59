# SPDX-License-Identifier: Apache-2.0
"""Variants as processes that are called in turn."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from segmentation_node.benchmark.frames import Frames
from segmentation_node.benchmark.results import Absent, Calls
from segmentation_node.benchmark.timing import alternating
from segmentation_node.benchmark.variants import AUTO, Variant
from segmentation_node.benchmark.worker import NETWORK, SEGMENT
from segmentation_node.demo.processes import Child, DemoError, wait_for

#: For a model from a hub, a graph that is compiled, and the slowest frame.
PATIENCE_S: Final = 900.0


class Unavailable(Exception):  # noqa: N818 (a fact to report, not an error)
    """A variant is not to be had here; says why."""


class Worker:
    """The process that holds one variant; a context manager."""

    def __init__(self, variant: Variant, device: str, log: Path) -> None:
        self.variant = variant
        command = [
            sys.executable, '-m', 'segmentation_node.benchmark.worker',
            variant.model, variant.runtime, variant.precision, device,
        ]  # fmt: skip
        name = f'worker_{"_".join(variant.key)}'.replace('/', '_')
        log_file = log / f'{name}.log'
        self._child = Child(str(variant), command, log_file, reports=True, commands=True)
        self._asked = 0

    def __enter__(self) -> 'Worker':
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    def facts(self) -> dict[str, Any]:
        """What it runs, once it has loaded; raises Unavailable."""
        return self._answer()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have something done and return the answer; raises Unavailable."""
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
            # Whoever reads the results knows the model by its name.
            name = self.variant.key[0]
            raise Unavailable(str(answer['unavailable']).replace(self.variant.model, name))
        return answer


def _first_line(error: Exception) -> str:
    """Without the process's own words, which are in its log and name folders of this machine."""
    return str(error).partition(';')[0]


class Crew:
    """The workers of one model's variants; those that are not to be had are told and left out."""

    def __init__(self, variants: Sequence[Variant], device: str, log: Path) -> None:
        self._wanted, self._device, self._log = variants, device, log
        self.workers: dict[Variant, Worker] = {}
        self.absent: list[Absent] = []
        self._stack = ExitStack()

    def __enter__(self) -> 'Crew':
        """Start the workers, one after the other."""
        with ExitStack() as stack:
            for variant in self._wanted:
                self.workers[variant] = stack.enter_context(
                    Worker(variant, self._device, self._log)
                )
                self._keep(variant, 'calls', self.workers[variant].facts)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def variants(self) -> list[Variant]:
        """Those that are to be had."""
        return list(self.workers)

    def _ask(
        self, variant: Variant, part: str, do: str, **arguments: Any
    ) -> dict[str, Any] | None:
        """What a worker answers; None where it cannot."""
        return self._keep(variant, part, lambda: self.workers[variant].ask(do, **arguments))

    def _keep(
        self, variant: Variant, part: str, answer: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """An answer of a worker, which is asked no more where it gives none."""
        try:
            return answer()
        except Unavailable as reason:
            self.absent.append(Absent(*variant.key, part, str(reason)))
            self.workers.pop(variant).__exit__()
            return None

    def time(
        self,
        frames: Frames,
        what: Sequence[str],
        rounds: int,
        seconds: float,
        progress: Callable[[], object],
    ) -> list[Calls]:
        """Call all variants in turn; `progress` is called after each turn."""
        turns = self.turns(what)
        images = [str(path) for path in frames.images]
        for variant in self.variants:
            own = [name for of, name in turns if of == variant]
            self._ask(variant, 'calls', 'load', images=images, what=own)
        found = {
            (variant, name): Calls(*variant.key, frames.size, name) for variant, name in turns
        }
        for _, (variant, name) in alternating(turns, rounds):
            progress()
            if variant not in self.workers:
                continue
            times = self._ask(variant, 'calls', 'time', what=name, seconds=seconds)
            if times is not None:
                found[variant, name].wall_ms.append(times['wall_ms'])
                found[variant, name].cpu_ms.append(times['cpu_ms'])
        return [calls for calls in found.values() if calls.wall_ms]

    def turns(self, what: Iterable[str]) -> list[tuple[Variant, str]]:
        """What a round of calls consists of; the common one has no network apart from the rest."""
        turns = []
        for variant in self.variants:
            if NETWORK in what and not variant.is_common:
                turns.append((variant, NETWORK))
            if SEGMENT in what:
                turns.append((variant, SEGMENT))
        return turns

    def labels(self, variant: Variant, frames: Frames, folder: Path) -> list[Path] | None:
        """Label files by a variant, in the order of the frames; None where it cannot."""
        folder.mkdir(parents=True, exist_ok=True)
        images = [str(path) for path in frames.images]
        done = self._ask(variant, 'quality', 'labels', images=images, folder=str(folder))
        return None if done is None else [folder / f'{i}.png' for i in range(len(images))]


def default_of(model: str, device: str, size_wh: tuple[int, int], log: Path) -> list[str]:
    """Return runtime and precision that `auto` takes here for a size; raises Unavailable."""
    with Worker(Variant(model, AUTO, AUTO), device, log) as worker:
        worker.facts()
        facts = worker.ask('prepare', width=size_wh[0], height=size_wh[1])
    return [facts['runtime'], facts['precision']]
