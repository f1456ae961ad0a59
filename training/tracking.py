# SPDX-License-Identifier: Apache-2.0
"""A run's figures and files: kept in its own folder first, mirrored to MLflow after.

    python -m training.tracking runs/deeplabv3plus

sends what a run could not deliver, for instance because the server was down; all of it, where the
store has never heard of the run. Without the variable MLFLOW_TRACKING_URI everything goes to an
embedded store, `runs/mlflow.db`; look at it with
`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`.
"""

import argparse
import fcntl
import json
import logging
import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# A server that is down is told within seconds; the library's own patience is minutes.
os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '2')
os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '10')

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from segmentation_node.errors import SegmentationError, one_line

RUNS: Final = Path('runs')
#: What MLflow takes as the value of a parameter, at most.
PARAM_LENGTH: Final = 6000
#: How many parameters MLflow takes at a time, at most.
PARAMS_AT_A_TIME: Final = 100
#: MLflow's tag for a run inside another one, as a trial lies inside its search.
PARENT_TAG: Final = 'mlflow.parentRunId'
#: The tag that the run of a search has, and no other.
SEARCH_TAG: Final = 'search.trials'
#: How MLflow calls it where a server does not know its user, or permits too little.
_REFUSALS: Final = ('UNAUTHENTICATED', 'PERMISSION_DENIED')
#: Names of the figures that come with every epoch; IoU and Dice follow by class, "IoU/road".
METRICS: Final = (
    'train_loss', 'val_loss', 'pixel_acc', 'mIoU', 'Dice', 'imgs_per_sec', 'train_imgs_per_sec',
    'train_time_sec', 'data_wait_share', 'learning_rate', 'peak_memory_mb',
)  # fmt: skip


class TrackingError(SegmentationError):
    """MLflow cannot be reached or refuses what it is given."""


def tracking_uri() -> str:
    """Where runs are tracked: MLFLOW_TRACKING_URI, or the embedded store."""
    return os.environ.get('MLFLOW_TRACKING_URI') or f'sqlite:///{RUNS.resolve()}/mlflow.db'


def shown_uri() -> str:
    """The same to be read by others, without a password."""
    return without_password(tracking_uri())


def without_password(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return re.sub(r'//[^/@\s]*@', '//', text)


def client() -> MlflowClient:
    """A client of the store; raises TrackingError where it cannot be reached."""
    uri = tracking_uri()
    with _named(uri), _one_at_a_time(uri):
        found = MlflowClient(tracking_uri=uri)
        found.search_experiments(max_results=1)
    return found


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Keep others from an embedded store meanwhile: whoever comes first makes its tables."""
    if not uri.startswith('sqlite:'):
        yield
        return
    # Making the tables is told line by line otherwise.
    for name in ('alembic', 'mlflow.store.db.utils', 'mlflow.tracking'):
        logging.getLogger(name).setLevel(logging.WARNING)
    RUNS.mkdir(exist_ok=True)
    with (RUNS / 'mlflow.lock').open('w') as lock:  # closing it lets go
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def experiment_id(store: MlflowClient, study: str) -> str:
    """The id of an MLflow experiment, which is made where there is none."""
    with _named(tracking_uri()):
        found = store.get_experiment_by_name(study)
        if found is not None:
            return str(found.experiment_id)
        local = tracking_uri().startswith('sqlite:')
        place = (RUNS / 'mlflow_artifacts').resolve().as_uri() if local else None
        try:
            return str(store.create_experiment(study, artifact_location=place))
        except MlflowException as error:
            if error.error_code != 'RESOURCE_ALREADY_EXISTS':
                raise
        return experiment_id(store, study)  # another process was first


@contextmanager
def _named(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        local = uri.startswith('sqlite:')
        remedy = (
            'make room there, or move the file away if it is damaged'
            if local
            else f'start the server, or unset MLFLOW_TRACKING_URI to track in {RUNS}/mlflow.db'
        )
        if isinstance(error, MlflowException) and error.error_code in _REFUSALS:
            remedy = (
                'set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or '
                'MLFLOW_TRACKING_TOKEN, to those of a user who may do this'
            )
        raise TrackingError(
            f'MLflow at {shown_uri()} cannot be used '
            f'({without_password(one_line(error))}); {remedy}'
        ) from error


class Run:
    """One run: `metrics.jsonl`, `artifacts/` and `run.json` in a folder, mirrored to MLflow.

    `sync` sends all that has not arrived yet, so a server that is away for a while costs nothing;
    `run.json` knows what the run is and what has arrived. An interrupted run goes on under its
    MLflow run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.artifacts = folder / 'artifacts'
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self._state_file = folder / 'run.json'
        self._state: dict[str, Any] = {'run_id': '', 'metrics': 0, 'files': {}, 'status': ''}
        self._state |= {'study': '', 'name': '', 'params': {}, 'tags': {}}
        if self._state_file.is_file():
            self._state |= _read_state(self._state_file)

    @property
    def id(self) -> str:
        """MLflow's id of the run, empty before `start`."""
        return str(self._state['run_id'])

    @property
    def status(self) -> str:
        """How the run ended, in MLflow's words; empty while it has not."""
        return str(self._state['status'])

    def description(self) -> dict[str, Any]:
        """What the run is and how it ended, without what a certain store has of it."""
        kept = ('study', 'name', 'params', 'tags', 'status')
        return {key: self._state[key] for key in kept}

    def start(
        self, study: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """Make the MLflow run, or take up the one there is; raises TrackingError."""
        self._state |= {
            'study': study, 'name': name, 'tags': dict(tags), 'status': '',
            'params': {k: str(v) for k, v in params.items()},
        }  # fmt: skip
        store = client()
        with _named(tracking_uri()):
            self._begin(store)
            store.update_run(self.id, status='RUNNING')
        self._save()

    def _begin(self, store: MlflowClient) -> None:
        """Have a run in the store, with its parameters and the newest tags."""
        known = self._state
        if not self.id or not _knows(store, self.id):
            made = store.create_run(experiment_id(store, known['study']), run_name=known['name'])
            rows = [Param(_name(k), v[:PARAM_LENGTH]) for k, v in known['params'].items()]
            for first in range(0, len(rows), PARAMS_AT_A_TIME):
                part = rows[first : first + PARAMS_AT_A_TIME]
                store.log_batch(made.info.run_id, params=part)
            self._state |= {'run_id': made.info.run_id, 'metrics': 0, 'files': {}}
        store.log_batch(self.id, tags=[RunTag(_name(k), v) for k, v in known['tags'].items()])

    def keep(self, epochs: int) -> None:
        """Forget figures of epochs from `epochs` on; they will be run again."""
        lines = [json.dumps(row) for row in self.history() if row['epoch'] < epochs]
        _replace(self._metrics_file, ''.join(f'{line}\n' for line in lines))
        self._state['metrics'] = min(self._state['metrics'], len(lines))

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Keep the figures of an epoch, counted from 0; those that are not a number are left out.

        Written before anything is sent, so that no server can lose them.
        """
        finite = {k: float(v) for k, v in figures.items() if math.isfinite(v)}
        row = {'epoch': epoch, 'time_ms': int(time.time() * 1000), **finite}
        with self._metrics_file.open('a', encoding='utf-8') as stream:
            stream.write(json.dumps(row) + '\n')

    def history(self) -> list[dict[str, Any]]:
        """The figures of all epochs so far, one mapping each."""
        if not self._metrics_file.is_file():
            return []
        lines = self._metrics_file.read_text(encoding='utf-8').splitlines(keepends=True)
        # Of a line that a kill or a full disk has cut short, nothing is known.
        return [json.loads(line) for line in lines if line.endswith('\n')]

    def sync(self) -> None:
        """Send figures and files that have not arrived; raises TrackingError."""
        store = client()
        try:
            with _named(tracking_uri()):
                self._begin(store)
                self._send_figures(store)
                self._send_files(store)
                if self._state['status']:
                    store.set_terminated(self.id, self._state['status'])
        finally:
            self._save()

    def finish(self, status: str) -> None:
        """Send the rest and close the MLflow run as FINISHED, FAILED or KILLED.

        Where that fails, the next `sync` closes it.
        """
        self._state['status'] = status
        self._save()
        self.sync()

    def _send_figures(self, store: MlflowClient) -> None:
        for row in self.history()[self._state['metrics'] :]:
            metrics = [
                Metric(_name(key), value, row['time_ms'], row['epoch'])
                for key, value in row.items()
                if key not in ('epoch', 'time_ms')
            ]
            store.log_batch(self.id, metrics=metrics)
            self._state['metrics'] += 1

    def _send_files(self, store: MlflowClient) -> None:
        for path in sorted(p for p in self.artifacts.rglob('*') if p.is_file()):
            place = path.relative_to(self.artifacts)
            stamp = [path.stat().st_mtime_ns, path.stat().st_size]
            if self._state['files'].get(str(place)) != stamp:
                parent = '' if place.parent == Path() else place.parent.as_posix()
                store.log_artifact(self.id, str(path), parent or None)
                self._state['files'][str(place)] = stamp

    @property
    def _metrics_file(self) -> Path:
        return self.folder / 'metrics.jsonl'

    def _save(self) -> None:
        _replace(self._state_file, json.dumps(self._state))


def _read_state(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
        raise TrackingError(
            f'{path} is damaged ({one_line(error)}); remove it, and the run is sent to MLflow anew'
        ) from error


def _replace(path: Path, text: str) -> None:
    """Replace a file whole or not at all."""
    aside = path.with_suffix('.new')
    try:
        aside.write_text(text, encoding='utf-8')
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _name(name: str) -> str:
    """A name without the characters that MLflow takes none of."""
    return re.sub(r'[^\w .:/-]', '_', name)


def _knows(store: MlflowClient, run_id: str) -> bool:
    """Whether a store has a run: the one that it was begun in may be gone, or another."""
    try:
        store.get_run(run_id)
    except MlflowException as error:
        if error.error_code == 'RESOURCE_DOES_NOT_EXIST':
            return False
        raise
    return True


def main(argv: list[str] | None = None) -> int:
    """Command line: send what has not arrived."""
    parser = argparse.ArgumentParser(description='Send what a run could not deliver to MLflow.')
    parser.add_argument('folder', type=Path, help='folder of the run')
    folder = parser.parse_args(argv).folder
    try:
        if not (folder / 'run.json').is_file():
            raise TrackingError(f'{folder} is no folder of a run; it has no run.json')
        Run(folder).sync()
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
