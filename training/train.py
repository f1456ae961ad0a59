# SPDX-License-Identifier: Apache-2.0
"""Train a network and write a checkpoint that the node loads.

    python -m training.train training/configs/deeplabv3plus_camvid8.yaml runs/deeplabv3plus

The same command resumes an interrupted run after its last complete epoch and ends with the same
figures as an uninterrupted run. In the run's folder, `checkpoint/` contains the best epoch so far
and `artifacts/` the pictures; both, and all figures, are also sent to MLflow.
"""

import argparse
import os
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final, TextIO

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException

from segmentation_node.errors import SegmentationError, SettingError, one_line
from segmentation_node.labels import load_scheme
from segmentation_node.runtimes.torch_runtime import computes_in_bf16
from training import provenance
from training.batches import Data
from training.build import build_network
from training.config import OUTER, Experiment, load_experiment, save_experiment
from training.epochs import (
    Keeper,
    ProgressBar,
    ReportScore,
    SharedFolder,
    SignalHandling,
    StateIO,
    Stopwatch,
    reset_peak_memory,
    score_name,
    state_file,
    write_guard,
)
from training.losses import class_weights, objective_of
from training.processes import is_first_process
from training.task import Average, Task
from training.tracking import Run

EXPERIMENT_FILE: Final = 'experiment.yaml'
#: Environment variables by which machines find each other without torchrun and SLURM: the address
#: and port of the first machine, and the number of this machine, from 0.
NODE_VARIABLES: Final = ('MASTER_ADDR', 'MASTER_PORT', 'NODE_RANK')


def train(
    experiment: Experiment,
    folder: Path,
    *,
    name: str = '',
    tags: dict[str, str] | None = None,
    report: ReportScore | None = None,
) -> float:
    """Run an experiment, or resume it.

    Args:
        experiment: the experiment to run.
        folder: folder of the run; created if it does not exist.
        name: name of the MLflow run; empty uses the name of the folder.
        tags: additional tags of the MLflow run.
        report: called after each evaluation.

    Returns:
        The best score on the first of the experiment's validation sets: mIoU, or PQ for a task
        with instances.

    Raises:
        SegmentationError: the experiment or its data are invalid, the MLflow store is not
            available at the start, the loss is not finite, or the disk is full.
        KeyboardInterrupt: the process received SIGINT or SIGTERM.
    """
    _check_same(experiment, folder)
    state = state_file(folder)
    epochs = _completed_epochs(state) if state.is_file() else 0
    torch.manual_seed(experiment.seed)
    reset_peak_memory()
    scheme = load_scheme(experiment.label_scheme)
    data = Data(experiment)
    network = build_network(experiment, scheme).to(memory_format=torch.channels_last)
    weights = class_weights(data.train, len(scheme.learned), experiment.class_balance)
    objective = objective_of(network, experiment, weights, scheme)
    task = Task(experiment, scheme, network, objective)
    with write_guard(folder):
        run = Run(folder)
    watch = Stopwatch()
    keeper = Keeper(run, data, watch, report)
    callbacks: list[pl.Callback] = [watch, keeper, ProgressBar(), SignalHandling()]
    if experiment.ema:
        callbacks.append(Average(experiment.ema))
    if experiment.num_nodes > 1:
        callbacks.append(SharedFolder(folder, epochs))
    trainer = _trainer(experiment, callbacks)
    if trainer.is_global_zero:
        with write_guard(folder):
            run.keep(epochs)
            run.start(
                experiment.study,
                name or folder.name,
                provenance.params(experiment),
                provenance.tags(data, objective) | (tags or {}),
            )
            save_experiment(experiment, folder / EXPERIMENT_FILE)
    try:
        trainer.fit(task, data, ckpt_path=state if epochs else None, weights_only=True)
    except SystemExit as error:  # Lightning raises it on SIGINT and SIGTERM
        raise KeyboardInterrupt from error
    return keeper.best


def _trainer(experiment: Experiment, callbacks: list[pl.Callback]) -> pl.Trainer:
    devices, num_nodes = experiment.devices, experiment.num_nodes
    try:
        trainer = pl.Trainer(
            accelerator=experiment.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=experiment.strategy,
            precision=precision_of(experiment),
            max_epochs=experiment.epochs,
            gradient_clip_val=experiment.gradient_clip or None,
            reload_dataloaders_every_n_epochs=1,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=[StateIO()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        _check_processes(trainer, experiment)
        return trainer
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise SettingError(
            f'accelerator {experiment.accelerator}, devices {devices}, strategy '
            f'{experiment.strategy}, num_nodes {num_nodes} are not available on this machine: '
            f'{one_line(error)}; choose others, for instance accelerator=auto devices=1 '
            f'strategy=auto num_nodes=1'
        ) from error


def _check_processes(trainer: pl.Trainer, experiment: Experiment) -> None:
    """Check that torchrun, SLURM or the user started as many processes as the experiment says.

    Raises:
        ValueError: the number differs.
        SettingError: a machine does not know the others, and would wait for them forever.
    """
    environment = getattr(trainer.strategy, 'cluster_environment', None)
    if environment is not None:
        environment.validate_settings(experiment.devices, experiment.num_nodes)
    missing = [name for name in NODE_VARIABLES if name not in os.environ]
    if experiment.num_nodes > 1 and missing and isinstance(environment, LightningEnvironment):
        raise SettingError(
            f'num_nodes is {experiment.num_nodes}, but {", ".join(missing)} '
            f'{"is" if len(missing) == 1 else "are"} not set; start the command with torchrun or '
            f'srun, or set {", ".join(NODE_VARIABLES)} on each machine'
        )


def _check_same(experiment: Experiment, folder: Path) -> None:
    """Raise SettingError if the folder contains a run of a different experiment."""
    saved = folder / EXPERIMENT_FILE
    if not saved.is_file():
        return
    before, now = load_experiment(saved, []).model_dump(), experiment.model_dump()
    changed = [k for k, v in before.items() if k not in OUTER and v != now[k]]
    if changed:
        raise SettingError(
            f'{folder} contains a run of a different experiment (different fields: '
            f'{", ".join(changed)}); choose another folder, or remove this one'
        )


def _completed_epochs(state: Path) -> int:
    """Return the number of complete epochs in a state; raises SettingError if it is damaged."""
    try:
        loaded: dict[str, Any] = torch.load(state, map_location='cpu', weights_only=True)
        return int(loaded['epoch']) + 1
    except (RuntimeError, TypeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise SettingError(
            f'{state} is damaged ({one_line(error)}); remove it to restart the run: the best '
            f'checkpoint so far stays until there is a better one'
        ) from error


def precision_of(experiment: Experiment) -> Any:
    """Return an experiment's precision as Lightning names it."""
    precision = experiment.precision
    if precision == 'auto':
        gpu = experiment.accelerator != 'cpu' and torch.cuda.is_available()
        precision = 'bf16' if computes_in_bf16(torch.device('cuda' if gpu else 'cpu')) else 'fp32'
    return {'fp32': '32-true', 'bf16': 'bf16-mixed', 'fp16': '16-mixed'}[precision]


def main(argv: list[str] | None = None) -> int:
    """Run the command line: train one experiment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('output', type=Path, help='folder of the run; resumed if it exists')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='override a field')
    arguments = parser.parse_args(argv)
    provenance.quiet_libraries()
    try:
        experiment = load_experiment(arguments.experiment, arguments.overrides)
        best = train(experiment, arguments.output)
    except SegmentationError as error:
        _print_once(f'error: {error}', sys.stderr)
        return 1
    except KeyboardInterrupt:
        _print_once(
            'interrupted; repeat the command to resume after the last complete epoch', sys.stderr
        )
        return 130
    _print_once(
        f'best {score_name(experiment)} {best:.4f}; checkpoint in '
        f'{arguments.output / "checkpoint"}',
        sys.stdout,
    )
    return 0


def _print_once(text: str, stream: TextIO) -> None:
    if is_first_process():
        print(text, file=stream)


if __name__ == '__main__':
    sys.exit(main())
