# SPDX-License-Identifier: Apache-2.0
"""Figures and files of a run, written to its folder first and then copied to MLflow.

    python -m training.tracking runs/deeplabv3plus

The command sends everything that a run could not deliver, for instance because the server was
down, and the whole run to a store that does not have it. The store is the one in
MLFLOW_TRACKING_URI, by default the embedded store `runs/mlflow.db`. To view it, run
`mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`.

Lightning's MLFlowLogger is not used: a store that is down would end the training, metrics sent
later would have the wrong time, and long parameters would be cut at 250 characters.
"""

import argparse
import fcntl
import json
import logging
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# By default, the library retries for minutes before it reports that a server is down.
os.environ.setdefault('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '2')
os.environ.setdefault('MLFLOW_HTTP_REQUEST_TIMEOUT', '10')

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from segmentation_node.atomic import replacing
from segmentation_node.errors import SegmentationError, one_line

RUNS: Final = Path('runs')
#: MLflow's tag for the parent of a run; the trials of a search have it.
PARENT_TAG: Final = 'mlflow.parentRunId'
#: Tag that only the run of a search has.
SEARCH_TAG: Final = 'search.trials'
#: MLflow's error codes for missing or insufficient credentials.
_REFUSALS: Final = ('UNAUTHENTICATED', 'PERMISSION_DENIED')
#: Figures of every epoch; IoU and Dice are also logged by class, as "IoU/road".
METRICS: Final = (
    'train_loss', 'val_loss', 'pixel_acc', 'mIoU', 'Dice', 'imgs_per_sec', 'train_imgs_per_sec',
    'train_time_sec', 'data_wait_share', 'learning_rate', 'peak_memory_mb',
)  # fmt: skip


class TrackingError(SegmentationError):
    """MLflow is not available, or rejects the data."""


def tracking_uri() -> str:
    """Return the address of the store: MLFLOW_TRACKING_URI, or the embedded store."""
    return os.environ.get('MLFLOW_TRACKING_URI') or f'sqlite:///{RUNS.resolve()}/mlflow.db'


def shown_uri() -> str:
    """Return the address of the store without a password."""
    return without_password(tracking_uri())


def without_password(text: str) -> str:
    """Remove users and passwords from the addresses in a text."""
    return re.sub(r'//[^/@\s]*@', '//', text)


def client() -> MlflowClient:
    """Return a client of the store; raises TrackingError if it is not available."""
    uri = tracking_uri()
    with _named(uri), _one_at_a_time(uri):
        found = MlflowClient(tracking_uri=uri)
        found.search_experiments(max_results=1)
    return found


@contextmanager
def _one_at_a_time(uri: str) -> Iterator[None]:
    """Lock an embedded store: the first process creates its tables, which MLflow does not lock."""
    if not uri.startswith('sqlite:'):
        yield
        return
    # By default, MLflow prints a line for every table it creates.
    for name in ('alembic', 'mlflow.store.db.utils', 'mlflow.tracking'):
        logging.getLogger(name).setLevel(logging.WARNING)
    RUNS.mkdir(exist_ok=True)
    with (RUNS / 'mlflow.lock').open('w') as lock:  # closing it unlocks
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def experiment_id(store: MlflowClient, study: str) -> str:
    """Return the id of an MLflow experiment; creates it if it does not exist."""
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
        return experiment_id(store, study)  # another process has just created it


@contextmanager
def _named(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        local = uri.startswith('sqlite:')
        remedy = (
            'free disk space there, or move the file away if it is damaged'
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
    """Folder of a run with `metrics.jsonl`, `artifacts/` and `run.json`, copied to MLflow.

    `run.json` describes the run and lists what MLflow has received. `sync` sends the rest, so
    nothing is lost while a server is down. An interrupted run continues as the same MLflow run.
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
        """Id of the MLflow run; empty before `start`."""
        return str(self._state['run_id'])

    @property
    def status(self) -> str:
        """Final status of the run in MLflow's terms; empty until it ends."""
        return str(self._state['status'])

    def description(self) -> dict[str, Any]:
        """Return description and status of the run, independent of any store."""
        kept = ('study', 'name', 'params', 'tags', 'status')
        return {key: self._state[key] for key in kept}

    def start(
        self, study: str, name: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        """Create the MLflow run, or continue the existing one; raises TrackingError."""
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
        """Create the run with its parameters if the store does not have it; update its tags."""
        known = self._state
        if not self.id or not _has_run(store, self.id):
            made = store.create_run(experiment_id(store, known['study']), run_name=known['name'])
            params = [Param(_name(k), v) for k, v in known['params'].items()]
            store.log_batch(made.info.run_id, params=params)
            self._state |= {'run_id': made.info.run_id, 'metrics': 0, 'files': {}}
        store.log_batch(self.id, tags=[RunTag(_name(k), v) for k, v in known['tags'].items()])

    def keep(self, epochs: int) -> None:
        """Discard the figures of epochs from `epochs` on, which will be run again."""
        lines = [json.dumps(row) for row in self.history() if row['epoch'] < epochs]
        with replacing(self._metrics_file) as aside:
            aside.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
        self._state['metrics'] = min(self._state['metrics'], len(lines))

    def log(self, epoch: int, figures: Mapping[str, float]) -> None:
        """Append the finite figures of an epoch, counted from 0, to the folder's metrics.

        Nothing is sent before it is written here, so that no server can lose it.
        """
        finite = {k: float(v) for k, v in figures.items() if math.isfinite(v)}
        row = {'epoch': epoch, 'time_ms': int(time.time() * 1000), **finite}
        with self._metrics_file.open('a', encoding='utf-8') as stream:
            stream.write(json.dumps(row) + '\n')

    def history(self) -> list[dict[str, Any]]:
        """Return the figures of all epochs so far, one mapping per epoch."""
        if not self._metrics_file.is_file():
            return []
        lines = self._metrics_file.read_text(encoding='utf-8').splitlines(keepends=True)
        # A kill or a full disk may have cut the last line short.
        return [json.loads(line) for line in lines if line.endswith('\n')]

    def sync(self) -> None:
        """Send all figures and files that MLflow has not received; raises TrackingError."""
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

        If this fails, the next `sync` closes it.
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
        with replacing(self._state_file) as aside:
            aside.write_text(json.dumps(self._state), encoding='utf-8')


def deliver(run: Run) -> None:
    """Send new figures and files; the run's folder keeps those that cannot be sent yet."""
    try:
        run.sync()
    except (TrackingError, OSError) as error:
        tqdm.write(f'warning: {error}; the figures are kept in {run.folder} and sent later')


def close(run: Run, status: str) -> None:
    """Send the remaining files and close the MLflow run; a failure is printed with its remedy."""
    checkpoint = run.folder / 'checkpoint'
    try:
        for path in checkpoint.glob('*'):
            (run.artifacts / 'checkpoint').mkdir(exist_ok=True)
            shutil.copy2(path, run.artifacts / 'checkpoint')
        run.finish(status)
    except (TrackingError, OSError) as error:
        print(
            f'warning: {one_line(error)}. Nothing is lost: "python -m training.tracking '
            f'{run.folder}" sends it',
            file=sys.stderr,
        )


def _read_state(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding='utf-8')))
    except (ValueError, TypeError) as error:
        raise TrackingError(
            f'{path} is damaged ({one_line(error)}); remove it to send the run as a new one'
        ) from error


def _name(name: str) -> str:
    """Replace characters that MLflow does not allow in names."""
    return re.sub(r'[^\w .:/-]', '_', name)


def _has_run(store: MlflowClient, run_id: str) -> bool:
    """Return whether a store has a run, which may have started in another store."""
    try:
        store.get_run(run_id)
    except MlflowException as error:
        if error.error_code == 'RESOURCE_DOES_NOT_EXIST':
            return False
        raise
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the command line: send the rest of a run to MLflow."""
    parser = argparse.ArgumentParser(description='Send what a run could not deliver to MLflow.')
    parser.add_argument('folder', type=Path, help='folder of the run')
    folder = parser.parse_args(argv).folder
    try:
        if not (folder / 'run.json').is_file():
            raise TrackingError(f'{folder} is not the folder of a run (run.json is missing)')
        Run(folder).sync()
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
