# SPDX-License-Identifier: Apache-2.0
"""Train a network and write a checkpoint that the node loads.

    python -m training.train training/configs/deeplabv3plus_camvid8.yaml runs/deeplabv3plus

The same command goes on after the last whole epoch of a run that was interrupted, and ends with
the figures that the run would have had. `checkpoint/` in the run's folder holds the best epoch so
far, `artifacts/` its pictures; both and all figures go to MLflow as well.
"""

import argparse
import os
import signal
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, TextIO

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from segmentation_node.errors import SegmentationError, SettingError, one_line
from segmentation_node.labels import load_scheme
from segmentation_node.runtimes.torch_runtime import computes_in_bf16
from training import provenance
from training.batches import Data
from training.build import build_network
from training.config import OUTER, Experiment, load_experiment, save_experiment
from training.epochs import (
    Bar,
    Ending,
    Keeper,
    Report,
    Stopwatch,
    close,
    forget_peak_memory,
    state_file,
    told_where,
)
from training.losses import class_weights, objective_of
from training.task import Average, Task
from training.tracking import Run

EXPERIMENT_FILE: Final = 'experiment.yaml'


def train(
    experiment: Experiment,
    folder: Path,
    *,
    name: str = '',
    tags: dict[str, str] | None = None,
    report: Report | None = None,
) -> float:
    """Run one experiment into a folder, or go on with it.

    Args:
        experiment: what to train.
        folder: of the run; made where there is none.
        name: of the MLflow run; the folder's without it.
        tags: of the MLflow run, beside the usual ones.
        report: called after each evaluation.

    Returns:
        The best score, mIoU on the first of the experiment's validation sets.

    Raises:
        SegmentationError: a mistake in the experiment or its data, a store that is not there at
            the start, a loss that is not a number, or a disk that is full.
        KeyboardInterrupt: the process was asked to end.
    """
    state = state_file(folder)
    _check_same(experiment, folder)
    epochs = _epochs_of(state) if state.is_file() else 0
    torch.manual_seed(experiment.seed)
    forget_peak_memory()
    scheme = load_scheme(experiment.label_scheme)
    data = Data(experiment)
    network = build_network(experiment, scheme).to(memory_format=torch.channels_last)
    weights = class_weights(data.train, len(scheme.learned), experiment.class_balance)
    objective = objective_of(network, experiment, weights)
    task = Task(experiment, scheme, network, objective)
    with told_where(folder):
        run, watch = Run(folder), Stopwatch()
    keeper = Keeper(run, data, watch, report)
    callbacks: list[pl.Callback] = [watch, keeper, Bar(), Ending()]
    if experiment.ema:
        callbacks.append(Average(experiment.ema))
    trainer = _trainer(experiment, callbacks)
    if trainer.is_global_zero:
        with told_where(folder):
            run.keep(epochs)
            run.start(
                experiment.study,
                name or folder.name,
                provenance.params(experiment),
                provenance.tags(data, objective) | (tags or {}),
            )
            save_experiment(experiment, folder / EXPERIMENT_FILE)
    status = 'FAILED'
    try:
        trainer.fit(task, data, ckpt_path=state if epochs else None, weights_only=True)
        status = 'FINISHED'
    except SystemExit as error:  # what Lightning makes of SIGINT and SIGTERM
        status = 'KILLED'
        raise KeyboardInterrupt from error
    finally:
        if trainer.is_global_zero:
            if status != 'FINISHED':
                _end_others(trainer)
            close(run, status)
    return keeper.best


def _trainer(experiment: Experiment, callbacks: list[pl.Callback]) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=experiment.accelerator,
            devices=experiment.devices,
            strategy=experiment.strategy,
            precision=precision_of(experiment),
            max_epochs=experiment.epochs,
            gradient_clip_val=experiment.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise SettingError(
            f'accelerator {experiment.accelerator}, devices {experiment.devices}, strategy '
            f'{experiment.strategy} cannot be had here: {one_line(error)}'
        ) from error


def _end_others(trainer: pl.Trainer) -> None:
    """End the processes that were started beside this one; they would wait for it."""
    kill: Any = getattr(trainer.strategy.launcher, 'kill', None)
    if kill is not None:
        kill(signal.SIGKILL)


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Refuse to go on with another experiment than the one a folder was begun with."""
    kept = folder / EXPERIMENT_FILE
    if not kept.is_file():
        return
    before, now = load_experiment(kept, []).model_dump(), experiment.model_dump()
    changed = [k for k, v in before.items() if k not in OUTER and v != now[k]]
    if changed:
        raise SettingError(
            f'{folder} holds a run of another experiment (different: {", ".join(changed)}); give '
            f'another folder, or remove it'
        )


def _epochs_of(state: Path) -> int:
    """Whole epochs that a state has behind it; raises SettingError where it is damaged."""
    try:
        loaded: dict[str, Any] = torch.load(state, map_location='cpu', weights_only=True)
        return int(loaded['epoch']) + 1
    except (RuntimeError, TypeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise SettingError(
            f'{state} is damaged ({one_line(error)}); remove it to start anew: the best '
            f'checkpoint so far stays until a better one is there'
        ) from error


def precision_of(experiment: Experiment) -> Any:
    """Lightning's word for an experiment's precision."""
    wanted = experiment.precision
    if wanted == 'auto':
        gpu = experiment.accelerator != 'cpu' and torch.cuda.is_available()
        wanted = 'bf16' if computes_in_bf16(torch.device('cuda' if gpu else 'cpu')) else 'fp32'
    return {'fp32': '32-true', 'bf16': 'bf16-mixed', 'fp16': '16-mixed'}[wanted]


def main(argv: list[str] | None = None) -> int:
    """Command line of the trainer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('output', type=Path, help='folder of the run; continued if it exists')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='replaces a field')
    arguments = parser.parse_args(argv)
    provenance.quiet_libraries()
    try:
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        best = train(experiment, arguments.output)
    except SegmentationError as error:
        _say(f'error: {error}', sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say('interrupted; the same command goes on after the last whole epoch', sys.stderr)
        return 130
    _say(f'best mIoU {best:.4f}; checkpoint in {arguments.output / "checkpoint"}', sys.stdout)
    return 0


def _say(text: str, stream: TextIO) -> None:
    if os.environ.get('LOCAL_RANK', '0') == '0':  # else several processes say the same
        print(text, file=stream)


if __name__ == '__main__':
    sys.exit(main())
