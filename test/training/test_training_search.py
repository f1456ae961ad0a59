# SPDX-License-Identifier: Apache-2.0
"""Tests of searches with real trials of a few steps: shared, killed, resumed."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml
from mlflow import MlflowClient
from repository import ROOT
from training_data import write_experiment, write_folders

from segmentation_node.errors import SegmentationError, SettingError
from training import search as searching
from training import train as trainer
from training.config import Experiment, load_experiment
from training.search import Options, main, search
from training.search_space import load_space, variants
from training.tracking import PARENT_TAG, Run, client

SPACE = {
    'learning_rate': {'low': '1e-4', 'high': '1e-2', 'log': True},
    'epochs': [2, 3],
    'network.decoder_channels': [[16, 8, 8, 8, 8], [8, 8, 8, 8, 8]],
}


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with data, an experiment with two steps per epoch, and a search space."""
    root = tmp_path_factory.mktemp('search')
    for split, count in (('train', 4), ('val', 2)):
        write_folders(root / 'streets', split, count)
    network = {'encoder_name': 'tu-mobilenetv3_small_050'}
    write_experiment(root / 'experiment.yaml', root, family='unet', network=network, ema=0)
    (root / 'space.yaml').write_text(yaml.safe_dump(SPACE), encoding='utf-8')
    return root


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a separate store and a single thread, like the processes of the test.

    With more threads, sums are added in another order and rounded differently.
    """
    monkeypatch.chdir(place)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def command(folder: str, *options: str) -> list[str]:
    return ['experiment.yaml', folder, '--space', 'space.yaml', *options]


def start(place: Path, *arguments: str) -> 'subprocess.Popen[str]':
    return subprocess.Popen(
        [sys.executable, '-m', 'training.search', *arguments],
        cwd=place,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / 'trials.csv').open(encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def tried(folder: Path) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in SPACE) for row in rows_of(folder)]


@pytest.fixture(scope='module')
def shared(place: Path) -> Path:
    """Search of four trials by two processes that start at the same time."""
    both = [start(place, *command('runs/shared', '--trials', '4')) for _ in range(2)]
    told = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], '\n'.join(told)
    return place / 'runs/shared'


def test_two_processes_add_up_to_the_trials_asked_for(shared: Path) -> None:
    study = optuna.load_study(study_name='shared', storage=f'sqlite:///{shared}/optuna.db')
    assert [trial.state.name for trial in study.trials] == ['COMPLETE'] * 4
    assert [row['trial'] for row in rows_of(shared)] == ['0', '1', '2', '3']
    assert len(set(tried(shared))) == 4
    assert (shared / 'trials.png').stat().st_size > 5000


def test_trials_lie_inside_the_run_of_the_search(shared: Path) -> None:
    store = MlflowClient(f'sqlite:///{shared.parent}/mlflow.db')
    study = store.get_experiment_by_name('segmentation')
    assert study is not None
    runs = store.search_runs([study.experiment_id])
    (parent,) = (run for run in runs if run.info.run_name == 'shared search')
    inside = [run for run in runs if run.data.tags.get(PARENT_TAG) == parent.info.run_id]
    assert sorted(run.info.run_id for run in inside) == sorted(
        row['mlflow_run'] for row in rows_of(shared)
    )
    assert {run.info.status for run in [parent, *inside]} == {'FINISHED'}
    best = max(rows_of(shared), key=lambda row: float(row['mIoU']))
    assert parent.data.metrics['best_mIoU'] == pytest.approx(float(best['mIoU']))
    assert parent.data.tags['best.trial'] == best['trial']
    assert parent.data.tags['best.learning_rate'] == best['learning_rate']
    assert parent.data.params['learning_rate'] == '0.0001 to 0.01, log'
    kept = {f.path for f in store.list_artifacts(parent.info.run_id)}
    assert kept == {'best.yaml', 'parallel.png', 'trials.csv', 'trials.png'}


def test_best_experiment_trains_to_the_score_of_its_trial(shared: Path, place: Path) -> None:
    best = max(rows_of(shared), key=lambda row: float(row['mIoU']))
    assert trainer.main([str(shared / 'best.yaml'), 'runs/best']) == 0
    experiment = load_experiment(shared / 'best.yaml', [])
    assert str(experiment.learning_rate) == best['learning_rate']
    history = Run(place / 'runs/best').history()
    assert len(history) == experiment.epochs == int(best['epochs'])
    assert max(row['mIoU'] for row in history) == pytest.approx(float(best['mIoU']))


def test_killed_search_goes_on_in_the_midst_of_its_trial(shared: Path, place: Path) -> None:
    folder = place / 'runs/killed'
    process = start(place, *command('runs/killed', '--trials', '2'))
    until = time.monotonic() + 300
    while not (folder / 'trial_000/state.ckpt').is_file():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 'trial_001' not in {path.name for path in folder.iterdir()}
    before = (folder / 'trial_000/metrics.jsonl').read_text(encoding='utf-8')

    assert main(command('runs/killed', '--trials', '2')) == 0
    assert [row['state'] for row in rows_of(folder)] == ['finished'] * 2
    assert tried(folder) == tried(shared)[:2]
    assert [row['mIoU'] for row in rows_of(folder)] == [row['mIoU'] for row in rows_of(shared)[:2]]
    assert not list(folder.glob('trial_*/state.ckpt'))  # they are no longer needed
    after = (folder / 'trial_000/metrics.jsonl').read_text(encoding='utf-8')
    assert after.startswith(before.splitlines()[0])


def test_failed_trial_is_recorded_and_the_search_goes_on(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / 'wild.yaml').write_text('learning_rate: [1.0e-3, 1.0e+30]', encoding='utf-8')
    arguments = ['experiment.yaml', 'runs/wild', 'gradient_clip=0', '--space', 'wild.yaml']
    assert main([*arguments, '--trials', '3']) == 0
    rows = rows_of(place / 'runs/wild')
    by_rate = {float(row['learning_rate']): row for row in rows}
    assert by_rate[1e-3]['state'] == 'finished'
    assert by_rate[1e30]['state'] == 'failed'
    assert 'loss is' in by_rate[1e30]['error']
    assert load_experiment(place / 'runs/wild/best.yaml', []).learning_rate == 1e-3
    assert 'best mIoU' in capfd.readouterr().out


def scored_by_rate(experiment: Experiment, folder: Path, **more: Any) -> float:
    """Stand-in for training in tests that need only its scores."""
    score = 1 - experiment.learning_rate * 50
    for epoch in range(experiment.epochs):
        more['report'](epoch, score)
    return score


def test_trials_below_the_median_are_pruned(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, 'train', scored_by_rate)
    options = Options(6, 'tpe', prune=True)
    rows = search(Path('experiment.yaml'), Path('runs/pruned'), [], Path('space.yaml'), options)
    states = [row.state for row in rows]
    assert len(states) == 6
    assert set(states) == {'finished', 'pruned'}
    assert states[:2] == ['finished'] * 2


def test_best_trial_of_a_search_that_goes_on_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.6])
    monkeypatch.setattr(searching, 'train', lambda *_, **__: next(scores))
    for trials in ('2', '3'):  # the second command finds a better trial
        assert main(command('runs/later', '--trials', trials)) == 0
    tags = client().get_run(Run(place / 'runs/later').id).data.tags
    assert (tags['best.trial'], tags['search.trials']) == ('2', '3')
    assert Run(place / 'runs/later').description()['tags']['best.trial'] == '2'


def test_interrupted_search_keeps_its_trial_open(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any, **__: Any) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(searching, 'train', stopped)
    assert main(command('runs/stopped', '--trials', '1')) == 130
    assert 'repeat the command to resume' in capsys.readouterr().err
    monkeypatch.setattr(searching, 'train', scored_by_rate)
    assert main(command('runs/stopped', '--trials', '1')) == 0
    assert [row['state'] for row in rows_of(place / 'runs/stopped')] == ['finished']


def test_full_disk_ends_the_search_and_costs_no_trial(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> float:
        raise SegmentationError('state.ckpt cannot be written') from OSError(28, 'No space left')

    monkeypatch.setattr(searching, 'train', full)
    assert main(command('runs/full', '--trials', '2')) == 1
    assert 'state.ckpt cannot be written' in capsys.readouterr().err
    monkeypatch.setattr(searching, 'train', scored_by_rate)
    assert main(command('runs/full', '--trials', '2')) == 0
    assert [row['state'] for row in rows_of(place / 'runs/full')] == ['finished'] * 2


def test_other_search_in_the_same_folder_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(searching, 'train', scored_by_rate)
    assert main(command('runs/other', '--trials', '1')) == 0
    assert main(command('runs/other', '--trials', '1', '--seed', '5')) == 1
    assert 'different fields: seed' in capsys.readouterr().err
    assert main([*command('runs/other', '--trials', '1'), 'patience=3']) == 1
    assert 'different fields: patience' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('space', 'told'),
    [
        ('learning_rat: [1, 2]', 'did you mean learning_rate'),
        ('learning_rate: {low: 1e-2, high: 1e-3}', 'low must be less than high'),
        ('learning_rate: {low: -1, high: 1}', 'greater than 0'),
        ('weight_decay: {low: 0, high: 1, log: true}', 'above 0'),
        ('learning_rate: {low: 1e-4, high: .inf}', 'finite number'),
        ('learning_rate: {low: 1e-4, hihg: 1e-3}', 'not hihg'),
        ('epochs: {low: 1.5, high: 4}', 'integer'),
        ('epochs: {low: 1, high: 4, step: 0.5}', 'whole number'),
        ('epochs: []', 'distinct choices'),
        ('optimizer: [adamw, adamw]', 'distinct choices'),
        ('optimizer: [adamw, adam]', 'adam'),
        ('optimizer: {low: 1, high: 2}', 'optimizer'),
        ('epochs: 4', 'expected a range'),
        ('label_scheme: [cityscapes8, camvid11]', 'the same in all trials'),
        ('[]', 'must contain fields'),
        ('a: [', 'cannot be read'),
    ],
)
def test_nonsense_in_a_space_is_told_before_anything_starts(
    place: Path, space: str, told: str
) -> None:
    (place / 'nonsense.yaml').write_text(space, encoding='utf-8')
    variant = variants(place / 'experiment.yaml', [])
    with pytest.raises(SettingError, match=told) as caught:
        load_space(place / 'nonsense.yaml', variant)
    assert 'nonsense.yaml' in str(caught.value)


def test_network_that_cannot_be_built_costs_no_trial(place: Path) -> None:
    with pytest.raises(SettingError, match='encoder_nam'):
        search(place / 'experiment.yaml', place / 'runs/built', ['network.encoder_nam=resnet18'])
    assert not (place / 'runs/built').exists()


def test_several_devices_are_refused(place: Path) -> None:
    with pytest.raises(SettingError, match='devices=1'):
        search(place / 'experiment.yaml', place / 'runs/devices', ['devices=2'])
    assert not (place / 'runs/devices').exists()
