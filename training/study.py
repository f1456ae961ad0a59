# SPDX-License-Identifier: Apache-2.0
"""Small version of the whole study: generated streets, search, training, scores, one report.

    python -m training.study --output runs/study

It prints every command that it runs, so that you can run each one yourself, with your own data and
longer schedules. Repeating the command skips the steps that are finished.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segmentation_node.atomic import replacing
from segmentation_node.errors import SegmentationError, SettingError
from training import compare, evaluate, search, tracking, train
from training.scenes.__main__ import main as render_scenes
from training.search_results import BEST_FILE

HERE: Final = Path(__file__).parent
MODELS: Final = ('unet', 'deeplabv3plus', 'mask2former')
SPACE: Final = HERE / 'study_space.yaml'
DONE_FILE: Final = 'done.json'
REPORT_FILE: Final = 'report.html'
TRIALS: Final = 4
#: The best experiment is trained once per seed, so that the report shows the effect of chance.
SEEDS: Final = (0, 1, 2)
#: Sentence on top of the report.
REMARK: Final = (
    'These figures prove that the chain works, from data to report; they say nothing about the '
    'models, which saw a few generated streets for seconds.'
)
#: Generated streets: name of the city, split, number of frames.
STREETS: Final = (('seed1', 'train', 12), ('seed2', 'train', 12), ('seed9', 'val', 8))


#: Main function of a command: takes the arguments, returns the exit status.
Main = Callable[[list[str]], int]


@dataclass(frozen=True)
class Step:
    """One command, as text and as a function that runs it in this process."""

    program: str
    arguments: tuple[str, ...]
    main: Main

    def __str__(self) -> str:
        return f'{self.program} {shlex.join(self.arguments)}'


def config_of(model: str) -> Path:
    """Return the file with the small experiment of a model."""
    return HERE / 'configs' / f'study_{model}.yaml'


def steps(output: Path, models: Sequence[str]) -> Iterator[Step]:
    """Yield all commands of the study in order."""
    scenes = output / 'data' / 'scenes'
    for city, split, frames in STREETS:
        yield _python(
            render_scenes, str(scenes), '--split', split, '--city', city,
            '--seed', city.removeprefix('seed'), '--frames', str(frames), '--rate-hz', '2',
            '--size', '256x128', '--overwrite',
        )  # fmt: skip
    for model in models:
        yield from _model_steps(output, model)
    runs = [run_of(output, model, seed) for model in models for seed in SEEDS]
    searches = [output / 'search' / model for model in models]
    yield _python(
        compare.main, *map(str, [*runs, *searches]), '--remark', REMARK,
        '--output', str(output / REPORT_FILE),
    )  # fmt: skip


def run_of(output: Path, model: str, seed: int) -> Path:
    """Return the folder of a training of the best experiment."""
    return output / (model if seed == SEEDS[0] else f'{model}_seed{seed}')


def _model_steps(output: Path, model: str) -> Iterator[Step]:
    search_folder = output / 'search' / model
    folders = (f'data_root={output / "data"}', f'cache={output / "prepared"}')
    yield _python(
        search.main, str(config_of(model)), str(search_folder), *folders,
        '--space', str(SPACE), '--trials', str(TRIALS),
    )  # fmt: skip
    for seed in SEEDS:
        run = run_of(output, model, seed)
        yield _python(train.main, str(search_folder / BEST_FILE), str(run), f'seed={seed}')
        yield _python(
            evaluate.main, '--run', str(run), '--set', 'scenes', '--split', 'val',
            '--experiment', str(run / train.EXPERIMENT_FILE),
        )  # fmt: skip
        yield _python(tracking.main, str(run))


def _python(main: Main, *arguments: str) -> Step:
    return Step(f'python -m {main.__module__.removesuffix(".__main__")}', arguments, main)


def study(output: Path, models: Sequence[str], *, overwrite: bool = False) -> int:
    """Run the unfinished steps; returns the exit status of the last command.

    Raises:
        SettingError: the folder contains something other than a study.
    """
    done_file = output / DONE_FILE
    if output.is_dir() and any(output.iterdir()) and not done_file.is_file():
        raise SettingError(
            f'{output} is not empty and not a study ({DONE_FILE} is missing); choose another '
            f'folder'
        )
    if overwrite:
        shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    done: list[str] = json.loads(done_file.read_text('utf-8')) if done_file.is_file() else []
    _write(done_file, done)
    plan = list(steps(output, models))
    for number, step in enumerate(plan, 1):
        place = f'[{number}/{len(plan)}]'
        if _key(step) in done:
            print(f'{place} already finished: {step}', flush=True)
            continue
        print(f'\n{place} {step}', flush=True)
        began = time.monotonic()
        status = step.main(list(step.arguments))
        if status:
            return status
        print(f'{place} took {time.monotonic() - began:.0f} s', flush=True)
        done.append(_key(step))
        _write(done_file, done)
    return 0


def _key(step: Step) -> str:
    """Return a digest of a step: its command and the configuration files of the study."""
    digest = hashlib.sha256(str(step).encode())
    for path in (*(config_of(model) for model in MODELS), SPACE):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _write(path: Path, done: list[str]) -> None:
    with replacing(path) as aside:
        aside.write_text(json.dumps(done), encoding='utf-8')


def main(argv: list[str] | None = None) -> int:
    """Run the command line: run or resume the study."""
    parser = argparse.ArgumentParser(
        description='Search, train, score and compare three models on a small scale.'
    )
    parser.add_argument(
        '--output', type=Path, default=Path('runs/study'),
        help='folder of the study (default: runs/study)',
    )  # fmt: skip
    parser.add_argument(
        '--models', nargs='+', choices=MODELS, default=MODELS, metavar='MODEL',
        help=f'models to compare, out of {", ".join(MODELS)} (default: all)',
    )  # fmt: skip
    parser.add_argument(
        '--overwrite', action='store_true', help='delete the folder and start over'
    )
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    try:
        status = study(arguments.output, arguments.models, overwrite=arguments.overwrite)
    except (SegmentationError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        status = 130
    if status:
        print('repeat the command to resume the study; --overwrite starts over', file=sys.stderr)
        return status
    report = (arguments.output / REPORT_FILE).resolve()
    print(f'\n{time.monotonic() - began:.0f} s; report in {report}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
