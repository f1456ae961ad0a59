# SPDX-License-Identifier: Apache-2.0
"""What training left: figures by epoch and by class, of the served models or from MLflow.

MLflow is asked over HTTP, so that the page needs none of its libraries. An embedded store is
opened with `mlflow server --backend-store-uri sqlite:///runs/mlflow.db`.
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
from segmentation_node.web.loss_names import loss_in_words
from segmentation_node.web.page.charts import Curve
from segmentation_node.web.page.mlflow_access import kind_of, mlflow_client

URI_VARIABLE: Final = 'MLFLOW_TRACKING_URI'
#: Runs that are read from MLflow, the newest.
MAX_RUNS: Final = 500
#: Runs that are shown side by side; a chart has no more colors that can be told apart.
MAX_SHOWN: Final = 6
#: Figures whose values depend on the kind of loss.
LOSSES: Final = ('val_loss', 'train_loss')
#: Figures that come with every epoch and are shown as curves, as training names them.
CURVES: Final = ('mIoU', 'Dice', 'pixel_acc', *LOSSES, 'imgs_per_sec', 'train_time_sec')
#: Figures of the best epoch, with what the page calls them.
SCORES: Final = MappingProxyType({'mIoU': 'miou', 'Dice': 'dice', 'pixel_acc': 'pixel_accuracy'})
#: What the name of a class's figure begins with.
CLASS_IOU: Final = 'IoU/'
#: Tag of a run inside another one: a trial of a search.
PARENT_TAG: Final = 'mlflow.parentRunId'
TIMEOUT_S: Final = 10.0
_TEXTS: Final = ('params', 'tags')


class RunsError(SegmentationError):
    """MLflow cannot be read; `kind` is the key of the text that says why."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        name: of the run, or of the model.
        id: in MLflow.
        label_scheme: classes that it learned; empty where it is not known.
        data: images that its scores are measured on; empty where it is not known.
        loss: what it minimizes; empty where it is not known.
        trial: whether it is part of a search.
        metrics: names of its figures in MLflow.
        curves: by metric, value by epoch from 1.
        class_iou: by class, 0 to 1, at the best epoch.
        scores: by the values of SCORES, 0 to 1, at the best epoch.
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
        """Classes and data: scores of runs that differ in these may not be compared."""
        return self.label_scheme, self.data


def runs_of_models(models: list[dict[str, Any]]) -> list[Run]:
    """The runs that the served models come from, with the scores on their first set."""
    found = []
    for model in models:
        data = next(iter(model['scores']), '')
        scores: dict[str, Any] = model['scores'].get(data, {})
        curves = {
            metric: {int(row['epoch']): row[metric] for row in model['curve'] if metric in row}
            for metric in CURVES
        }
        found.append(
            Run(
                model['name'],
                label_scheme=model['label_scheme'] or '',
                data=data,
                loss=model['loss'],
                curves=curves,
                class_iou=scores.get('class_iou', {}),
                scores={k: v for k, v in scores.items() if not isinstance(v, dict)},
            )
        )
    return [run for run in found if run.scores or any(run.curves.values())]


def named_apart(found: Sequence[Run]) -> list[Run]:
    """The same runs; those that share a name carry the beginning of their id as well."""
    count = Counter(run.name for run in found)
    return [
        replace(run, name=f'{run.name} ({run.id[:8]})') if count[run.name] > 1 else run
        for run in found
    ]


def matching(found: Sequence[Run], wanted: str) -> list[Run]:
    """The runs with one of several parts of names, separated by commas; all without any."""
    parts = [part.strip().lower() for part in wanted.split(',') if part.strip()]
    return [run for run in found if not parts or any(part in run.name.lower() for part in parts)]


def by_loss(found: Sequence[Run]) -> list[list[Run]]:
    """Runs whose losses may be compared, together; one whose loss is not known is alone."""
    kinds: dict[str, list[Run]] = {}
    for index, run in enumerate(found):
        kinds.setdefault(run.loss or f'unknown {index}', []).append(run)
    return list(kinds.values())


def mlflow_uri() -> str | None:
    """Address of the MLflow server where one is named; an embedded store has none."""
    uri = os.environ.get(URI_VARIABLE, '')
    return uri.rstrip('/') if uri.startswith(('http://', 'https://')) else None


def runs_of_mlflow(uri: str) -> list[Run]:
    """The newest finished runs of all experiments, without their figures; raises RunsError."""
    with _reading(uri) as client:
        experiments = _post(client, 'experiments/search', {'max_results': 100})
        ids = [e['experiment_id'] for e in experiments.get('experiments', [])]
        runs = _post(
            client, 'runs/search',
            {'experiment_ids': ids, 'filter': "attributes.status = 'FINISHED'",
             'max_results': MAX_RUNS, 'order_by': ['attributes.start_time DESC']},
        ).get('runs', [])  # fmt: skip
        # The run of a search itself has figures of other kinds.
        found = [run for run in map(_described, runs) if set(run.metrics) & set(CURVES)]
        return named_apart(found)


def with_figures(uri: str, found: Sequence[Run]) -> list[Run]:
    """Fetch curves and scores of some runs; raises RunsError."""
    with _reading(uri) as client:
        return [_with_figures(client, run) for run in found]


@contextmanager
def _reading(uri: str) -> Iterator[httpx.Client]:
    try:
        with mlflow_client(f'{uri}/api/2.0/mlflow', TIMEOUT_S) as client:
            yield client
    except (
        httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, KeyError, TypeError,
        AttributeError,
    ) as error:  # fmt: skip
        raise RunsError(
            kind_of(error), f'MLflow cannot be read ({type(error).__name__})'
        ) from error


def _described(run: dict[str, Any]) -> Run:
    info, data = run['info'], run['data']
    params, tags = ({p['key']: p['value'] for p in data.get(kind, [])} for kind in _TEXTS)
    metrics = {m['key']: m['value'] for m in data.get('metrics', [])}
    return Run(
        info.get('run_name') or info['run_id'][:8],
        id=info['run_id'],
        label_scheme=params.get('label_scheme', ''),
        data=_data(params, tags, metrics),
        loss=loss_in_words(tags.get('loss_kind'), params),
        trial=PARENT_TAG in tags,
        metrics=tuple(metrics),
    )


def _data(params: Mapping[str, str], tags: Mapping[str, str], metrics: Mapping[str, Any]) -> str:
    """Name and fingerprint of the first validation set, which the scores are measured on."""
    names = {
        key.removeprefix('val.').rpartition('.')[0] for key in params if key.startswith('val.')
    }
    # Parameters come in any order; the first set is the one that has the run's score.
    first = [n for n in sorted(names) if metrics.get(f'mIoU/{n}') == metrics.get('mIoU')]
    fingerprint = tags.get('val_fingerprint', '').partition(' ')[0]
    known = (first[0] if len(first) == 1 else '', f'({fingerprint})' if fingerprint else '')
    return ' '.join(filter(None, known))


def _with_figures(client: httpx.Client, run: Run) -> Run:
    histories = {
        name: _history(client, run.id, name)
        for name in run.metrics
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
    return replace(run, curves=curves, class_iou=class_iou, scores=scores)


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
