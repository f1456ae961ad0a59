# SPDX-License-Identifier: Apache-2.0
"""Metrics of training runs by epoch and class, from the served models or from MLflow.

MLflow is read over HTTP, so that the page does not depend on its libraries. To read an embedded
store, run `mlflow server --backend-store-uri sqlite:///runs/mlflow.db`.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import httpx

from segmentation_node.errors import SegmentationError
from segmentation_node.plotting import Curve
from segmentation_node.web.loss_names import loss_name
from segmentation_node.web.page.mlflow_access import error_text, mlflow_client

URI_VARIABLE: Final = 'MLFLOW_TRACKING_URI'
#: Maximum number of runs read from MLflow, the newest first.
MAX_RUNS: Final = 500
#: Maximum number of runs shown together; a chart has no more distinguishable colors.
MAX_SHOWN: Final = 6
#: Metrics that can be compared only between runs with the same loss function.
LOSSES: Final = ('val_loss', 'train_loss')
#: Metrics of every epoch, shown as curves, by their names in training.
CURVES: Final = ('mIoU', 'Dice', 'pixel_acc', *LOSSES, 'imgs_per_sec', 'train_time_sec')
#: Metrics of the best epoch, with their names on the page.
SCORES: Final = MappingProxyType({'mIoU': 'miou', 'Dice': 'dice', 'pixel_acc': 'pixel_accuracy'})
#: Prefix of the metrics of a class.
CLASS_IOU: Final = 'IoU/'
#: Tag of a nested run: a trial of a search.
PARENT_TAG: Final = 'mlflow.parentRunId'
TIMEOUT_S: Final = 10.0
_TEXTS: Final = ('params', 'tags')


class RunsError(SegmentationError):
    """Raised if MLflow cannot be read; `kind` is the key of the text that explains why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class TrainingRun:
    """One training run.

    Attributes:
        name: name of the run or of the model.
        id: run id in MLflow.
        label_scheme: label scheme; empty if unknown.
        data: validation data of the scores; empty if unknown.
        loss: loss function; empty if unknown.
        trial: whether the run is a trial of a search.
        metrics: names of its metrics in MLflow.
        curves: values by metric and epoch, from epoch 1.
        class_iou: IoU by class at the best epoch, 0 to 1.
        scores: scores by the values of SCORES at the best epoch, 0 to 1.
    """

    name: str
    id: str = ''
    label_scheme: str = ''
    data: str = ''
    loss: str = ''
    trial: bool = False
    metrics: tuple[str, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    class_iou: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def group(self) -> tuple[str, str]:
        """Label scheme and data; only scores of runs with the same group can be compared."""
        return self.label_scheme, self.data


def runs_of_models(models: list[dict[str, Any]]) -> list[TrainingRun]:
    """Return the training runs of the served models, with scores on their first data set."""
    runs = []
    for model in models:
        data = next(iter(model['scores']), '')
        scores: dict[str, Any] = model['scores'].get(data, {})
        curves = {
            metric: {int(row['epoch']): row[metric] for row in model['curve'] if metric in row}
            for metric in CURVES
        }
        runs.append(
            TrainingRun(
                model['name'],
                label_scheme=model['label_scheme'] or '',
                data=data,
                loss=model['loss'],
                curves=curves,
                class_iou=scores.get('class_iou', {}),
                scores={k: v for k, v in scores.items() if not isinstance(v, dict)},
            )
        )
    return [run for run in runs if run.scores or any(run.curves.values())]


def with_unique_names(runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return the runs with unique names: duplicates get the beginning of their id."""
    count = Counter(run.name for run in runs)
    return [
        replace(run, name=f'{run.name} ({run.id[:8]})') if count[run.name] > 1 else run
        for run in runs
    ]


def filter_by_name(runs: Sequence[TrainingRun], text: str) -> list[TrainingRun]:
    """Return the runs whose name contains a comma-separated part of `text`; all if it is empty."""
    parts = [part.strip().lower() for part in text.split(',') if part.strip()]
    return [run for run in runs if not parts or any(part in run.name.lower() for part in parts)]


def by_loss(runs: Sequence[TrainingRun]) -> list[list[TrainingRun]]:
    """Return the runs grouped by loss function; each unknown one is its own group."""
    kinds: dict[str, list[TrainingRun]] = {}
    for index, run in enumerate(runs):
        kinds.setdefault(run.loss or f'unknown {index}', []).append(run)
    return list(kinds.values())


def mlflow_uri() -> str | None:
    """Return the address of the MLflow server, if one is set; an embedded store has no address."""
    uri = os.environ.get(URI_VARIABLE, '')
    return uri.rstrip('/') if uri.startswith(('http://', 'https://')) else None


def runs_of_mlflow(uri: str) -> list[TrainingRun]:
    """Return the newest finished runs of all experiments, without metrics; raises RunsError."""
    with _connection(uri) as client:
        experiments = _post(client, 'experiments/search', {'max_results': 100})
        ids = [e['experiment_id'] for e in experiments.get('experiments', [])]
        records = _post(
            client, 'runs/search',
            {'experiment_ids': ids, 'filter': "attributes.status = 'FINISHED'",
             'max_results': MAX_RUNS, 'order_by': ['attributes.start_time DESC']},
        ).get('runs', [])  # fmt: skip
        # The parent run of a search has other metrics.
        runs = [run for run in map(_run_of, records) if set(run.metrics) & set(CURVES)]
        return with_unique_names(runs)


def with_metrics(uri: str, runs: Sequence[TrainingRun]) -> list[TrainingRun]:
    """Return the runs with their curves and scores; raises RunsError."""
    with _connection(uri) as client:
        return [_with_metrics(client, run) for run in runs]


@contextmanager
def _connection(uri: str) -> Iterator[httpx.Client]:
    try:
        with mlflow_client(f'{uri}/api/2.0/mlflow', TIMEOUT_S) as client:
            yield client
    except (
        httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError,
        AttributeError,
    ) as error:  # fmt: skip
        raise RunsError(
            error_text(error), f'MLflow cannot be read ({type(error).__name__})'
        ) from error


def _run_of(run: dict[str, Any]) -> TrainingRun:
    info, data = run['info'], run['data']
    params, tags = ({p['key']: p['value'] for p in data.get(kind, [])} for kind in _TEXTS)
    metrics = {m['key']: m['value'] for m in data.get('metrics', [])}
    return TrainingRun(
        info.get('run_name') or info['run_id'][:8],
        id=info['run_id'],
        label_scheme=params.get('label_scheme', ''),
        data=_data(params, tags, metrics),
        loss=loss_name(tags.get('loss_kind'), params),
        trial=PARENT_TAG in tags,
        metrics=tuple(metrics),
    )


def _data(params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, Any]) -> str:
    """Return the name and fingerprint of the first validation set, the data of the scores."""
    names = {
        key.removeprefix('val.').rpartition('.')[0] for key in params if key.startswith('val.')
    }
    # Parameters are unordered; the first set is the one whose mIoU is that of the run.
    first = [n for n in sorted(names) if metrics.get(f'mIoU/{n}') == metrics.get('mIoU')]
    fingerprint = tags.get('val_fingerprint', '').partition(' ')[0]
    known = (first[0] if len(first) == 1 else '', f'({fingerprint})' if fingerprint else '')
    return ' '.join(filter(None, known))


def _with_metrics(client: httpx.Client, run: TrainingRun) -> TrainingRun:
    histories = {
        name: _history(client, run.id, name)
        for name in run.metrics
        if name in CURVES or name in SCORES or name.startswith(CLASS_IOU)
    }
    curves = {metric: histories.get(metric, {}) for metric in CURVES}
    # The epoch of the saved weights; MLflow's summary is of the last epoch. 0 if there is none.
    best = max(curves['mIoU'], key=lambda epoch: curves['mIoU'][epoch], default=0)
    at_best = {name: curve[best] for name, curve in histories.items() if best in curve}
    class_iou = {
        name.removeprefix(CLASS_IOU): value
        for name, value in at_best.items()
        if name.startswith(CLASS_IOU)
    }
    scores = {ours: at_best[theirs] for theirs, ours in SCORES.items() if theirs in at_best}
    return replace(run, curves=curves, class_iou=class_iou, scores=scores)


def _history(client: httpx.Client, run_id: str, metric: str) -> Curve:
    params = {'run_id': run_id, 'metric_key': metric, 'max_results': '1000'}
    response = client.get('/metrics/get-history', params=params).raise_for_status().json()
    return {
        int(m.get('step', 0)) + 1: float(m['value'])
        for m in response.get('metrics', [])
        if math.isfinite(float(m['value']))
    }


def _post(client: httpx.Client, path: str, content: dict[str, Any]) -> dict[str, Any]:
    response: dict[str, Any] = client.post(f'/{path}', json=content).raise_for_status().json()
    return response
