# SPDX-License-Identifier: Apache-2.0
"""Search for the best values of some fields of an experiment, one training run per trial.

    python -m training.search training/configs/unet_camvid8.yaml runs/search/unet_camvid8

The same command resumes an interrupted search, including a partly trained trial. Several processes
that run it share the work, also on several machines with a shared folder. The folder contains
`best.yaml`, an input file of `training.train`, `trials.csv`, the pictures `trials.png` and
`parallel.png`, the trials in Optuna's database (`optuna.db`), and the run of each trial
(`trial_000`, ...). In MLflow the trials are child runs of the search.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from optuna.exceptions import OptunaError
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from segmentation_node.cli import count
from segmentation_node.errors import DatasetError, SegmentationError, SettingError, one_line
from segmentation_node.labels import load_scheme
from training import provenance
from training.build import build_network
from training.config import OUTER, Experiment, load_experiment, save_experiment
from training.epochs import state_file
from training.parallel_coordinates import PARALLEL_FILE, write_parallel
from training.prepare import prepare_all
from training.search_locks import Locks
from training.search_results import (
    BEST_FILE,
    PICTURE_FILE,
    SPACE_FILE,
    TABLE_FILE,
    Row,
    best_of,
    format_values,
    row_of,
    table,
    write_best,
    write_picture,
    write_table,
)  # fmt: skip
from training.search_space import (
    NumberedSampler,
    Space,
    derived_seed,
    load_space,
    replaced,
    variants,
)
from training.tracking import PARENT_TAG, SEARCH_TAG, Run, TrackingError, close
from training.train import train

USUAL_SPACE: Final = Path(__file__).with_name('search_space.yaml')
SAMPLERS: Final = ('random', 'tpe')
#: Seconds to wait for other processes that write to the database.
DATABASE_TIMEOUT_S: Final = 120


@dataclass(frozen=True)
class Options:
    """Options of a search.

    Attributes:
        trials: total number of trials, including those of earlier commands.
        sampler: one of SAMPLERS; TPE learns from earlier trials (Bergstra et al., "Algorithms for
            Hyper-Parameter Optimization", NeurIPS 2011).
        seed: random seed of the sampler.
        prune: whether to stop a trial that is worse than the median of the others at that point.
        storage: URL of a database server; empty uses a file in the folder.
    """

    trials: int = 10
    sampler: str = 'random'
    seed: int = 0
    prune: bool = False
    storage: str = ''

    @property
    def fixed(self) -> dict[str, Any]:
        """Options that must be the same in all commands of a search."""
        return {'sampler': self.sampler, 'seed': self.seed, 'prune': self.prune}

    @property
    def startup_trials(self) -> int:
        """Number of trials before TPE and the pruner use their results."""
        return max(2, self.trials // 3)


USUAL_OPTIONS: Final = Options()


class Search:
    """Search in a folder, as seen by one of the processes that share it.

    All shared state is read and written under `locks.whole()`. A trial that is running according
    to Optuna, but not locked, was abandoned by a process that died: the next process that looks
    for work resumes it, with the same number and in the same folder.

    Optuna's heartbeat notices a dead process only after a grace period, and its retry adds a new
    trial with a new number. A search repeated right after a kill would start over with its trial,
    and two processes would not add up to `trials`.
    """

    def __init__(
        self, base: Experiment, space: Space, folder: Path, options: Options, locks: Locks
    ) -> None:
        self.base, self.space, self.folder = base, space, folder
        self.options, self.locks = options, locks
        with locks.whole():
            url = options.storage or f'sqlite:///{folder.resolve()}/optuna.db'
            timeout = {'connect_args': {'timeout': DATABASE_TIMEOUT_S}}
            self._storage = RDBStorage(
                url, engine_kwargs=timeout if url.startswith('sqlite:') else {}
            )
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=folder.name,
                direction='maximize',
                load_if_exists=True,
                pruner=MedianPruner(options.startup_trials, n_warmup_steps=10)
                if options.prune
                else NopPruner(),
            )
            self._start_run(Run(folder))

    def run(self) -> None:
        """Run trials until none is left to start or to resume."""
        while (trial := self._claim()) is not None:
            self._run(trial)
            self.locks.release(trial.number)
        with self.locks.whole():
            self._publish()
            if all(row.state != 'open' for row in self.rows()):
                close(Run(self.folder), 'FINISHED')

    def rows(self) -> list[Row]:
        """Return all trials so far."""
        return [row_of(trial, self.space) for trial in self._study.get_trials(deepcopy=False)]

    def mark_stopped(self) -> None:
        """Mark the search's MLflow run as stopped, unless other processes continue it."""
        with self.locks.whole():
            unfinished = [row.number for row in self.rows() if row.state == 'open']
            if all(self.locks.take(number) for number in unfinished):
                close(Run(self.folder), 'KILLED')

    def _claim(self) -> Trial | None:
        """Lock a trial for this process: an abandoned one, else a new one; None if all ended."""
        with self.locks.whole():
            trials = self._study.get_trials(deepcopy=False)
            for known in trials:
                if known.state == TrialState.RUNNING and self.locks.take(known.number):
                    print(f'resuming trial {known.number} of an ended process', flush=True)
                    self._study.sampler = self._sampler(known.number)
                    return self._draw(Trial(self._study, self._id_of(known.number)))
            number = len(trials)
            if number >= self.options.trials:
                return None
            self.locks.take(number)
            self._study.sampler = self._sampler(number)
            return self._draw(self._study.ask())

    def _sampler(self, number: int) -> BaseSampler:
        """Return the sampler of a trial, the same in every process."""
        seed = self.options.seed
        if self.options.sampler == 'random':
            return NumberedSampler(seed)
        trial_seed = derived_seed(seed, number)
        return TPESampler(seed=trial_seed, n_startup_trials=self.options.startup_trials)

    def _draw(self, trial: Trial) -> Trial:
        """Draw the missing values of a trial; existing values are kept."""
        for name, dimension in self.space.items():
            dimension.draw(trial, name)
        return trial

    def _id_of(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _run(self, trial: Trial) -> None:
        number = trial.number
        values = {name: d.value_of(trial.params[name]) for name, d in self.space.items()}
        print(
            f'trial {number} of 0 to {self.options.trials - 1}: {format_values(values)}',
            flush=True,
        )
        state, score, error = TrialState.FAIL, None, ''
        try:
            score = self._train(trial, replaced(self.base, values))
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
            close(Run(self._folder_of(number)), 'KILLED')
        except (SegmentationError, RuntimeError, ValueError) as caught:
            # Raised by the libraries for incompatible values, or if memory is short.
            if _is_external(caught):
                raise
            error = ' '.join(str(caught).split())
        with self.locks.whole():
            run_file = self._folder_of(number) / 'run.json'
            if run_file.is_file():
                trial.set_user_attr('run_id', Run(run_file.parent).id)
            if error:
                trial.set_user_attr('error', error)
            self._study.tell(trial, score, state)
            # Only unfinished trials need the state, which is several times the network's size.
            state_file(self._folder_of(number)).unlink(missing_ok=True)
            self._print_result(number)
            self._publish(number)

    def _train(self, trial: Trial, experiment: Experiment) -> float:
        known = self._storage.get_trial(self._id_of(trial.number)).intermediate_values

        def report(epoch: int, miou: float) -> None:
            # As a percentage of the run, so that trials of different lengths are compared at the
            # same point of their schedules.
            done = round(100 * (epoch + 1) / experiment.epochs)
            if done not in known:
                trial.report(miou, done)
            if trial.should_prune():
                raise optuna.TrialPruned

        return train(
            experiment,
            self._folder_of(trial.number),
            name=f'{self.folder.name} trial {trial.number}',
            tags={PARENT_TAG: Run(self.folder).id, 'search': self.folder.name},
            report=report,
        )

    def _folder_of(self, number: int) -> Path:
        return self.folder / f'trial_{number:03}'

    def _print_result(self, number: int) -> None:
        rows = self.rows()
        row, best = rows[number], best_of(rows)
        score = row.state if row.miou is None else f'{row.state}, mIoU {100 * row.miou:.2f}'
        reason = f' ({row.error})' if row.error else ''
        best_so_far = f'; best {100 * (best.miou or 0):.2f} by trial {best.number}' if best else ''
        remaining = max(0, self.options.trials - sum(r.state != 'open' for r in rows))
        print(f'trial {number}: {score}{reason}{best_so_far}; {remaining} to go', flush=True)

    def _publish(self, ended: int | None = None) -> None:
        """Update the files and the MLflow run; `ended` is the trial that has just ended."""
        rows = self.rows()
        best = best_of(rows)
        write_table(self.folder / TABLE_FILE, rows, self.space)
        write_picture(self.folder / PICTURE_FILE, rows, self.space)
        write_parallel(self.folder / PARALLEL_FILE, rows, self.space)
        if best is not None:
            write_best(self.folder / BEST_FILE, replaced(self.base, best.values), best, rows)
        run = Run(self.folder)
        for name in (TABLE_FILE, PICTURE_FILE, PARALLEL_FILE, BEST_FILE):
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, run.artifacts / name)
        if ended is not None:
            # In the order in which trials end, so that the newest value covers all of them.
            figures = {'trial_mIoU': rows[ended], 'best_mIoU': best}
            scored = {k: row.miou for k, row in figures.items() if row and row.miou is not None}
            run.log(len(run.history()), scored)
        try:
            self._start_run(run)
            run.sync()
        except TrackingError as error:
            print(f'warning: {error}; the results are kept in {self.folder} and sent later')

    def _start_run(self, run: Run) -> None:
        """Create the search's MLflow run, or update its tags; raises TrackingError."""
        best = best_of(self.rows())
        tags = {
            'search': self.folder.name,
            SEARCH_TAG: str(self.options.trials),
            'git_revision': provenance.revision(),
            'machine': provenance.machine(),
        }
        if best is not None:
            tags |= {'best.trial': str(best.number)}
            tags |= {f'best.{name}': str(value) for name, value in best.values.items()}
        run.start(
            self.base.study,
            f'{self.folder.name} search',
            provenance.params(self.base)
            | {name: str(dimension) for name, dimension in self.space.items()}
            | {f'search.{name}': value for name, value in self.options.fixed.items()},
            tags,
        )


def search(
    experiment: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    space: Path = USUAL_SPACE,
    options: Options = USUAL_OPTIONS,
) -> list[Row]:
    """Run or resume the search of a folder until no trial is left to start or to resume.

    Returns:
        All trials, including those still running in other processes.

    Raises:
        SegmentationError: experiment, space or data are invalid, before the search starts; or a
            failure that no trial causes, such as a full disk. The next search in the folder
            resumes the unfinished trials.
        KeyboardInterrupt: the process was interrupted; the next search resumes its trial.
    """
    base, dimensions = _read(experiment, overrides, space)
    _check_inputs(base)
    folder.mkdir(parents=True, exist_ok=True)
    with Locks(folder / 'lock') as locks:
        with locks.whole():
            _check_same(base, dimensions, options, folder)
        shared = Search(base, dimensions, folder, options, locks)
        try:
            shared.run()
        except BaseException:
            shared.mark_stopped()
            raise
        return shared.rows()


def _read(experiment: Path, overrides: Sequence[str], space: Path) -> tuple[Experiment, Space]:
    variant = variants(experiment, list(overrides))
    base = variant({})
    if base.processes != 1:
        # Each process of a run on several devices repeats this command, and would search itself.
        raise SettingError(
            f'{experiment} uses {base.processes} devices, but a trial runs on one: set devices=1 '
            f'num_nodes=1 and start the same command once per device (CUDA_VISIBLE_DEVICES=0, ...)'
        )
    return base, load_space(space, variant)


def _check_inputs(base: Experiment) -> None:
    """Raise errors that all trials have in common: an invalid file, an invalid network."""
    for _ in prepare_all(base):
        pass
    build_network(base, load_scheme(base.label_scheme))


def _check_same(base: Experiment, space: Space, options: Options, folder: Path) -> None:
    """Raise SettingError if the folder contains a search with other settings."""
    settings = {**options.fixed, 'space': {name: d.plain() for name, d in space.items()}}
    search_file, experiment_file = folder / SPACE_FILE, folder / 'experiment.yaml'
    if not search_file.is_file():
        if experiment_file.is_file():
            raise SettingError(
                f'{folder} contains a training run, not a search; choose another folder'
            )
        search_file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding='utf-8')
    if not experiment_file.is_file():
        save_experiment(base, experiment_file)
    before = yaml.safe_load(search_file.read_text(encoding='utf-8'))
    changed = [key for key, value in settings.items() if before.get(key) != value]
    saved = load_experiment(experiment_file, []).model_dump()
    changed += [
        key for key, value in base.model_dump().items() if value != saved[key] and key not in OUTER
    ]
    if changed:
        raise SettingError(
            f'{folder} contains a different search (different fields: {", ".join(changed)}); '
            f'choose another folder, or remove this one'
        )


def _is_external(error: BaseException) -> bool:
    """Return whether an error has a cause outside of the trial: data, tracking, disk, network."""
    if isinstance(error, DatasetError | TrackingError | OSError):
        return True
    return error.__cause__ is not None and _is_external(error.__cause__)


def _parser() -> argparse.ArgumentParser:
    usual = USUAL_OPTIONS
    parser = argparse.ArgumentParser(
        description='Search for the best values of some fields of an experiment.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('output', type=Path, help='folder of the search; resumed if it exists')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='override a field')
    parser.add_argument(
        '--space', type=Path, default=USUAL_SPACE, help='YAML file with fields and their ranges'
    )
    parser.add_argument(
        '--trials', type=count, default=usual.trials,
        help='total number of trials, including earlier ones',
    )  # fmt: skip
    parser.add_argument(
        '--sampler', choices=SAMPLERS, default=usual.sampler, help='sampling algorithm'
    )
    parser.add_argument('--seed', type=int, default=usual.seed, help='random seed of the sampler')
    parser.add_argument(
        '--prune', action='store_true', help='stop trials early that are worse than the median'
    )
    parser.add_argument(
        '--storage', default=usual.storage, metavar='URL',
        help='database server, for example postgresql://HOST/NAME; a file in the folder if empty',
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line: run or resume a search."""
    arguments = _parser().parse_intermixed_args(argv)
    provenance.quiet_libraries()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    options = Options(
        arguments.trials, arguments.sampler, arguments.seed, arguments.prune, arguments.storage
    )
    folder = arguments.output
    try:
        rows = search(arguments.experiment, folder, arguments.overrides, arguments.space, options)
    except SegmentationError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    except (OptunaError, SQLAlchemyError) as error:
        print(
            f'error: the database of {folder} is not available ({one_line(error)}); make it '
            f'reachable and repeat the command, which resumes the search',
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print('interrupted; repeat the command to resume the search', file=sys.stderr)
        return 130
    return _print_results(rows, folder)


def _print_results(rows: Sequence[Row], folder: Path) -> int:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    print(*table(rows, names), sep='\n')
    unfinished = [str(row.number) for row in rows if row.state == 'open']
    if unfinished:
        print(f'still running in other processes: trial {", ".join(unfinished)}')
    best = best_of(rows)
    if best is None:
        if not unfinished:
            print(
                f'error: no trial has finished; the reasons are in {folder / TABLE_FILE}',
                file=sys.stderr,
            )
        return 0 if unfinished else 1
    print(f'best mIoU {best.miou:.4f} by trial {best.number}')
    print(f'train it with: python -m training.train {folder / BEST_FILE} runs/NAME')
    return 0


if __name__ == '__main__':
    sys.exit(main())
