# SPDX-License-Identifier: Apache-2.0
"""Train a network and write a checkpoint that the node loads.

    python -m training.train training/configs/deeplabv3plus.yaml runs/deeplabv3plus

A run that was interrupted goes on where it last saved its state when the same command is given
again; the checkpoint folder is written at each evaluation that is the best so far.
"""

import argparse
import copy
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from segmentation_node.checkpoint import Spec, load_checkpoint, save_checkpoint
from segmentation_node.errors import SegmentationError, SettingError
from segmentation_node.graph import Preprocessing, SegmentationGraph
from segmentation_node.labels import IGNORE, LabelScheme, load_scheme
from segmentation_node.metrics import Confusion, Scores
from segmentation_node.models import Network
from segmentation_node.models.network import one_line
from training.augment import Augment
from training.build import build_network, copy_encoder, parameter_groups
from training.card import model_card
from training.config import Experiment, load_experiment
from training.datasets import LabelledImages, open_dataset
from training.losses import Loss, loss_of


def step_seed(seed: int, step: int) -> int:
    """Seed of all that is random in one step of a run."""
    return seed * 1_000_003 + step


class Batches(IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches that hold each set's share; batch `i` depends on the seed and `i` alone."""

    def __init__(
        self,
        sets: list[LabelledImages],
        shares: list[int],
        augment: Augment,
        seed: int,
        start: int,
    ) -> None:
        self.sets, self.shares, self.augment = sets, shares, augment
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        step = self.start
        while True:
            torch.manual_seed(step_seed(self.seed, step))
            items = [
                self.augment(*images[int(torch.randint(len(images), ()))])
                for images, share in zip(self.sets, self.shares, strict=True)
                for _ in range(share)
            ]
            images, channels = zip(*items, strict=True)
            yield torch.stack(images), torch.stack(channels)
            step += 1


class Ema:
    """Exponential moving average of a network's weights; its buffers are taken as they are."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network).eval(), decay

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Move towards `network`, faster at the start, when the average means little."""
        decay = min(self.decay, (step + 1) / (step + 10))
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)
        for buffer, newest in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(newest)


def rate_at(step: int, experiment: Experiment) -> float:
    """Share of the learning rate at a step: linear warm-up, then half a cosine to zero."""
    warm = max(1, round(experiment.warm_up * experiment.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, experiment.steps - warm)))


def class_weights(sets: list[LabelledImages], channels: int, power: float) -> Tensor:
    """Weights of the classes, frequency ** -power, with a mean of 1 over the pixels."""
    counts = np.sum([images.channel_counts() for images in sets], axis=0)[:channels]
    share = np.maximum(counts / counts.sum(), 1e-4)
    weights = share**-power
    return torch.tensor(weights / (weights * share).sum(), dtype=torch.float32)


@torch.inference_mode()
def evaluate(network: Network, images: LabelledImages, scheme: LabelScheme) -> Scores:
    """Scores at the images' own size, through the graph that the node runs."""
    ids = np.append(scheme.channel_ids, np.zeros(256 - len(scheme.channel_ids), np.uint8))
    graph = SegmentationGraph(network, Preprocessing(), torch.from_numpy(scheme.channel_ids))
    confusion = Confusion()
    for image, channels in images:
        labels, _ = graph.eval()(image.permute(1, 2, 0)[None].contiguous())
        annotated = channels.numpy() != IGNORE
        truth = ids[channels.numpy()[annotated]]
        confusion.add(truth, labels[0].numpy()[annotated])
    return confusion.scores(scheme)


class Run:
    """A network in training: its weights, their average, the optimizer, and how far it is.

    `best` is the highest score so far and `curve` the figures of each evaluation.
    """

    def __init__(self, experiment: Experiment, network: Network, loss: Loss) -> None:
        self.experiment, self.network, self.loss = experiment, network, loss
        self.ema = Ema(network, experiment.ema)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(network, experiment), weight_decay=experiment.weight_decay
        )
        self.step, self.best = 0, -1.0
        self.curve: list[dict[str, Any]] = []

    def advance(self, images: Tensor, channels: Tensor) -> float:
        """Learn from (B, 3, H, W) uint8 images and (B, H, W) int64 channels; returns the loss."""
        # Dropout and drawn points depend on the step alone, as batches do, so that a run that was
        # interrupted ends with the same weights.
        torch.manual_seed(step_seed(self.experiment.seed, self.step))
        self.network.train()
        loss = self.loss(normalized(images), channels)
        if not torch.isfinite(loss):
            raise SegmentationError(
                f'loss is {loss.item()} at step {self.step}; lower learning_rate or gradient_clip'
            )
        for group in self.optimizer.param_groups:
            group['lr'] = group['initial_lr'] * rate_at(self.step, self.experiment)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.experiment.gradient_clip)
        self.optimizer.step()
        self.ema.update(self.network, self.step)
        self.step += 1
        return loss.item()

    def is_due(self) -> bool:
        """Whether the network is to be evaluated now."""
        last = self.step == self.experiment.steps
        return last or self.step % self.experiment.evaluate_every == 0

    def save(self, path: Path) -> None:
        """Write all that `restore` needs to go on as if nothing had happened."""
        state = {
            'network': self.network.state_dict(),
            'ema': self.ema.network.state_dict(),
            'optimizer': self.optimizer.state_dict(),
            'step': self.step,
            'best': self.best,
            'curve': self.curve,
        }
        # Written aside and renamed, so that a kill leaves the old state or the new one whole.
        torch.save(state, path.with_suffix('.new'))
        path.with_suffix('.new').replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state; raises SettingError where it is of another experiment."""
        try:
            saved = torch.load(path, weights_only=True)
            self.network.load_state_dict(saved['network'])
            self.ema.network.load_state_dict(saved['ema'])
            self.optimizer.load_state_dict(saved['optimizer'])
        except (RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            raise SettingError(
                f'{path} is damaged or of another experiment ({one_line(error)}); give another '
                f'output folder, or remove the file to start anew'
            ) from error
        self.step, self.best, self.curve = saved['step'], saved['best'], saved['curve']


def normalized(images: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 RGB as the networks expect it, float."""
    shift = torch.tensor(Preprocessing().mean).view(1, 3, 1, 1)
    scale = torch.tensor(Preprocessing().std).view(1, 3, 1, 1)
    return ((images.float() / 255 - shift) / scale).contiguous(memory_format=torch.channels_last)


def fresh_network(experiment: Experiment, scheme: LabelScheme) -> Network:
    """The network that an experiment starts with."""
    network = build_network(experiment.family, experiment.network, scheme)
    if experiment.initial_encoder:
        copy_encoder(load_checkpoint(experiment.initial_encoder).network, network)
    return network.to(memory_format=torch.channels_last)


def train(experiment: Experiment, output: Path) -> None:
    """Run one experiment into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(experiment.seed)
    scheme = load_scheme(experiment.label_scheme)
    network = fresh_network(experiment, scheme)
    sets = [open_dataset(description, scheme) for description in experiment.train]
    validation = {name: open_dataset(d, scheme) for name, d in experiment.val.items()}
    weights = class_weights(sets, len(scheme.learned), experiment.class_balance)
    run = Run(
        experiment, network, loss_of(network, weights, experiment.hardest, experiment.points)
    )
    state = output / 'state.pt'
    if state.exists():
        run.restore(state)
    batches = batches_of(experiment, sets, run.step)
    started, losses = time.monotonic(), []
    with tqdm(desc='training', initial=run.step, total=experiment.steps, unit='step') as bar:
        while run.step < experiment.steps:
            losses.append(run.advance(*next(batches)))
            bar.update()
            bar.set_postfix(loss=f'{np.mean(losses[-50:]):.3f}')
            if run.is_due():
                evaluate_and_keep(run, validation, scheme, float(np.mean(losses[-200:])), output)
                run.save(state)
    minutes = (time.monotonic() - started) / 60
    print(
        f'{experiment.family}: best mIoU {run.best:.4f} on {next(iter(validation))}, '
        f'{minutes:.0f} min; checkpoint in {output / "checkpoint"}'
    )


def batches_of(
    experiment: Experiment, sets: list[LabelledImages], start: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from one step on, made by a process of their own."""
    shares = [description['share'] for description in experiment.train]
    augment = Augment(experiment.crop_hw, experiment.scale)
    batches = Batches(sets, shares, augment, experiment.seed, start)
    return iter(DataLoader(batches, batch_size=None, num_workers=1, prefetch_factor=4))


def evaluate_and_keep(
    run: Run,
    validation: dict[str, LabelledImages],
    scheme: LabelScheme,
    loss: float,
    output: Path,
) -> None:
    """Score the averaged network and, if it is the best so far, write its checkpoint."""
    scores = {n: evaluate(run.ema.network, images, scheme) for n, images in validation.items()}
    figures = {name: s.miou() for name, s in scores.items()}
    run.curve.append({'step': run.step, 'loss': loss, **figures})
    first = next(iter(scores.values()))
    by_class = {name: round(iou, 3) for name, iou in first.class_iou().items()}
    tqdm.write(f'{json.dumps(run.curve[-1])} {json.dumps(by_class)}')
    if first.miou() > run.best:
        run.best = first.miou()
        provenance = describe(run, scores)
        spec = Spec(run.experiment.family, scheme.name, Preprocessing(), provenance)
        save_checkpoint(output / 'checkpoint', run.ema.network, spec, model_card(spec))


def describe(run: Run, scores: dict[str, Scores]) -> dict[str, Any]:
    """Provenance of a checkpoint: recipe, figures, versions."""
    recipe = asdict(run.experiment)
    return {
        'parameters': sum(p.numel() for p in run.network.parameters()),
        'step': run.step,
        'recipe': {k: list(v) if isinstance(v, tuple) else v for k, v in recipe.items()},
        'metrics': {
            name: {
                'miou': round(s.miou(), 4),
                'miou_with_void': round(s.miou_with_void(), 4),
                'pixel_accuracy': round(s.pixel_accuracy(), 4),
                'class_iou': {k: round(v, 4) for k, v in s.class_iou().items()},
            }
            for name, s in scores.items()
        },
        'curve': run.curve,
        'versions': {'torch': str(torch.__version__), 'revision': revision()},
    }


def revision() -> str:
    """The repository's commit, or 'unknown' outside a repository."""
    command = ['git', 'rev-parse', 'HEAD']
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # no git on this machine
        return 'unknown'
    return found.stdout.strip() or 'unknown'


def main(argv: list[str] | None = None) -> int:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('output', type=Path, help='folder of the run; continued if it exists')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='replaces a field')
    arguments = parser.parse_args(argv)
    try:
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        train(experiment, arguments.output)
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('interrupted; the same command goes on from the last evaluation', file=sys.stderr)
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
