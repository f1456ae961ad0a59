# SPDX-License-Identifier: Apache-2.0
"""Training runs in separate processes, which tests can kill without affecting other tests.

The processes are forked from one that has imported the trainer, but has never run a network, so
they start immediately.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['training.train'])

#: Called in the process before the trainer, to prepare a failure.
Accident = Callable[[], None]


def run(arguments: list[str], place: Path, accident: Accident | None = None) -> tuple[int, str]:
    """Run the trainer's command; returns the exit status, or minus the signal, and the output."""
    return Started(arguments, place, accident).wait()


class Started:
    """Run of the trainer's command in the background, with environment variables."""

    def __init__(
        self,
        arguments: list[str],
        place: Path,
        accident: Accident | None = None,
        said: str = 'said.txt',
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._said = place / said
        self._process = CONTEXT.Process(
            target=_child, args=(arguments, place, self._said, accident, environment or {})
        )
        self._process.start()

    def wait(self) -> tuple[int, str]:
        """Return the exit status, or minus the signal, and the output."""
        self._process.join(240)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(self._said.read_text(encoding='utf-8'))
        return self._process.exitcode, self._said.read_text(encoding='utf-8')


def _child(
    arguments: list[str], place: Path, said: Path, accident: Accident | None,
    environment: Mapping[str, str],
) -> None:  # fmt: skip
    with said.open('w', encoding='utf-8') as stream:
        for standard in (1, 2):
            os.dup2(stream.fileno(), standard)
    # Buffered, as by default for output to a file.
    sys.stdout = open(1, 'w', encoding='utf-8', closefd=False)  # noqa: SIM115
    sys.stderr = open(2, 'w', encoding='utf-8', buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(place)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest may run in the background

    from training import train

    if accident is not None:
        accident()
    sys.exit(train.main(arguments))


def _call_before(owner: Any, method: str, action: Callable[..., None]) -> None:
    """Patch a method to call `action` before each call."""
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

    _call_before(Task, 'training_step', action)


def kill_in_mid_epoch() -> None:
    """Kill the process with SIGKILL in the second epoch of three steps."""
    _signal_in_step(signal.SIGKILL, 4)


def kill_in_the_second_epoch() -> None:
    """Kill the process with SIGKILL in the second epoch of one step."""
    _signal_in_step(signal.SIGKILL, 1)


def kill_in_third_epoch() -> None:
    _signal_in_step(signal.SIGKILL, 7)


def kill_in_first_epoch() -> None:
    _signal_in_step(signal.SIGKILL, 1)


def interrupt() -> None:
    _signal_in_step(signal.SIGINT, 4)


def terminate() -> None:
    _signal_in_step(signal.SIGTERM, 4)


def kill_before_the_state_is_kept() -> None:
    """Kill the process after the figures and checkpoint of the first epoch, before its state."""
    from training.epochs import Keeper

    _call_before(Keeper, 'on_train_epoch_end', lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def kill_between_the_renames() -> None:
    """Kill the process while the second best checkpoint replaces the first."""
    replace = Path.replace

    def changed(self: Path, target: Any) -> Path:
        if self.name == '.checkpoint.new' and (self.parent / '.checkpoint.old').exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    setattr(Path, 'replace', changed)  # noqa: B010 (patched in this process only)


def kill_while_the_state_is_moved() -> None:
    """Kill the process while Lightning moves the second state from another file system."""
    move = shutil.move

    def changed(source: str, target: str) -> Any:
        if 'state.ckpt' in target and (Path(target).parent / 'state.ckpt').exists():
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return move(source, target)

    setattr(shutil, 'move', changed)  # noqa: B010 (patched in this process only)


def _fill_disk() -> None:
    """Limit files to 1.5 MB, which only weights exceed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000))


def fill_disk_before_the_first_checkpoint() -> None:
    _fill_disk()


def fill_disk_before_the_second_state() -> None:
    from training.epochs import Keeper

    def action(_: Any, trainer: Any, *__: Any) -> None:
        if trainer.current_epoch == 1:
            _fill_disk()

    _call_before(Keeper, 'on_train_epoch_end', action)


def fill_disk_before_the_second_figures() -> None:
    from training.tracking import Run

    log = Run.log

    def limited(run: Run, epoch: int, figures: Any) -> None:
        if epoch == 0:
            log(run, epoch, figures)
            return
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            size = run._metrics_file.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, 1500))
            log(run, epoch, figures)
        finally:  # the command's output, a file, too, is longer than the figures
            resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    setattr(Run, 'log', limited)  # noqa: B010 (patched in this process only)
