# SPDX-License-Identifier: Apache-2.0
"""Search the best values of some fields of an experiment, one training run per trial.

    python -m training.search training/configs/unet_camvid8.yaml runs/search/unet_camvid8

The same command goes on where it was interrupted, a training in its midst too, and shares the
work where it is given several times, on several machines as well if they share the folder. The
folder holds `best.yaml`, which `training.train` takes, `trials.csv`, `trials.png`, all trials as
Optuna keeps them (`optuna.db`), and the run of each trial (`trial_000`, ...). In MLflow the
trials lie inside a run of the search.
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

from segmentation_node.bags.options import count
from segmentation_node.errors import DatasetError, SegmentationError, SettingError, one_line
from segmentation_node.labels import load_scheme
from training import provenance
from training.build import build_network
from training.config import OUTER, Experiment, load_experiment, save_experiment
from training.epochs import close, state_file
from training.prepare import prepare_all
from training.search_locks import Locks
from training.search_results import (
    BEST_FILE,
    PICTURE_FILE,
    TABLE_FILE,
    Row,
    best_of,
    row_of,
    shown,
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
from training.tracking import PARENT_TAG, SEARCH_TAG, Run, TrackingError
from training.train import train

USUAL_SPACE: Final = Path(__file__).with_name('search_space.yaml')
SAMPLERS: Final = ('random', 'tpe')
#: Seconds to wait for others who write to the database.
PATIENCE_S: Final = 120


@dataclass(frozen=True)
class Options:
    """How to search.

    Attributes:
        trials: how many in all, those of earlier commands counted in.
        sampler: one of SAMPLERS; TPE learns from the trials before (Bergstra et al.,
            "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011).
        prune: end a trial that is worse than the median of the others was at that point.
        storage: URL of a database server, instead of a file in the folder.
    """

    trials: int = 10
    sampler: str = 'random'
    seed: int = 0
    prune: bool = False
    storage: str = ''

    @property
    def lasting(self) -> dict[str, Any]:
        """What may not change from one command to the next."""
        return {'sampler': self.sampler, 'seed': self.seed, 'prune': self.prune}

    @property
    def first(self) -> int:
        """Trials to learn from before anything is concluded from them."""
        return max(2, self.trials // 3)


USUAL_OPTIONS: Final = Options()


class Search:
    """A search in a folder, as this process takes part in it.

    All that several processes read and write is read and written under `locks.whole()`. A trial
    that Optuna knows as running while nobody has its lock belonged to a process that is no more:
    the next one to look for work takes it up, under the same number and in the same folder.
    """

    def __init__(
        self, base: Experiment, space: Space, folder: Path, options: Options, locks: Locks
    ) -> None:
        self.base, self.space, self.folder = base, space, folder
        self.options, self.locks = options, locks
        with locks.whole():
            url = options.storage or f'sqlite:///{folder.resolve()}/optuna.db'
            patience = {'connect_args': {'timeout': PATIENCE_S}}
            self._storage = RDBStorage(
                url, engine_kwargs=patience if url.startswith('sqlite:') else {}
            )
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=folder.name,
                direction='maximize',
                load_if_exists=True,
                pruner=MedianPruner(options.first, n_warmup_steps=10)
                if options.prune
                else NopPruner(),
            )
            self._start_run(Run(folder))

    def run(self) -> None:
        """Take part until no trial is left to begin or to take up."""
        while (trial := self._claim()) is not None:
            self._run(trial)
            self.locks.release(trial.number)
        with self.locks.whole():
            self._publish()
            if all(row.state != 'open' for row in self.rows()):
                close(Run(self.folder), 'FINISHED')

    def rows(self) -> list[Row]:
        """All trials so far."""
        return [row_of(trial, self.space) for trial in self._study.get_trials(deepcopy=False)]

    def stopped(self) -> None:
        """Mark the search's MLflow run as stopped, unless other processes go on."""
        with self.locks.whole():
            left = [row.number for row in self.rows() if row.state == 'open']
            if all(self.locks.take(number) for number in left):
                close(Run(self.folder), 'KILLED')

    def _claim(self) -> Trial | None:
        """A trial for this process: one that was left behind, else a new one."""
        with self.locks.whole():
            trials = self._study.get_trials(deepcopy=False)
            for left in trials:
                if left.state == TrialState.RUNNING and self.locks.take(left.number):
                    print(f'trial {left.number} was left behind and is taken up', flush=True)
                    self._study.sampler = self._sampler(left.number)
                    return self._drawn(Trial(self._study, self._id_of(left.number)))
            number = len(trials)
            if number >= self.options.trials:
                return None
            self.locks.take(number)
            self._study.sampler = self._sampler(number)
            return self._drawn(self._study.ask())

    def _sampler(self, number: int) -> BaseSampler:
        """What draws the values of a trial, the same whichever process asks."""
        seed = self.options.seed
        if self.options.sampler == 'random':
            return NumberedSampler(seed)
        own_seed = derived_seed(seed, number)
        return TPESampler(seed=own_seed, n_startup_trials=self.options.first)

    def _drawn(self, trial: Trial) -> Trial:
        """A trial with all its values; those it has stay as they are."""
        for name, dimension in self.space.items():
            dimension.draw(trial, name)
        return trial

    def _id_of(self, number: int) -> int:
        study_id = self._storage.get_study_id_from_name(self._study.study_name)
        return self._storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def _run(self, trial: Trial) -> None:
        number = trial.number
        values = {name: d.value_of(trial.params[name]) for name, d in self.space.items()}
        print(f'trial {number} of 0 to {self.options.trials - 1}: {shown(values)}', flush=True)
        state, score, error = TrialState.FAIL, None, ''
        try:
            score = self._train(trial, replaced(self.base, values))
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
            close(Run(self._folder_of(number)), 'KILLED')
        except (SegmentationError, RuntimeError, ValueError) as caught:
            # What the libraries raise where values do not go together, or memory is short.
            if _has_other_causes(caught):
                raise
            error = ' '.join(str(caught).split())
        with self.locks.whole():
            run_file = self._folder_of(number) / 'run.json'
            if run_file.is_file():
                trial.set_user_attr('run_id', Run(run_file.parent).id)
            if error:
                trial.set_user_attr('error', error)
            self._study.tell(trial, score, state)
            # Only a trial that goes on needs it, and it is several times the network's size.
            state_file(self._folder_of(number)).unlink(missing_ok=True)
            self._tell(number)
            self._publish(number)

    def _train(self, trial: Trial, experiment: Experiment) -> float:
        known = self._storage.get_trial(self._id_of(trial.number)).intermediate_values

        def report(epoch: int, miou: float) -> None:
            # As a percentage of the run: trials of different length compare at the same point
            # of their schedules.
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

    def _tell(self, number: int) -> None:
        rows = self.rows()
        row, best = rows[number], best_of(rows)
        score = row.state if row.miou is None else f'{row.state}, mIoU {100 * row.miou:.2f}'
        why = f' ({row.error})' if row.error else ''
        best_so_far = f'; best {100 * (best.miou or 0):.2f} by trial {best.number}' if best else ''
        left = max(0, self.options.trials - sum(r.state != 'open' for r in rows))
        print(f'trial {number}: {score}{why}{best_so_far}; {left} to go', flush=True)

    def _publish(self, ended: int | None = None) -> None:
        """Bring files and MLflow run up to date; `ended` is the trial that has just ended."""
        rows = self.rows()
        best = best_of(rows)
        write_table(self.folder / TABLE_FILE, rows, self.space)
        write_picture(self.folder / PICTURE_FILE, rows, self.space)
        if best is not None:
            write_best(self.folder / BEST_FILE, replaced(self.base, best.values), best, rows)
        run = Run(self.folder)
        for name in (TABLE_FILE, PICTURE_FILE, BEST_FILE):
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, run.artifacts / name)
        if ended is not None:
            # By the order in which trials end: the newest value is the one of all so far.
            figures = {'trial_mIoU': rows[ended], 'best_mIoU': best}
            scored = {k: row.miou for k, row in figures.items() if row and row.miou is not None}
            run.log(len(run.history()), scored)
        try:
            self._start_run(run)
            run.sync()
        except TrackingError as error:
            print(f'warning: {error}; what is found is kept in {self.folder} and sent later')

    def _start_run(self, run: Run) -> None:
        """Make the search's MLflow run, or bring its tags up to date; raises TrackingError."""
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
            | {f'search.{name}': value for name, value in self.options.lasting.items()},
            tags,
        )


def search(
    experiment: Path,
    folder: Path,
    overrides: Sequence[str] = (),
    space: Path = USUAL_SPACE,
    options: Options = USUAL_OPTIONS,
) -> list[Row]:
    """Search in a folder until no trial is left to begin or to take up.

    Returns:
        All trials, those of others that are still open, too.

    Raises:
        SegmentationError: a mistake in experiment, space or data, before anything starts; or
            something that no trial can help, such as a full disk. What was begun goes on with
            the next search in the folder.
        KeyboardInterrupt: as before, with the trial in its midst.
    """
    base, dimensions = _read(experiment, overrides, space)
    _check_begins(base)
    folder.mkdir(parents=True, exist_ok=True)
    with Locks(folder / 'lock') as locks:
        with locks.whole():
            _check_same(base, dimensions, options, folder)
        work = Search(base, dimensions, folder, options, locks)
        try:
            work.run()
        except BaseException:
            work.stopped()
            raise
        return work.rows()


def _read(experiment: Path, overrides: Sequence[str], space: Path) -> tuple[Experiment, Space]:
    variant = variants(experiment, list(overrides))
    base = variant({})
    if base.devices != 1:
        # The processes of several devices are started by this command anew: each would search.
        raise SettingError(
            f'{experiment} asks for {base.devices} devices; a trial runs on one: set devices=1 '
            f'and give the same command once for each device (CUDA_VISIBLE_DEVICES=0, ...)'
        )
    return base, load_space(space, variant)


def _check_begins(base: Experiment) -> None:
    """Raise what no trial is to blame for: a bad file, a network that cannot be built."""
    for _ in prepare_all(base):
        pass
    build_network(base, load_scheme(base.label_scheme))


def _check_same(base: Experiment, space: Space, options: Options, folder: Path) -> None:
    """Refuse to go on with another search than the one a folder was begun with."""
    settings = {**options.lasting, 'space': {name: d.plain() for name, d in space.items()}}
    ours, theirs = folder / 'search.yaml', folder / 'experiment.yaml'
    if not ours.is_file():
        if theirs.is_file():
            raise SettingError(f'{folder} holds a run of its own; give another folder')
        ours.write_text(yaml.safe_dump(settings, sort_keys=False), encoding='utf-8')
    if not theirs.is_file():
        save_experiment(base, theirs)
    before = yaml.safe_load(ours.read_text(encoding='utf-8'))
    changed = [key for key, value in settings.items() if before.get(key) != value]
    begun = load_experiment(theirs, []).model_dump()
    changed += [
        key for key, value in base.model_dump().items() if value != begun[key] and key not in OUTER
    ]
    if changed:
        raise SettingError(
            f'{folder} holds another search (different: {", ".join(changed)}); give another '
            f'folder, or remove it'
        )


def _has_other_causes(error: BaseException) -> bool:
    """Whether an error would meet the next trial as well: data, tracking, disk, network."""
    if isinstance(error, DatasetError | TrackingError | OSError):
        return True
    return error.__cause__ is not None and _has_other_causes(error.__cause__)


def _parser() -> argparse.ArgumentParser:
    usual = USUAL_OPTIONS
    parser = argparse.ArgumentParser(
        description='Search the best values of some fields of an experiment.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('experiment', type=Path, help='YAML file in training/configs')
    parser.add_argument('output', type=Path, help='folder of the search; continued if it exists')
    parser.add_argument('overrides', nargs='*', metavar='field=value', help='replaces a field')
    parser.add_argument(
        '--space', type=Path, default=USUAL_SPACE, help='YAML file: fields and their ranges'
    )
    parser.add_argument(
        '--trials', type=count, default=usual.trials, help='how many, earlier ones included'
    )
    parser.add_argument('--sampler', choices=SAMPLERS, default=usual.sampler, help='draws values')
    parser.add_argument('--seed', type=int, default=usual.seed, help='of the sampler')
    parser.add_argument(
        '--prune', action='store_true', help='end trials early that are worse than the median'
    )
    parser.add_argument(
        '--storage', default=usual.storage, metavar='URL',
        help='a database server, such as postgresql://HOST/NAME; a file in the folder if empty',
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> int:
    """Command line of the search."""
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
            f'error: the database of {folder} cannot be used ({one_line(error)}); make it '
            f'reachable and give the same command again, it goes on',
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print('interrupted; the same command goes on where it was', file=sys.stderr)
        return 130
    return _conclude(rows, folder)


def _conclude(rows: Sequence[Row], folder: Path) -> int:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    print(*table(rows, names), sep='\n')
    open_ = [str(row.number) for row in rows if row.state == 'open']
    if open_:
        print(f'still open in other processes: trial {", ".join(open_)}')
    best = best_of(rows)
    if best is None:
        if not open_:
            print(f'error: no trial came to an end; see {folder / TABLE_FILE}', file=sys.stderr)
        return 0 if open_ else 1
    print(f'best mIoU {best.miou:.4f} by trial {best.number}')
    print(f'python -m training.train {folder / BEST_FILE} runs/NAME trains it')
    return 0


if __name__ == '__main__':
    sys.exit(main())
