# SPDX-License-Identifier: Apache-2.0
"""Tracked runs as plain values: settings, curves, files."""

import json
import math
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmentation_node.checkpoint import SPEC_FILE
from segmentation_node.errors import SchemeError
from segmentation_node.labels import LabelScheme, load_scheme
from segmentation_node.plotting import Curve
from training import tracking
from training.frame_counts import FRAME_COUNTS_FILE
from training.report.samples import ResampledScores, read_samples
from training.report.selection import reading

#: Metrics that determine a run's best epoch, as in training: the first one that it has.
SCORES: Final = ('PQ', 'mIoU')


class Artifacts(ABC):
    """Files of one run."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted paths of the files and folders in a folder; empty if it is missing."""

    @abstractmethod
    def read(self, path: str) -> bytes | None:
        """Return the content of a file; None if it is missing or cannot be read."""

    def read_json(self, path: str) -> Any:
        """Return the content of a JSON file; raises ValueError if it is invalid."""
        data = self.read(path)
        return None if data is None else json.loads(data)


class TrackedArtifacts(Artifacts):
    """Files of one run in MLflow."""

    def __init__(self, store: MlflowClient, run_id: str) -> None:
        self._store, self._run_id = store, run_id

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(f.path for f in self._store.list_artifacts(self._run_id, folder or None))
        except (MlflowException, OSError):
            return []

    def read(self, path: str) -> bytes | None:
        folder, _, _ = path.rpartition('/')
        if path not in self.names(folder):
            return None
        # By default, the library shows a progress bar for every file.
        os.environ.setdefault('MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR', 'false')
        with tempfile.TemporaryDirectory() as aside:
            try:
                return Path(self._store.download_artifacts(self._run_id, path, aside)).read_bytes()
            except (MlflowException, OSError):
                return None


class FolderArtifacts(Artifacts):
    """Files of one run in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self, folder: str) -> list[str]:
        paths = (self._folder / folder).glob('*')
        return sorted(path.relative_to(self._folder).as_posix() for path in paths)

    def read(self, path: str) -> bytes | None:
        try:
            return (self._folder / path).read_bytes()
        except OSError:
            return None


@dataclass(frozen=True)
class Record:
    """One run; its letter replaces its name where space is short.

    `curves` are by metric, then by epoch counted from 1. `params` are the fields of the
    experiment, with nested fields as `train.0.set`.
    """

    letter: str
    name: str
    id: str
    study: str
    status: str
    started: datetime
    params: Mapping[str, str]
    tags: Mapping[str, str]
    curves: Mapping[str, Curve]
    artifacts: Artifacts

    @property
    def title(self) -> str:
        """Letter and name, for running text; the name alone if it is the letter."""
        return self.name if self.letter == self.name else f'{self.letter} ({self.name})'

    @cached_property
    def epochs(self) -> int:
        """Number of epochs that were run."""
        return max((epoch for curve in self.curves.values() for epoch in curve), default=0)

    @cached_property
    def best_epoch(self) -> int | None:
        """First epoch with the highest score; None if it was never measured."""
        curve = next((self.curves[name] for name in SCORES if name in self.curves), {})
        return max(curve, key=lambda epoch: (curve[epoch], -epoch), default=None)

    def at_best(self, metric: str) -> float | None:
        """Return a figure at the best epoch, or at the last if there is no best epoch."""
        curve = self.curves.get(metric, {})
        epoch = self.best_epoch if self.best_epoch is not None else max(curve, default=0)
        return curve.get(epoch)

    def median(self, metric: str) -> float | None:
        """Return the median of a figure over the epochs."""
        values = self.curves.get(metric, {}).values()
        return median(values) if values else None

    def greatest(self, metric: str) -> float | None:
        """Return the largest value of a figure over the epochs."""
        return max(self.curves.get(metric, {}).values(), default=None)

    def total(self, metric: str) -> float | None:
        """Return the sum of a figure over all epochs; missing values count as the mean."""
        values = self.curves.get(metric, {}).values()
        return fmean(values) * self.epochs if values else None

    def param(self, key: str, default: str = '') -> str:
        """Return a field of the experiment as text."""
        return self.params.get(key, default)

    def number(self, key: str, default: float) -> float:
        """Return a field of the experiment as a number; the default if it is not a number."""
        try:
            return float(self.params[key])
        except (KeyError, ValueError):
            return default

    @property
    def encoder(self) -> str:
        """Name of the network's encoder; empty if unknown."""
        kinds = ('encoder_name', 'backbone_config.backbone', 'backbone_config.model_type')
        return next(filter(None, (self.param(f'network.{kind}') for kind in kinds)), '')

    def inner(self, key: str) -> dict[str, str]:
        """Return the nested fields of a field, by the rest of their names."""
        prefix = f'{key}.'
        return {
            name.removeprefix(prefix): value
            for name, value in sorted(self.params.items())
            if name.startswith(prefix)
        }

    @cached_property
    def scheme(self) -> LabelScheme | None:
        """Label scheme of the run; None if it is not installed."""
        try:
            return load_scheme(self.params['label_scheme'])
        except (KeyError, SchemeError):
            return None

    @cached_property
    def samples(self) -> ResampledScores:
        """Resampled scores, from which confidence intervals are computed."""
        return read_samples(self.artifacts.read(FRAME_COUNTS_FILE), self.at_best('mIoU'))

    @cached_property
    def parameters(self) -> float | None:
        """Number of weights of the network, from the run or its checkpoint; None if unknown."""
        known = {**self._provenance, **self.tags, **self.params}
        try:
            return float(known['parameters'])
        except (KeyError, ValueError, TypeError):
            return None

    @cached_property
    def _provenance(self) -> Mapping[str, Any]:
        data = self.artifacts.read(f'checkpoint/{SPEC_FILE}')
        try:
            content = yaml.safe_load(data or b'')
            provenance = content['provenance']
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            return {}
        return provenance if isinstance(provenance, dict) else {}


def read_records(store: MlflowClient, runs: Sequence[Run]) -> list[Record]:
    """Fetch settings and curves of the runs; raises TrackingError."""
    with reading():
        studies = {
            i: store.get_experiment(i).name for i in {run.info.experiment_id for run in runs}
        }
        return [
            Record(
                letter=_letter(index),
                name=run.info.run_name or run.info.run_id[:8],
                id=run.info.run_id,
                study=studies[run.info.experiment_id],
                status=run.info.status,
                started=datetime.fromtimestamp(run.info.start_time / 1000, tz=timezone.utc),
                params=dict(run.data.params),
                tags={k: v for k, v in run.data.tags.items() if not k.startswith('mlflow.')},
                curves={name: _curve(store, run, name) for name in sorted(run.data.metrics)},
                artifacts=TrackedArtifacts(store, run.info.run_id),
            )
            for index, run in enumerate(runs)
        ]


def read_folder(folder: Path) -> Record:
    """Read a run from its folder."""
    run = tracking.Run(folder)
    known, history = run.description(), run.history()
    curves: dict[str, dict[int, float]] = {}
    for row in history:
        for name in row.keys() - {'epoch', 'time_ms'}:
            curves.setdefault(name, {})[row['epoch'] + 1] = row[name]
    return Record(
        letter=folder.name,
        name=folder.name,
        id=run.id,
        study=known['study'],
        status=run.status,
        started=datetime.fromtimestamp(history[0]['time_ms'] / 1000, tz=timezone.utc),
        params=known['params'],
        tags=known['tags'],
        curves=curves,
        artifacts=FolderArtifacts(run.artifacts),
    )


def _letter(index: int) -> str:
    """Return A to Z for the indices 0 to 25, then AA, AB and so on."""
    tens, ones = divmod(index, 26)
    return (_letter(tens - 1) if tens else '') + chr(ord('A') + ones)


def _curve(store: MlflowClient, run: Run, metric: str) -> Curve:
    """Return the values by epoch from 1; of a repeated epoch, the newest value."""
    history = sorted(
        store.get_metric_history(run.info.run_id, metric), key=lambda m: (m.step, m.timestamp)
    )
    return {m.step + 1: m.value for m in history if math.isfinite(m.value)}


def class_names(records: Sequence[Record], metric: str) -> list[str]:
    """Return the classes with a metric `metric/CLASS`, in the order of the label schemes."""
    names = {
        name.removeprefix(f'{metric}/')
        for record in records
        for name in record.curves
        if name.startswith(f'{metric}/')
    }
    return [name for name in dict.fromkeys(_in_order(records, names)) if name in names]


def _in_order(records: Sequence[Record], names: set[str]) -> Iterator[str]:
    for record in records:
        if record.scheme is not None:
            yield from (c.name for c in record.scheme.classes)
    yield from sorted(names)
