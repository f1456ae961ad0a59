# SPDX-License-Identifier: Apache-2.0
"""Lightning callbacks of a run: timing, scoring, checkpoints, pictures, progress."""

import math
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import TQDMProgressBar
from safetensors import SafetensorError
from tqdm import tqdm

from segmentation_node.atomic import replacing, replacing_folder, restore_folder
from segmentation_node.checkpoint import SPEC_FILE, Spec, save_checkpoint
from segmentation_node.errors import SegmentationError, one_line
from segmentation_node.labels import IGNORE
from segmentation_node.metrics import Scores
from training import provenance, run_pictures
from training.batches import Data
from training.card import model_card
from training.config import Experiment
from training.frame_counts import FRAME_COUNTS_FILE, write_frame_counts
from training.panoptic_quality import PanopticCounts
from training.segments import classes_of
from training.task import Task
from training.tracking import Run, close, deliver

#: Called with an epoch, counted from 0, and its score; may raise an exception to end the run.
ReportScore = Callable[[int, float], None]


class Stopwatch(pl.Callback):
    """Timer for each epoch of training and for the time its steps waited for data."""

    def __init__(self) -> None:
        self.seconds = self.waited = 0.0
        self._began = self._idle_since = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.seconds = self.waited = 0.0
        self._began = self._idle_since = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited += time.perf_counter() - self._idle_since

    def on_train_batch_end(self, *_: Any) -> None:
        self._idle_since = time.perf_counter()

    def on_validation_start(self, *_: Any) -> None:
        self.seconds = time.perf_counter() - self._began


class Keeper(pl.Callback):
    """Saves the scores of each epoch, the best checkpoint, and the state for resuming.

    Lightning's ModelCheckpoint would save its own format, which the node cannot load. After
    resuming, its EarlyStopping would not count epochs until the next evaluation.

    Must precede `Average` in the list of callbacks, so that the averaged weights are still in
    place when a validation ends.
    """

    def __init__(self, run: Run, data: Data, watch: Stopwatch, report: ReportScore | None) -> None:
        self.run, self.data, self.watch, self.report = run, data, watch, report
        self.patience = data.experiment.patience
        self.evaluate_every = data.experiment.evaluate_every
        self.best, self.best_epoch = -1.0, -1
        self._score: float | None = None  # of the current epoch, None if it is not evaluated

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        # Repeating the command must not continue a run that stopped early.
        self._stop_early(trainer, trainer.current_epoch - 1)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._score = None
        # An epoch that may be the last one is evaluated, regardless of `evaluate_every`.
        epoch = trainer.current_epoch
        may_end = epoch + 1 == trainer.max_epochs or self._patience_exhausted(epoch)
        trainer.check_val_every_n_epoch = 1 if may_end else self.evaluate_every

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task = cast('Task', pl_module)
        names = list(self.data.val)
        results = [task.scores(i) for i in range(len(names))]
        temperature = task.temperature(0)
        by_set = {name: scores for name, (scores, _, _) in zip(names, results, strict=True)}
        segments = {n: s for i, n in enumerate(names) if (s := task.segments(i)) is not None}
        frames = {
            name: task.frame_counts(i, images.names)
            for i, (name, images) in enumerate(self.data.val.items())
        }
        scores, val_loss, seconds = results[0]
        losses = {'train_loss': task.train_loss(), 'val_loss': val_loss}
        panoptic = segments[names[0]].figures() if segments else {}
        self._score = panoptic.get('PQ', math.nan) if segments else scores.miou()
        if self._score != self._score:  # NaN
            raise SegmentationError(
                f'validation set {names[0]!r} has no {"segment" if segments else "pixel"} of a '
                f'scored class, so the best epoch cannot be determined; put a set with labels '
                f'first in "val"'
            )
        is_best = self._score > self.best
        if is_best:
            self.best, self.best_epoch = self._score, trainer.current_epoch
        if trainer.is_global_zero:
            row = losses | self._figures(task, scores, seconds)
            row |= {f'mIoU/{name}': s.miou() for name, s in by_set.items()}
            row |= {f'PQ/{name}': s.mean().pq for name, s in segments.items() if s.things}
            row |= panoptic
            with write_guard(self.run.folder):
                self.run.log(trainer.current_epoch, row)
                if is_best:
                    self._keep_best(task, by_set, segments, temperature)
                    write_frame_counts(self.run.artifacts / FRAME_COUNTS_FILE, frames)
                else:  # the checkpoint lists all epochs, also later ones
                    update_curve(self.run.folder / 'checkpoint', self.run)
                self._draw(trainer.current_epoch, task)
                provenance.write_confusion(self.run.artifacts / 'confusion.json', scores)
            self._print_summary(trainer.current_epoch, task, row, scores)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(state_file(self.run.folder))
        self._stop_early(trainer, trainer.current_epoch)
        if trainer.is_global_zero and self._score is not None:
            # Sent after the state is saved: an epoch that a kill undoes was never reported.
            deliver(self.run)
            if self.report is not None:
                self.report(trainer.current_epoch, self._score)

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            close(self.run, 'FINISHED')

    def on_exception(
        self, trainer: pl.Trainer, _: pl.LightningModule, exception: BaseException
    ) -> None:
        # The other processes of this machine would wait for the one that started them.
        kill: Any = getattr(trainer.strategy.launcher, 'kill', None)
        if kill is not None:
            kill(signal.SIGKILL)
        if trainer.is_global_zero:
            close(self.run, 'KILLED' if isinstance(exception, KeyboardInterrupt) else 'FAILED')

    def state_dict(self) -> dict[str, Any]:
        return {'best': self.best, 'best_epoch': self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_epoch = state_dict['best'], state_dict['best_epoch']

    def _stop_early(self, trainer: pl.Trainer, epoch: int) -> None:
        if self._patience_exhausted(epoch):
            trainer.should_stop = True

    def _patience_exhausted(self, epoch: int) -> bool:
        return 0 < self.patience <= epoch - self.best_epoch

    def _figures(self, task: Task, scores: Scores, seconds: float) -> dict[str, float]:
        steps = len(task.losses)
        row = {
            'pixel_acc': scores.pixel_accuracy(),
            'mIoU': scores.miou(),
            'Dice': scores.mean_dice(),
            'imgs_per_sec': 1 / seconds,
            'train_imgs_per_sec': steps * task.experiment.batch_size / self.watch.seconds,
            'train_time_sec': self.watch.seconds,
            'data_wait_share': self.watch.waited / self.watch.seconds,
            'learning_rate': task.rate,
            'peak_memory_mb': peak_memory_mb(task.device),
        }
        row |= {f'IoU/{name}': iou for name, iou in scores.class_iou().items()}
        return row | {f'Dice/{name}': dice for name, dice in scores.class_dice().items()}

    def _keep_best(
        self,
        task: Task,
        by_set: Mapping[str, Scores],
        segments: Mapping[str, PanopticCounts],
        temperature: float,
    ) -> None:
        origin = provenance.describe(task, self.data, by_set, segments, self.run)
        spec = replace(task.spec, provenance=origin, temperature=temperature)
        write_checkpoint(self.run.folder / 'checkpoint', task, spec)

    def _draw(self, epoch: int, task: Task) -> None:
        images = next(iter(self.data.val.values()))
        columns = []
        places = sorted({round(i * (len(images) - 1) / 3) for i in range(4)})
        for place in places:
            image, labels = images[place]
            channels = classes_of(labels.numpy()).astype(np.uint8)
            predicted = task.predict(image)
            predicted[channels == IGNORE] = IGNORE
            column = [
                image.permute(1, 2, 0).numpy(),
                run_pictures.draw_channels(channels, task.scheme),
                run_pictures.draw_channels(predicted, task.scheme),
            ]
            columns.append(column)
            for kind, picture in zip(('image', 'truth', 'prediction'), column, strict=True):
                path = self.run.artifacts / 'examples' / f'{images.names[place]}_{kind}.png'
                run_pictures.write_picture(path, picture)
        grid = self.run.artifacts / 'grid' / f'epoch_{epoch + 1:04}.png'
        run_pictures.write_picture(grid, run_pictures.draw_grid(columns))
        run_pictures.write_curves(self.run.artifacts / 'curves.png', self.run.history())

    def _print_summary(
        self, epoch: int, task: Task, row: dict[str, float], scores: Scores
    ) -> None:
        by_class = ' '.join(f'{name} {100 * iou:.0f}' for name, iou in scores.class_iou().items())
        best = ' (best)' if self.best_epoch == epoch else ''
        panoptic = f'PQ {100 * row["PQ"]:.2f}, ' if 'PQ' in row else ''
        tqdm.write(
            f'epoch {epoch + 1} of {task.experiment.epochs}: {row["train_time_sec"]:.0f} s, '
            f'loss {row["train_loss"]:.3f}, val {row["val_loss"]:.3f}, '
            f'{panoptic}mIoU {100 * row["mIoU"]:.2f}{best}: {by_class}'
        )
        sys.stdout.flush()  # a file or a pipe would buffer thousands of lines


class ProgressBar(TQDMProgressBar):
    """Progress bar of the training epochs on a terminal; a bar per validation would flicker."""

    def init_train_tqdm(self) -> Any:
        # Shown by the first process, and only on a terminal.
        disable = self.is_disabled or None
        return tqdm(dynamic_ncols=True, unit='step', file=sys.stdout, leave=False, disable=disable)

    def init_validation_tqdm(self) -> Any:
        return tqdm(disable=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.train_progress_bar.reset(trainer.num_training_batches)
        self.train_progress_bar.initial = 0
        self.train_progress_bar.set_description(
            f'epoch {trainer.current_epoch + 1} of {trainer.max_epochs}'
        )

    def get_metrics(self, _: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        newest = cast('Task', pl_module).losses[-20:]
        return {'loss': f'{float(torch.stack(newest).mean()):.3f}'} if newest else {}


class StateIO(TorchCheckpointIO):
    """Replaces the state atomically.

    Lightning writes a file in the folder for temporary files and moves it. From another file
    system this is a copy, which a kill or a full disk cuts short.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with write_guard(Path(path)), replacing(Path(path)) as aside:
            super().save_checkpoint(checkpoint, aside, storage_options)


class SharedFolder(pl.Callback):
    """Checks that all machines resume the run from the same epoch.

    Otherwise, a machine that does not see the folder of the run would start from random weights.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        self._folder, self._epochs = folder, epochs

    def setup(self, trainer: pl.Trainer, *_: Any, **__: Any) -> None:
        device = trainer.strategy.root_device
        fewest, most = (
            int(trainer.strategy.reduce(torch.tensor(self._epochs, device=device), reduce_op=op))
            for op in ('min', 'max')
        )
        if fewest != most:  # on all machines, so that none of them waits for another
            raise SegmentationError(
                f'{self._folder} is not the same folder on all machines: it has {fewest} to '
                f'{most} complete epochs; use a folder on a file system that they share'
            )


class SignalHandling(pl.Callback):
    """Makes SIGTERM end a run like Ctrl-C; one process of each machine then ends the others.

    Lightning would notify the others by a broadcast, which they may not be able to receive.
    """

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set signal handlers
        if trainer.local_rank == 0:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        else:  # Ctrl-C reaches all processes of the machine
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def score_name(experiment: Experiment) -> str:
    """Return the name of the score that determines the best epoch."""
    return 'PQ' if experiment.has_instances else 'mIoU'


def state_file(folder: Path) -> Path:
    """Return the file with the training state from which a run resumes."""
    return folder / 'state.ckpt'


def write_checkpoint(folder: Path, task: Task, spec: Spec) -> None:
    """Replace a checkpoint folder."""
    with write_guard(folder), replacing_folder(folder) as aside:
        save_checkpoint(aside, task.network, spec, model_card(spec))
        own_scheme = Path(task.experiment.label_scheme)
        if own_scheme.suffix in ('.yaml', '.yml'):
            shutil.copyfile(own_scheme, aside / own_scheme.name)


def update_curve(folder: Path, run: Run) -> None:
    """Bring the curve in the provenance of a checkpoint folder up to the newest epoch."""
    restore_folder(folder)
    path = folder / SPEC_FILE
    spec = Spec.read(path)
    provenance_now = spec.provenance | {'curve': provenance.curve(run)}
    with write_guard(path), replacing(path) as aside:
        replace(spec, provenance=provenance_now).write(aside)


def reset_peak_memory() -> None:
    """Reset the peak that `peak_memory_mb` reports, which earlier runs in this process raise.

    Only Linux supports this; on other systems the peak counts from the start of the process.
    """
    with suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5', encoding='ascii')
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory of this run in MiB: of the GPU if used, else of the process."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


@contextmanager
def write_guard(path: Path) -> Iterator[None]:
    """Turn write errors into an error that names `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise SegmentationError(
            f'{path} cannot be written: {one_line(error)}; free disk space there and repeat the '
            f'command, which resumes after the last complete epoch'
        ) from error
