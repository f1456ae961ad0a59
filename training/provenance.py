# SPDX-License-Identifier: Apache-2.0
"""Provenance of a run: parameters, versions, data, machine, figures."""

import json
import logging
import subprocess
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch
from transformers.utils import logging as transformers_logging

from segmentation_node.metrics import Scores
from segmentation_node.runtimes.machine import cpu_identity
from training.batches import Data
from training.config import Experiment
from training.losses import Objective
from training.panoptic_quality import PanopticCounts
from training.task import Task
from training.tracking import Run

#: Figures of every epoch that a checkpoint carries.
CURVE: Final = (
    'train_loss', 'val_loss', 'mIoU', 'Dice', 'pixel_acc', 'imgs_per_sec', 'train_time_sec',
)  # fmt: skip
PACKAGES: Final = ('torch', 'lightning', 'transformers', 'segmentation-models-pytorch', 'timm')


def params(experiment: Experiment) -> dict[str, object]:
    """Return all fields of an experiment, nested ones by dotted names."""
    return dict(_flat('', experiment.model_dump(mode='json')))


def _flat(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        pairs: Any = value.items()
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        pairs = enumerate(value)
    else:
        yield prefix, value
        return
    for key, inner in pairs:
        yield from _flat(f'{prefix}.{key}' if prefix else str(key), inner)


def tags(data: Data, objective: Objective) -> dict[str, str]:
    """Return the tags of a run: versions, machine, loss kind, and fingerprints of the data."""
    return {
        'git_revision': revision(),
        'machine': machine(),
        'loss_kind': objective.kind,
        'train_fingerprint': ' '.join(images.fingerprint[:12] for images in data.train),
        'val_fingerprint': ' '.join(images.fingerprint[:12] for images in data.val.values()),
    } | {f'version.{package}': version(package) for package in PACKAGES}


def machine() -> str:
    """Describe the machine, for the figures of speed: GPU name, or CPU threads and model."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'{torch.get_num_threads()} threads, {cpu_identity()["cpu"]}'


def describe(
    task: Task,
    data: Data,
    by_set: Mapping[str, Scores],
    segments: Mapping[str, PanopticCounts],
    run: Run,
) -> dict[str, Any]:
    """Return the provenance of a checkpoint as plain values.

    It contains recipe, data, figures, curve and versions. Figures are not rounded. `segments` is
    empty for a task without instances.
    """
    experiment = task.experiment
    return {
        'parameters': sum(p.numel() for p in task.network.parameters()),
        'epoch': task.current_epoch + 1,
        'steps': task.global_step,
        'recipe': experiment.model_dump(mode='json'),
        'data': [
            {'name': f'{use.set} {use.split}', 'source': images.source, 'images': len(images),
             'fingerprint': images.fingerprint}
            for use, images in zip(experiment.train, data.train, strict=True)
        ],
        'metrics': {
            name: {
                'miou': s.miou(),
                'miou_with_void': s.miou_with_void(),
                'dice': s.mean_dice(),
                'pixel_accuracy': s.pixel_accuracy(),
                'class_iou': s.class_iou(),
            } | (_panoptic(segments[name]) if name in segments else {})
            for name, s in by_set.items()
        },
        'loss_kind': task.objective.kind,
        'curve': curve(run),
        'machine': machine(),
        'versions': {package: version(package) for package in PACKAGES},
        'revision': revision(),
        'mlflow_run': run.id,
    }  # fmt: skip


def _panoptic(segments: PanopticCounts) -> dict[str, Any]:
    class_pq = {name: quality.pq for name, quality in segments.by_class().items()}
    return {'panoptic': segments.figures(), 'class_pq': class_pq}


def curve(run: Run) -> list[dict[str, float]]:
    """Return the figures of CURVE of all evaluated epochs, counted from 1."""
    return [
        {'epoch': row['epoch'] + 1} | {k: row[k] for k in CURVE if k in row}
        for row in run.history()
    ]


def write_confusion(path: Path, scores: Scores) -> None:
    """Write the confusion matrix of the learned classes as JSON; rows are the truth."""
    classes = scores.scheme.learned
    ids = [c.id for c in classes]
    content = {
        'classes': [c.name for c in classes],
        'counts': scores.counts[ids][:, ids].tolist(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding='utf-8')


def revision() -> str:
    """Return the repository's commit, with '+changes' if modified; 'unknown' outside of one."""
    commit = _git('rev-parse', 'HEAD')
    if commit is None:
        return 'unknown'
    return commit + ('+changes' if _git('status', '--porcelain', '-uno') else '')


def _git(*arguments: str) -> str | None:
    command = ['git', '-C', str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:  # no git on this machine
        return None
    return None if done.returncode else done.stdout.strip()


def quiet_libraries() -> None:
    """Suppress library messages that are not meant for users."""
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        'The .* does not have many workers',
        'The number of training batches',
        'Checkpoint directory',
        r'.*isinstance\(treespec, LeafSpec\)',
    ):
        warnings.filterwarnings('ignore', text)
