# SPDX-License-Identifier: Apache-2.0
"""Selection of tracked runs by id, name or folder, or of all runs of a study."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException

from segmentation_node.errors import one_line
from training.tracking import PARENT_TAG, SEARCH_TAG, TrackingError, shown_uri, without_password

RUN_ID: Final = re.compile('[0-9a-f]{32}')
#: Maximum number of runs listed in an error.
MAX_LISTED: Final = 20


@dataclass(frozen=True)
class Choice:
    """Runs and searches of a report, and a sentence for each run of the study that is left out."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()
    searches: tuple[Run, ...] = ()


@contextmanager
def reading() -> Iterator[None]:
    """Convert errors of MLflow and the network into a TrackingError that names the store."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f'MLflow at {shown_uri()} cannot be read ({without_password(one_line(error))}); start '
            f'the server, or set MLFLOW_TRACKING_URI to the store with the runs'
        ) from error


def choose(
    store: MlflowClient, wanted: Sequence[str], study: str | None, *, trials: bool = False
) -> Choice:
    """Find the given runs, in their order, or all finished runs of the study.

    Args:
        store: MLflow store with the runs.
        wanted: run ids, run folders, or names of runs of `study`, searches among them; empty for
            the whole study.
        study: name of an MLflow experiment.
        trials: whether the whole study includes the trials of its searches.

    Raises:
        TrackingError: a run or the study does not exist (the error lists those that do), a name
            is not unique, or all runs are searches.
    """
    with reading():
        runs = _runs_of(store, [_study(store, study)]) if study is not None else []
        if not wanted:
            return _choose_finished(study or '', runs, trials=trials)
        chosen = {run.info.run_id: run for run in (_find(store, w, study, runs) for w in wanted)}
    searches = tuple(run for run in chosen.values() if _is_search(run))
    if len(searches) == len(chosen):
        raise TrackingError(
            f'{", ".join(wanted)}: expected at least one trained run, but these are searches; '
            f'name a run, too, for example one of their trials'
        )
    return Choice(tuple(r for r in chosen.values() if not _is_search(r)), searches=searches)


def _is_search(run: Run) -> bool:
    return SEARCH_TAG in run.data.tags


def _study(store: MlflowClient, name: str) -> Experiment:
    experiment = store.get_experiment_by_name(name)
    if experiment is None:
        names = ', '.join(repr(e.name) for e in store.search_experiments())
        raise TrackingError(f'no study {name!r} in {shown_uri()}; available: {names}')
    return experiment


def _runs_of(store: MlflowClient, studies: Sequence[Experiment]) -> list[Run]:
    """Return all runs that are not deleted, the oldest first."""
    runs: list[Run] = []
    token = None
    while True:
        page = store.search_runs(
            [e.experiment_id for e in studies],
            order_by=['attributes.start_time ASC'],
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            return runs


def _choose_finished(study: str, runs: list[Run], *, trials: bool) -> Choice:
    chosen, left_out, searches = [], [], []
    for run in runs:
        if PARENT_TAG in run.data.tags and not trials:
            left_out.append(f'{run.info.run_name} is a trial of a search; --trials includes it.')
        elif _is_search(run):
            searches.append(run)
            left_out.append(f'{run.info.run_name} is a search, not a model.')
        elif run.info.status != 'FINISHED':
            left_out.append(f'{run.info.run_name} is not finished ({run.info.status.lower()}).')
        elif not run.data.metrics:
            left_out.append(f'{run.info.run_name} has no figures.')
        else:
            chosen.append(run)
    if not chosen:
        raise TrackingError(
            f'study {study!r} has no finished run with figures; {_list_runs(runs)}'
        )
    return Choice(tuple(chosen), tuple(left_out), tuple(searches))


def _find(store: MlflowClient, wanted: str, study: str | None, runs: list[Run]) -> Run:
    state = Path(wanted) / 'run.json'
    if state.is_file():
        return _by_id(store, _read_id(state), f'{wanted} names')
    if RUN_ID.fullmatch(wanted):
        return _by_id(store, wanted, 'there is')
    return _by_name(store, wanted, study, runs)


def _read_id(state: Path) -> str:
    try:
        content = json.loads(state.read_text(encoding='utf-8'))
        run_id = content['run_id']
    except (ValueError, KeyError, TypeError) as error:
        raise TrackingError(
            f'{state} cannot be read ({error!r}); give the id of the run instead'
        ) from error
    if not isinstance(run_id, str) or not run_id:
        raise TrackingError(
            f'the run in {state.parent} has not been sent to MLflow yet; send it with '
            f'"python -m training.tracking {state.parent}"'
        )
    return run_id


def _by_id(store: MlflowClient, run_id: str, who: str) -> Run:
    try:
        run = store.get_run(run_id)
    except MlflowException as error:
        if error.error_code != 'RESOURCE_DOES_NOT_EXIST':
            raise
    else:
        if run.info.lifecycle_stage == 'active':
            return run
    everything = _runs_of(store, store.search_experiments())
    raise TrackingError(
        f'{who} no run {run_id} in {shown_uri()}; {_list_runs(everything)}'
        if who == 'there is'
        else f'{who} run {run_id}, which is not in {shown_uri()}; {_list_runs(everything)}'
    )


def _by_name(store: MlflowClient, name: str, study: str | None, runs: list[Run]) -> Run:
    if study is None:
        everything = _runs_of(store, store.search_experiments())
        raise TrackingError(
            f'{name!r} is neither the id of a run nor a folder with a run.json; for the name of a '
            f'run, add --study; {_list_runs(everything)}'
        )
    named = [run for run in runs if run.info.run_name == name]
    finished = [run for run in named if run.info.status == 'FINISHED']
    match finished or named:
        case [only]:
            return only
        case []:
            raise TrackingError(f'study {study!r} has no run {name!r}; {_list_runs(runs)}')
        case several:
            raise TrackingError(
                f'study {study!r} has {len(several)} runs named {name!r}; give an id: '
                + ', '.join(run.info.run_id for run in several)
            )


def _list_runs(runs: Sequence[Run]) -> str:
    """List the newest runs by name, id and status, for an error."""
    if not runs:
        return 'no runs are available'
    newest = sorted(runs, key=lambda run: -run.info.start_time)
    listed = [
        f'{run.info.run_name!r} ({run.info.run_id}, {run.info.status.lower()})'
        for run in newest[:MAX_LISTED]
    ]
    more = f' and {len(runs) - MAX_LISTED} older ones' if len(runs) > MAX_LISTED else ''
    return f'available: {", ".join(listed)}{more}'
