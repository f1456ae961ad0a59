# SPDX-License-Identifier: Apache-2.0
"""Runs of the trainer in processes of their own, which can be killed and cannot kill others.

The processes are forked off one that has imported the trainer: they start at once, and none of
them has ever run a network before.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['training.train'])

#: Called in the process before the trainer; changes what is to go wrong.
Accident = Callable[[], None]


def run(arguments: list[str], place: Path, accident: Accident | None = None) -> tuple[int, str]:
    """Exit status of the trainer's command, minus the signal that killed it, and what it said."""
    said = place / 'said.txt'
    process = CONTEXT.Process(target=_child, args=(arguments, place, said, accident))
    process.start()
    process.join(240)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(said.read_text(encoding='utf-8'))
    return process.exitcode, said.read_text(encoding='utf-8')


def _child(arguments: list[str], place: Path, said: Path, accident: Accident | None) -> None:
    with said.open('w', encoding='utf-8') as stream:
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
    # Buffered, as Python does where output goes into a file.
    sys.stdout = open(1, 'w', encoding='utf-8', closefd=False)  # noqa: SIM115
    sys.stderr = open(2, 'w', encoding='utf-8', buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(place)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may have been started aside

    from training import train

    if accident is not None:
        accident()
    sys.exit(train.main(arguments))


def _before(owner: Any, method: str, action: Callable[..., None]) -> None:
    """Do something before each call of a method."""
    original = getattr(owner, method)

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        action(self, *args)
        return original(self, *args, **kwargs)

    setattr(owner, method, changed)


def _signal_in_step(number: int, step: int) -> None:
    from training.task import Task

    def action(task: Any, *_: Any) -> None:
        if task.global_step == step:
            os.kill(os.getpid(), number)

    _before(Task, 'training_step', action)


def kill_in_mid_epoch() -> None:
    """Kill -9 within the second epoch of three steps."""
    _signal_in_step(signal.SIGKILL, 4)


def kill_in_first_epoch() -> None:
    _signal_in_step(signal.SIGKILL, 1)


def interrupt() -> None:
    _signal_in_step(signal.SIGINT, 4)


def terminate() -> None:
    _signal_in_step(signal.SIGTERM, 4)


def kill_before_the_state_is_kept() -> None:
    """Kill -9 when the first epoch has its figures and its checkpoint, but no state yet."""
    from training.epochs import Keeper

    _before(Keeper, 'on_train_epoch_end', lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def kill_between_the_renames() -> None:
    """Kill -9 while the second best checkpoint takes the place of the first."""
    replace = Path.replace

    def changed(self: Path, target: Any) -> Path:
        if self.name == 'checkpoint.new' and (self.parent / 'checkpoint.old').exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    setattr(Path, 'replace', changed)  # noqa: B010 (a method that only this process has)


def _fill_disk() -> None:
    """Let no file grow beyond 1.5 MB, more than any but the weights have."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))


def fill_disk_before_the_first_checkpoint() -> None:
    _fill_disk()


def fill_disk_before_the_second_state() -> None:
    from training.epochs import Keeper

    def action(_: Any, trainer: Any, *__: Any) -> None:
        if trainer.current_epoch == 1:
            _fill_disk()

    _before(Keeper, 'on_train_epoch_end', action)


def fill_disk_before_the_second_figures() -> None:
    from training.tracking import Run

    def action(_: Any, epoch: int, *__: Any) -> None:
        if epoch == 1:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    _before(Run, 'log', action)
