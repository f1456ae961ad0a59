# SPDX-License-Identifier: Apache-2.0
"""What training left: figures by epoch and by class, of the served models or from MLflow.

MLflow is asked over HTTP, so that the page needs none of its libraries. An embedded store is
opened with `mlflow server --backend-store-uri sqlite:///runs/mlflow.db`.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import httpx

from segmentation_node.errors import SegmentationError
from segmentation_node.web.page.charts import Curve
from segmentation_node.web.page.mlflow_access import kind_of, mlflow_client

URI_VARIABLE: Final = 'MLFLOW_TRACKING_URI'
MAX_RUNS: Final = 20
#: Figures that come with every epoch and are shown as curves, as training names them.
CURVES: Final = ('mIoU', 'val_loss', 'train_loss')
#: Figures of the best epoch, with what the page calls them.
SCORES: Final = MappingProxyType({'mIoU': 'miou', 'Dice': 'dice', 'pixel_acc': 'pixel_accuracy'})
#: What the name of a class's figure begins with.
CLASS_IOU: Final = 'IoU/'
TIMEOUT_S: Final = 10.0


class RunsError(SegmentationError):
    """MLflow cannot be read; `kind` is the key of the text that says why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Run:
    """One training run: `curves` by metric and epoch from 1, `class_iou` from 0 to 1."""

    name: str
    curves: Mapping[str, Curve] = field(default_factory=dict)
    class_iou: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


def runs_of_models(models: list[dict[str, Any]]) -> list[Run]:
    """The runs that the served models come from, with the scores on their first set."""
    found = []
    for model in models:
        scores: dict[str, Any] = next(iter(model['scores'].values()), {})
        curves = {
            metric: {int(row['epoch']) + 1: row[metric] for row in model['curve'] if metric in row}
            for metric in CURVES
        }
        plain = {k: v for k, v in scores.items() if not isinstance(v, dict)}
        found.append(Run(model['name'], curves, scores.get('class_iou', {}), plain))
    return [run for run in found if run.scores or any(run.curves.values())]


def mlflow_uri() -> str | None:
    """Address of the MLflow server where one is named; an embedded store has none."""
    uri = os.environ.get(URI_VARIABLE, '')
    return uri.rstrip('/') if uri.startswith(('http://', 'https://')) else None


def runs_of_mlflow(uri: str) -> list[Run]:
    """The newest finished runs of all experiments; raises RunsError."""
    try:
        with mlflow_client(f'{uri}/api/2.0/mlflow', TIMEOUT_S) as client:
            experiments = _post(client, 'experiments/search', {'max_results': 100})
            ids = [e['experiment_id'] for e in experiments.get('experiments', [])]
            runs = _post(
                client, 'runs/search',
                {'experiment_ids': ids, 'filter': "attributes.status = 'FINISHED'",
                 'max_results': MAX_RUNS, 'order_by': ['attributes.start_time DESC']},
            ).get('runs', [])  # fmt: skip
            return [_run(client, run) for run in runs]
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError) as error:
        raise RunsError(
            kind_of(error), f'MLflow cannot be read ({type(error).__name__})'
        ) from error


def _run(client: httpx.Client, run: dict[str, Any]) -> Run:
    info, names = run['info'], [m['key'] for m in run['data'].get('metrics', [])]
    histories = {
        name: _history(client, info['run_id'], name)
        for name in names
        if name in CURVES or name in SCORES or name.startswith(CLASS_IOU)
    }
    curves = {metric: histories.get(metric, {}) for metric in CURVES}
    # The epoch whose weights were kept; MLflow's own summary is of the last. Epoch 0 is none.
    best = max(curves['mIoU'], key=lambda epoch: curves['mIoU'][epoch], default=0)
    at_best = {name: curve[best] for name, curve in histories.items() if best in curve}
    class_iou = {
        name.removeprefix(CLASS_IOU): value
        for name, value in at_best.items()
        if name.startswith(CLASS_IOU)
    }
    scores = {ours: at_best[theirs] for theirs, ours in SCORES.items() if theirs in at_best}
    return Run(info.get('run_name') or info['run_id'][:8], curves, class_iou, scores)


def _history(client: httpx.Client, run_id: str, metric: str) -> Curve:
    asked = {'run_id': run_id, 'metric_key': metric, 'max_results': '1000'}
    answer = client.get('/metrics/get-history', params=asked).raise_for_status().json()
    return {
        int(m.get('step', 0)) + 1: float(m['value'])
        for m in answer.get('metrics', [])
        if math.isfinite(float(m['value']))
    }


def _post(client: httpx.Client, path: str, content: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = client.post(f'/{path}', json=content).raise_for_status().json()
    return answer
