# SPDX-License-Identifier: Apache-2.0
"""Measure whether the data loader keeps up with the network.

    python -m training.loading training/configs/deeplabv3plus_camvid8.yaml

The command trains for some steps with the experiment's data loader and, alternating with it, with
one batch in memory. It prints the images per second of both, and the share of a step spent
waiting for data.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from segmentation_node.cli import count
from segmentation_node.errors import SegmentationError
from segmentation_node.labels import load_scheme
from training.batches import Crops, Data
from training.build import build_network, parameter_groups
from training.config import Experiment, load_experiment
from training.losses import class_weights, objective_of
from training.provenance import machine
from training.task import Task, synchronize

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Turn:
    """Durations of the steps of one turn, and of the waits for data in them, in seconds."""

    steps: list[float]
    waits: list[float]


class Bench:
    """Training loop without Lightning, so that only data loader and step are timed."""

    def __init__(self, experiment: Experiment) -> None:
        scheme = load_scheme(experiment.label_scheme)
        self.data = Data(experiment)
        use_gpu = experiment.accelerator != 'cpu' and torch.cuda.is_available()
        self.device = torch.device('cuda' if use_gpu else 'cpu')
        network = build_network(experiment, scheme).to(memory_format=torch.channels_last)
        weights = class_weights(self.data.train, len(scheme.learned), experiment.class_balance)
        objective = objective_of(network, experiment, weights, scheme)
        self.task = Task(experiment, scheme, network, objective).to(self.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(network, experiment))
        self.experiment = experiment

    def batches(self, start: int, steps: int) -> Iterator[Batch]:
        """Iterate over the batches of the steps from `start` on, with a loader as in training."""
        workers = self.experiment.workers
        picks = [self.data.plan.batch(step) for step in range(start, start + steps)]
        loader: DataLoader[Batch] = DataLoader(
            Crops(self.data.train, self.data.augments),
            batch_sampler=picks,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        return iter(loader)

    def turn(self, batches: Iterator[Batch]) -> Turn:
        """Train on all batches and time them, except the first, which includes loader startup."""
        steps, waits = [], []
        ended = time.perf_counter()
        for images, channels in batches:
            arrived = time.perf_counter()
            self._step(images.to(self.device), channels.to(self.device))
            waits.append(arrived - ended)
            steps.append(time.perf_counter() - ended)
            ended = time.perf_counter()
        return Turn(steps[1:], waits[1:])

    def _step(self, images: Tensor, channels: Tensor) -> None:
        self.task.train()
        objective = self.task.objective
        loss = objective.loss(objective.outputs(self.task.graph.normalize(images)), channels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        synchronize(self.device)


def report(experiment: Experiment, turns: int, steps: int) -> str:
    """Measure alternately with loader and memory, and return a report."""
    bench = Bench(experiment)
    (in_memory,) = bench.batches(0, 1)
    bench.turn(iter([in_memory] * 2))  # warm
    loaded, plain = [], []
    for turn in tqdm(range(turns), 'measuring', unit='turn'):
        loaded.append(bench.turn(bench.batches(turn * (steps + 1), steps + 1)))
        plain.append(bench.turn(iter([in_memory] * (steps + 1))))
    size = experiment.batch_size
    lines = [f'{experiment.family}, batch {size}, {experiment.workers} workers; {machine()}']
    for name, measured in (('loader', loaded), ('memory', plain)):
        rates = [size / statistics.mean(turn.steps) for turn in measured]
        lines.append(
            f'{name}: {statistics.median(rates):.2f} images/s ({min(rates):.2f} to '
            f'{max(rates):.2f} over {turns} turns)'
        )
    shares = [sum(turn.waits) / sum(turn.steps) for turn in loaded]
    lines.append(
        f'waiting for data: {100 * statistics.median(shares):.2f} % of a step '
        f'({100 * min(shares):.2f} to {100 * max(shares):.2f} %)'
    )
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the command line: measure and print a report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='override a field')
    parser.add_argument(
        '--turns', type=count, default=3, help='turns with loader and memory each (default: 3)'
    )
    parser.add_argument('--steps', type=count, default=10, help='steps per turn (default: 10)')
    arguments = parser.parse_args(argv)
    try:
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        print(report(experiment, arguments.turns, arguments.steps))
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
