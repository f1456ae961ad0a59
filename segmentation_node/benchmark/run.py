# SPDX-License-Identifier: Apache-2.0
"""One run of the benchmark, step by step."""

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from tqdm import tqdm
from typing_extensions import Never

from segmentation_node.benchmark import stream_processes
from segmentation_node.benchmark.calls import Unavailable, WorkerPool, default_of
from segmentation_node.benchmark.figures import Figures
from segmentation_node.benchmark.input_frames import (
    InputFrames,
    image_frames,
    labeled_frames,
    size_text,
    street_frames,
)
from segmentation_node.benchmark.measurements import Absent, Results
from segmentation_node.benchmark.quality import judge
from segmentation_node.benchmark.report import JSON_FILE
from segmentation_node.benchmark.timing import alternating
from segmentation_node.benchmark.variant_process import NETWORK, SEGMENT
from segmentation_node.benchmark.variants import Variant, model_title, variants_of
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.processes import DemoError
from segmentation_node.runtimes import machine

NODE: Final = 'node'
CAMERAS: Final = 'cameras'
PARTS: Final = (NETWORK, SEGMENT, NODE, CAMERAS)
#: Choice of the option --transport, in addition to stream_processes.TRANSPORTS.
BOTH: Final = 'both'
MODELS: Final = ('deeplabv3plus', 'mask2former')
#: Camera rate relative to the fastest variant, so that every node runs at full capacity.
OVERLOAD: Final = 1.5


@dataclass(frozen=True)
class Scale:
    """Scope of a measurement.

    Args:
        models: bundled names.
        runtimes: runtimes to measure, in addition to PyTorch in fp32 and the baseline; all if
            empty.
        parts: subset of PARTS.
        sizes: (width, height) of the images.
        rounds: measurements of each variant.
        seconds: duration of each measurement.
        frames: number of frames of each size.
        labeled: number of labeled frames to score; None scores all.
        masks: minimum number of masks to count in a stream.
    """

    models: tuple[str, ...]
    runtimes: tuple[str, ...]
    parts: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    rounds: int
    seconds: float
    frames: int
    labeled: int | None
    masks: int


FULL: Final = Scale(
    MODELS, (), PARTS, ((1024, 512), (2048, 1024)), rounds=5, seconds=5.0, frames=6,
    labeled=None, masks=5,
)  # fmt: skip
#: Takes less than three minutes on two cores.
QUICK: Final = Scale(
    MODELS[:1], ('openvino',), (NETWORK, SEGMENT, NODE), ((1024, 512),), rounds=1, seconds=2.0,
    frames=2, labeled=4, masks=3,
)  # fmt: skip


def measurable(parts: Sequence[str]) -> tuple[set[str], str]:
    """Return the parts that can be measured on this machine, and a note about the others."""
    ros_parts = {NODE, CAMERAS} & set(parts)
    if not ros_parts or importlib.util.find_spec('rclpy') is not None:
        return set(parts), ''
    note = 'ROS 2 is not installed, so no node was measured (install it: pip install ".[ros]").'
    return set(parts) - ros_parts, note


class BenchmarkRun:
    """Run of the benchmark as specified by the options of the command."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        preset = QUICK if args.quick else FULL
        self._scale = replace(
            preset,
            models=tuple(dict.fromkeys(args.model)) or preset.models,
            runtimes=tuple(args.runtime) or preset.runtimes,
            sizes=tuple(args.sizes or preset.sizes),
            rounds=args.rounds or preset.rounds,
            seconds=args.seconds or preset.seconds,
            frames=args.frames or preset.frames,
        )
        self._models = self._scale.models
        self._work, self._log = args.output / 'work', args.output / 'log'
        self._parts, self._note = measurable(args.only or preset.parts)

    def run(self) -> Results:
        """Measure everything."""
        for model in self._models:
            find_checkpoint(model)  # reports a missing model at the start
        self._results = results = self._empty_results()
        sets = self._frames()
        results.settings['frames'] = '; '.join(dict.fromkeys(frames.title for frames in sets))
        data = self._labeled()
        for model in self._models:
            variants = variants_of(model, self._scale.runtimes, self._args.precision)
            with WorkerPool(variants, self._args.device, self._log) as pool:
                self._call(model_title(model), pool, sets)
                self._judge(pool, model, [*sets, data] if data is not None else sets)
                results.absent += pool.absent
                available = pool.variants
            self._save()
            self._stream(model, available, sets)
        return results

    def _save(self) -> None:
        """Write the results so far, so that a failure later does not lose them."""
        self._results.write(self._args.output / JSON_FILE)

    def _empty_results(self) -> Results:
        args, scale = self._args, self._scale
        date = time.strftime('%Y-%m-%d', time.gmtime())
        settings = {
            'quick': args.quick,
            'models': [model_title(model) for model in self._models],
            'device': args.device,
            'sizes': [size_text(size) for size in scale.sizes],
            'rounds': scale.rounds,
            'seconds': scale.seconds,
            'rate_hz': args.rate_hz,
            'transport': args.transport,
            'parts': [part for part in PARTS if part in self._parts],
        }
        results = Results(date, settings, machine.describe())
        if self._note:
            print(self._note)
            results.notes.append(self._note)
        for model in self._models:
            self._ask_default(results, model)
        return results

    def _ask_default(self, results: Results, model: str) -> None:
        name = model_title(model)
        try:
            results.defaults[name] = default_of(
                model, self._args.device, self._scale.sizes[0], self._log
            )
        except Unavailable as reason:
            results.absent.append(Absent(name, 'auto', 'auto', 'calls', str(reason)))

    def _frames(self) -> list[InputFrames]:
        args, number = self._args, self._scale.frames
        with _bar(len(self._scale.sizes), 'frames') as bar:
            sets = []
            for size in self._scale.sizes:
                folder = self._work / size_text(size)
                sets.append(
                    street_frames(size, number, folder) if args.images is None
                    else image_frames(args.images, size, number, folder)
                )  # fmt: skip
                bar.update()
        return sets

    def _labeled(self) -> InputFrames | None:
        args = self._args
        if args.data is None:
            return None
        return labeled_frames(args.data, args.data_scheme, args.data_split, self._scale.labeled)

    def _call(self, title: str, pool: WorkerPool, sets: Sequence[InputFrames]) -> None:
        what = [part for part in (NETWORK, SEGMENT) if part in self._parts]
        if not what:
            return
        scale = self._scale
        for frames in sets:
            turns = scale.rounds * len(pool.turns(what))
            with _bar(turns, f'{title} {frames.size}: calls') as bar:
                self._results.calls += pool.time(
                    frames, what, scale.rounds, scale.seconds, bar.update
                )

    def _judge(self, pool: WorkerPool, model: str, sets: Sequence[InputFrames]) -> None:
        scheme, work = find_checkpoint(model).scheme, self._work / 'labels'
        title = f'{model_title(model)}: labels'
        with _bar(len(pool.variants) * len(sets), title) as bar:
            for frames in sets:
                self._results.quality += judge(pool, scheme, frames, work, bar.update)

    def _stream(
        self, model: str, variants: Sequence[Variant], sets: Sequence[InputFrames]
    ) -> None:
        for frames in sets:
            if NODE in self._parts:
                setups = [
                    self._setup(variant, frames, transport=transport)
                    for variant, transport in product(variants, self._transports)
                ]
                self._run_streams(NODE, setups)
            if CAMERAS in self._parts and self._args.cameras > 1 and frames is sets[0]:
                fastest = Figures(self._results).fastest(model_title(model), frames.size)
                chosen = [variant for variant in variants if variant.key == fastest]
                setups = [
                    self._setup(variant, frames, self._args.cameras, nodes)
                    for variant, nodes in product(chosen, (1, self._args.cameras))
                ]
                self._run_streams(CAMERAS, setups)

    @property
    def _transports(self) -> tuple[str, ...]:
        wanted: str = self._args.transport
        return stream_processes.TRANSPORTS if wanted == BOTH else (wanted,)

    def _setup(
        self,
        variant: Variant,
        frames: InputFrames,
        cameras: int = 1,
        nodes: int = 1,
        transport: str | None = None,
    ) -> stream_processes.Setup:
        return stream_processes.Setup(
            variant, self._args.device, frames, self._rate_hz(variant.model, frames),
            self._scale.seconds, self._scale.masks, cameras, nodes,
            transport or self._transports[0],
        )  # fmt: skip

    def _rate_hz(self, model: str, frames: InputFrames) -> float:
        """Return a camera rate for all variants that exceeds the throughput of each."""
        figures = Figures(self._results)
        fastest = figures.fastest(model_title(model), frames.size)
        calls = figures.calls(fastest, frames.size) if fastest else None
        able_hz = 1000 / calls.wall_ms.median if calls else 0.0
        return max(float(self._args.rate_hz), round(OVERLOAD * able_hz, 1))

    def _run_streams(self, part: str, setups: Sequence[stream_processes.Setup]) -> None:
        if not setups:
            return
        failed: set[Variant] = set()
        title = f'{setups[0].variant.key[0]} {setups[0].frames.size}: {part}'
        with _bar(len(setups) * self._scale.rounds, title) as bar:
            for number, setup in alternating(setups, self._scale.rounds):
                if setup.variant not in failed and not self._streamed(part, setup, number):
                    failed.add(setup.variant)
                self._save()
                bar.update()

    def _streamed(self, part: str, setup: stream_processes.Setup, number: int) -> bool:
        try:
            self._results.streams.append(stream_processes.stream(setup, self._log, number))
        except DemoError as error:
            tqdm.write(f'{setup.variant}: {error}', file=sys.stderr)
            reason = str(error).splitlines()[0]
            self._results.absent.append(Absent(*setup.variant.key, part, reason))
            return False
        return True


def _bar(total: int, what: str) -> 'tqdm[Never]':
    return tqdm(total=total, desc=what, unit='', disable=None)
