# SPDX-License-Identifier: Apache-2.0
"""Workers as Ray actors; work of an actor that is lost goes to another one."""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from segmentation_node import __version__
from segmentation_node.bags.bounds import tell
from segmentation_node.errors import SegmentationError, SettingError, one_line
from segmentation_node.fleet.inputs import BagInput
from segmentation_node.fleet.labeling import Job, Labeling
from segmentation_node.fleet.worker import BagWorker
from segmentation_node.paths import with_extra
from segmentation_node.runtimes.machine import cpu_identity

#: Memory of Ray's object store on one machine; bags do not pass through it.
_OBJECT_STORE_BYTES: Final = 100 << 20
#: Longest wait for a result until signals are checked, and period of the progress.
POLL_S: Final = 0.25
_PROGRESS_S: Final = 1.0
#: Longest wait for actors to end.
_CLOSE_S: Final = 5.0
#: Calls for the progress per second.
_PROGRESS_CALLS_HZ: Final = 200
#: Workers that may be lost while they load the model, in a row.
_MAX_LOST_STARTS: Final = 5
#: Group of the threads of an actor that answer while it segments.
_PROGRESS: Final = 'progress'


@dataclass(frozen=True)
class WorkerShape:
    """Number of workers and the share of a machine that each takes; 0 workers is all that fit."""

    workers: int
    cpus: float
    gpus: float


def import_ray() -> Any:
    """Return Ray, which sends no usage statistics; raises SettingError if it is not installed."""
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'
    try:
        return import_module('ray')
    except ModuleNotFoundError as error:
        raise SettingError(
            f'label_fleet needs Ray, which is not installed: pip install {with_extra("fleet")}'
        ) from error


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, or start Ray on this machine; yields the module ray.

    Raises:
        SettingError: there is no cluster at the address.
    """
    if address is None:
        require_token()  # before Ray reads the environment
    ray = import_ray()
    options: dict[str, Any] = {'address': address}
    if address is None:
        options = {
            'address': 'local', 'include_dashboard': False,
            'num_cpus': int(str(cpu_identity()['cores'])),
            'object_store_memory': _OBJECT_STORE_BYTES,
        }  # fmt: skip
    try:
        ray.init(log_to_driver=False, logging_level='error', **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise SettingError(
            f'cannot connect to Ray at {address or "this machine"} ({one_line(error)}); give the '
            f'address that "ray start --head" shows, such as 10.0.0.1:6379, and set RAY_AUTH_MODE '
            f'as it is set there'
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def require_token() -> None:
    """Let Ray on this machine refuse calls without a secret, since it listens on the network.

    The secret is that of this process, unless the user has chosen otherwise. Ray reads the
    variables when it is imported.
    """
    if 'RAY_AUTH_MODE' not in os.environ and 'ray' not in sys.modules:
        os.environ |= {'RAY_AUTH_MODE': 'token', 'RAY_AUTH_TOKEN': secrets.token_hex(32)}


@dataclass(eq=False)
class _Actor:
    """Actor with the job that it does; `job` is None while it loads the model, or waits."""

    handle: Any
    name: str
    job: Job | None = None
    at_hand: BagInput | None = None
    #: Call of `frames_done` whose answer is awaited, and the newest answer.
    asked: Any = None
    frames: int = 0


class Pool:
    """Actors that work off a Labeling; `ray` is the connected module."""

    def __init__(
        self, ray: Any, shape: WorkerShape, args: argparse.Namespace, digest: str
    ) -> None:
        """Plan the workers; `run` starts them.

        Args:
            ray: module, connected.
            shape: number and size of the workers.
            args: options of label_fleet.
            digest: of the model.

        Raises:
            SettingError: no machine of the cluster has room for a worker.
        """
        self._ray, self._args, self._digest = ray, args, digest
        self.size = _workers(ray, shape)
        resources = {'num_cpus': shape.cpus, 'num_gpus': shape.gpus}
        self._actors = ray.remote(concurrency_groups={_PROGRESS: 1})(BagWorker)
        self._options = {**resources, 'max_restarts': 0}
        self._threads = max(int(shape.cpus), 1)
        self._started = self._lost_starts = 0
        #: True once a worker has loaded the model.
        self._have_loaded = False
        self._idle: list[_Actor] = []
        self._futures: dict[Any, _Actor] = {}
        self._asked_s = 0.0
        errors = ray.exceptions
        self._lost = (errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError)

    def run(
        self,
        labeling: Labeling,
        stop: Callable[[], bool] = lambda: False,
        watch: Callable[[int], Any] = lambda _: None,
    ) -> None:
        """Do all jobs; a job whose actor is lost is done again.

        Args:
            labeling: jobs and results.
            stop: asked several times a second; unfinished parts are dropped.
            watch: told the number of frames in unfinished parts.

        Raises:
            SettingError: no worker can load the model.
        """
        while not labeling.is_finished and not stop():
            self._start_missing(labeling)
            self._assign(labeling)
            for future in self._ready(list(self._futures), POLL_S):
                self._take(self._futures.pop(future), future, labeling)
            self._ask_progress()
            watch(sum(actor.frames for actor in self._futures.values()))
        self._close()

    def _close(self) -> None:
        """Let idle actors remove their copies of bags; others are removed by the next worker."""
        calls = [actor.handle.close.remote() for actor in self._idle]
        if calls:
            self._ray.wait(calls, num_returns=len(calls), timeout=_CLOSE_S)

    def _ready(self, futures: list[Any], timeout_s: float) -> list[Any]:
        if not futures:
            return []
        return list(self._ray.wait(futures, num_returns=1, timeout=timeout_s)[0])

    def _start_missing(self, labeling: Labeling) -> None:
        """Start actors for the jobs that wait, as long as there is room."""
        starting = sum(actor.job is None for actor in self._futures.values())
        wanted = labeling.waiting - starting - len(self._idle)
        there = len(self._futures) + len(self._idle)
        for _ in range(min(wanted, self.size - there)):
            self._started += 1
            name = f'label_fleet {self._started}'
            actor = _Actor(
                self._actors.options(name=name, **self._options).remote(self._args, self._threads),
                name,
            )
            self._futures[actor.handle.load.remote(__version__, self._digest)] = actor

    def _assign(self, labeling: Labeling) -> None:
        while self._idle and labeling.waiting:
            actor = self._idle.pop()
            job = labeling.next_job(actor.at_hand)
            if job is None:
                return
            actor.job, actor.at_hand, actor.frames, actor.asked = job, job.bag, 0, None
            self._futures[self._call(actor, job)] = actor

    def _call(self, actor: _Actor, job: Job) -> Any:
        if job.part is None:
            return actor.handle.inspect.remote(job.bag)
        return actor.handle.segment.remote(job.bag, job.span, self._args.output, job.file)

    def _take(self, actor: _Actor, future: Any, labeling: Labeling) -> None:
        """Take the result of a call, whose actor is then idle, or lost."""
        job, actor.job = actor.job, None
        try:
            result = self._ray.get(future)
        except self._lost as error:
            self._ray.kill(actor.handle)
            self._lose(actor, job, one_line(error), labeling)
            return
        except self._ray.exceptions.RayTaskError as error:
            if job is None:
                self._ray.kill(actor.handle)
                self._lose(actor, None, _reason(error), labeling)
                return
            labeling.fail(job, _reason(error))
        else:
            self._lost_starts, self._have_loaded = 0, True
            if job is not None:
                labeling.finish(job, result)
        self._idle.append(actor)

    def _lose(self, actor: _Actor, job: Job | None, error: str, labeling: Labeling) -> None:
        if job is not None:
            labeling.lose(job, f'{actor.name}: {error}')
            return
        self._lost_starts += 1
        if not self._have_loaded or self._lost_starts >= _MAX_LOST_STARTS:
            raise SettingError(f'workers cannot load the model, the last one because: {error}')
        labeling.tell(f'{actor.name} cannot load the model: {error}')

    def _ask_progress(self) -> None:
        """Ask busy actors for their progress, and take the answers that are there."""
        busy = [actor for actor in self._futures.values() if actor.job is not None]
        asked = [actor for actor in busy if actor.asked is not None]
        if asked:
            calls = [actor.asked for actor in asked]
            there = set(self._ray.wait(calls, num_returns=len(calls), timeout=0)[0])
            for actor in asked:
                if actor.asked in there:
                    self._take_progress(actor)
        now_s = time.monotonic()
        if now_s - self._asked_s < max(_PROGRESS_S, len(busy) / _PROGRESS_CALLS_HZ):
            return
        self._asked_s = now_s
        for actor in busy:
            if actor.asked is None:
                ask = actor.handle.frames_done.options(concurrency_group=_PROGRESS)
                actor.asked = ask.remote()

    def _take_progress(self, actor: _Actor) -> None:
        answer, actor.asked = actor.asked, None
        try:
            actor.frames = self._ray.get(answer)
        except self._lost:
            actor.frames = 0  # the call of the job fails as well, and is handled there


def _workers(ray: Any, shape: WorkerShape) -> int:
    """Return the number of workers: the wanted one, or all that the machines have room for."""
    room = _room(ray, shape)
    if not room and shape.workers:
        tell(
            'label_fleet',
            f'no machine has {shape.cpus:g} CPUs and {shape.gpus:g} GPUs for a worker; waiting '
            f'for one that joins the cluster',
        )
    if not room and not shape.workers:
        raise SettingError(
            f'no machine of the cluster has {shape.cpus:g} CPUs and {shape.gpus:g} GPUs for a '
            f'worker; give less with --cpus-per-worker and --gpus-per-worker, or set --workers '
            f'if machines are added later'
        )
    return shape.workers or room


def _room(ray: Any, shape: WorkerShape) -> int:
    """Return the number of workers that the machines have room for."""
    room = 0
    for node in ray.nodes():
        if node['Alive']:
            free = node['Resources']
            fits = [free.get('CPU', 0) / shape.cpus] if shape.cpus else []
            fits += [free.get('GPU', 0) / shape.gpus] if shape.gpus else []
            room += int(min(fits))
    return room


def _reason(error: Any) -> str:
    """Return the text of an exception of a worker; one that is unexpected with its type."""
    cause = error.cause
    if isinstance(cause, SegmentationError):
        return str(cause)
    return f'{type(cause).__name__}: {one_line(cause)}'
