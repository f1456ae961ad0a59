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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from segmentation_node.checkpoint import Spec, load_checkpoint, save_checkpoint
from segmentation_node.errors import SegmentationError
from segmentation_node.graph import Preprocessing, SegmentationGraph
from segmentation_node.labels import IGNORE, LabelScheme, load_scheme
from segmentation_node.metrics import Confusion, Scores
from segmentation_node.models import Network
from training.augment import Augment
from training.build import build_network, copy_encoder, parameter_groups
from training.card import model_card
from training.config import Experiment, load_experiment
from training.datasets import LabelledImages, open_dataset
from training.losses import loss_of


class Batches(torch.utils.data.IterableDataset[tuple[Tensor, Tensor]]):
    """Endless batches that hold each set's share; batch `i` depends on the seed and `i` alone."""

    def __init__(
        self, sets: list[LabelledImages], shares: list[int], augment: Augment, seed: int, start: int
    ) -> None:
        self.sets, self.shares, self.augment = sets, shares, augment
        self.seed, self.start = seed, start

    def __iter__(self) -> Any:
        step = self.start
        while True:
            torch.manual_seed(self.seed * 1_000_003 + step)
            items = [
                self.augment(*images[int(torch.randint(len(images), ()))])
                for images, share in zip(self.sets, self.shares, strict=True)
                for _ in range(share)
            ]
            yield tuple(map(torch.stack, zip(*items, strict=True)))
            step += 1


class Ema:
    """Exponential moving average of a network's weights; its buffers are taken as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = copy.deepcopy(network).eval(), decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards `network`, faster at the start, when the average means little."""
        decay = min(self.decay, (step + 1) / (step + 10))
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)
        for average, current in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(current)


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


def train(experiment: Experiment, output: Path) -> None:
    """Run one experiment into a folder."""
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(experiment.seed)
    scheme = load_scheme(experiment.label_scheme)
    network = build_network(experiment.family, experiment.network, scheme)
    if experiment.initial_encoder:
        copy_encoder(load_checkpoint(experiment.initial_encoder).network, network)
    network.to(memory_format=torch.channels_last)
    sets = [open_dataset(description, scheme) for description in experiment.train]
    validation = {name: open_dataset(d, scheme) for name, d in experiment.val.items()}
    shares = [int(description['share']) for description in experiment.train]
    weights = class_weights(sets, len(scheme.learned), experiment.class_balance)
    loss_function = loss_of(network, weights, experiment.hardest, experiment.points)
    optimizer = torch.optim.AdamW(
        parameter_groups(network, experiment), weight_decay=experiment.weight_decay
    )
    ema = Ema(network, experiment.ema)
    state = Path(output / 'state.pt')
    first, best, curve = 0, -1.0, []
    if state.exists():
        saved = torch.load(state, weights_only=True)
        network.load_state_dict(saved['network'])
        ema.network.load_state_dict(saved['ema'])
        optimizer.load_state_dict(saved['optimizer'])
        first, best, curve = saved['step'], saved['best'], saved['curve']
    batches = Batches(sets, shares, Augment(experiment.crop_hw, experiment.scale),
                      experiment.seed, first)  # fmt: skip
    loader = iter(torch.utils.data.DataLoader(batches, batch_size=None, num_workers=1,
                                              prefetch_factor=4))  # fmt: skip
    shift = torch.tensor(Preprocessing().mean).view(1, 3, 1, 1)
    scale = torch.tensor(Preprocessing().std).view(1, 3, 1, 1)
    started, losses = time.monotonic(), []
    bar = tqdm(range(first, experiment.steps), 'training', initial=first, total=experiment.steps)
    for step in bar:
        images, channels = next(loader)
        pixels = (images.float() / 255 - shift) / scale
        network.train()
        loss = loss_function(pixels.contiguous(memory_format=torch.channels_last), channels)
        if not torch.isfinite(loss):
            raise SegmentationError(
                f'loss is {loss.item()} at step {step}; lower learning_rate or gradient_clip'
            )
        for group in optimizer.param_groups:
            group['lr'] = group['initial_lr'] * rate_at(step, experiment)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), experiment.gradient_clip)
        optimizer.step()
        ema.update(network, step)
        losses.append(loss.item())
        bar.set_postfix(loss=f'{np.mean(losses[-50:]):.3f}')
        last = step + 1 == experiment.steps
        if (step + 1) % experiment.evaluate_every and not last:
            continue
        scores = {name: evaluate(ema.network, images, scheme) for name, images in validation.items()}
        miou = next(iter(scores.values())).miou()
        curve.append({'step': step + 1, 'loss': float(np.mean(losses[-200:])),
                      **{name: s.miou() for name, s in scores.items()}})  # fmt: skip
        tqdm.write(json.dumps(curve[-1]) + ' ' + json.dumps(
            {k: round(v, 3) for k, v in next(iter(scores.values())).class_iou().items()}))  # fmt: skip
        if miou > best:
            best = miou
            provenance = describe(experiment, network, scores, curve, step + 1)
            spec = Spec(experiment.family, scheme.name, Preprocessing(), provenance)
            save_checkpoint(output / 'checkpoint', copy.deepcopy(ema.network), spec,
                            model_card(spec))  # fmt: skip
        # Written aside and renamed, so that a kill leaves the old state or the new one whole.
        torch.save({'network': network.state_dict(), 'ema': ema.network.state_dict(),
                    'optimizer': optimizer.state_dict(), 'step': step + 1, 'best': best,
                    'curve': curve}, state.with_suffix('.new'))  # fmt: skip
        state.with_suffix('.new').replace(state)
    print(f'{experiment.family}: best mIoU {best:.4f} on {next(iter(validation))}, '
          f'{(time.monotonic() - started) / 60:.0f} min; checkpoint in {output / "checkpoint"}')


def describe(
    experiment: Experiment, network: Network, scores: dict[str, Scores],
    curve: list[dict[str, Any]], step: int,
) -> dict[str, Any]:  # fmt: skip
    """Provenance of a checkpoint: recipe, figures, versions."""
    recipe = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(experiment).items()}
    return {
        'parameters': sum(p.numel() for p in network.parameters()),
        'step': step,
        'recipe': recipe,
        'metrics': {
            name: {
                'miou': round(s.miou(), 4),
                'miou_with_void': round(s.miou_with_void(), 4),
                'pixel_accuracy': round(s.pixel_accuracy(), 4),
                'class_iou': {k: round(v, 4) for k, v in s.class_iou().items()},
            }
            for name, s in scores.items()
        },
        'curve': curve,
        'versions': {'torch': str(torch.__version__), 'revision': revision()},
    }


def revision() -> str:
    """The repository's commit, or 'unknown' outside a repository."""
    command = ['git', 'rev-parse', 'HEAD']
    found = subprocess.run(command, capture_output=True, text=True, check=False)
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
    return 0


if __name__ == '__main__':
    sys.exit(main())
