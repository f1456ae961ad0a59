# SPDX-License-Identifier: Apache-2.0
"""Tests of training in two processes, on one and on two machines: the result is that of one."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs as runs
from mlflow import MlflowClient
from repository import ROOT
from training_data import write_cityscapes, write_experiment, write_folders

from training.frame_counts import parse_frame_counts
from training.processes import is_first_process

#: Without batch statistics, which would differ between the processes.
NETWORK = {
    'encoder_name': 'tu-convnext_atto', 'decoder_use_norm': False,
    'decoder_channels': [16, 8, 8, 8, 8],
}  # fmt: skip
TWO = ('devices=2', 'strategy=ddp')
#: Learning rate too small to change a weight.
STILL = ('learning_rate=1e-30', 'epochs=1')


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs, with their experiment."""
    root = tmp_path_factory.mktemp('place')
    write_folders(root / 'streets', 'val', 5, first=90)
    write_cityscapes(root / 'towns', 'train', 6)
    write_experiment(
        root / 'experiment.yaml', root, family='unet', network=NETWORK,
        train=[{'set': 'towns', 'split': 'train', 'share': 4}],
    )  # fmt: skip
    return root


@pytest.fixture(scope='module')
def one(place: Path) -> Path:
    """Folder of a run in a single process."""
    assert runs.run(['experiment.yaml', 'runs/one'], place)[0] == 0
    return place / 'runs' / 'one'


def command(place: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-m', 'training.train', 'experiment.yaml', f'runs/{name}', *overrides],
        capture_output=True, text=True, timeout=240, check=False, cwd=place, env=environment,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def confusion(folder: Path) -> Any:
    return json.loads((folder / 'artifacts' / 'confusion.json').read_text(encoding='utf-8'))


def test_the_same_weights_score_the_same(place: Path) -> None:
    done = command(place, 'still_two', *TWO, *STILL)
    assert done.returncode == 0, done.stderr
    assert runs.run(['experiment.yaml', 'runs/still_one', *STILL], place)[0] == 0
    one, two = place / 'runs' / 'still_one', place / 'runs' / 'still_two'
    assert confusion(one) == confusion(two)
    assert sum(map(sum, confusion(one)['counts'])) == 5 * 61 * 96  # each image once
    counts = [(folder / 'artifacts' / 'frame_counts.json').read_bytes() for folder in (one, two)]
    assert counts[0] == counts[1]
    [frames] = parse_frame_counts(counts[0]).values()
    assert frames.names == tuple(f'{i:03}' for i in range(90, 95))
    for key in ('mIoU', 'Dice', 'pixel_acc'):
        assert rows(one)[0][key] == rows(two)[0][key]
    for key in ('val_loss', 'train_loss'):
        assert rows(one)[0][key] == pytest.approx(rows(two)[0][key], rel=1e-5)
    assert rows(two)[0]['imgs_per_sec'] > 0  # although it has only three images


def test_training_comes_to_the_same(place: Path, one: Path) -> None:
    """Gradients are summed in another order, so weights agree to a tenth of a step."""
    done = command(place, 'two', *TWO)
    assert done.returncode == 0, done.stderr
    assert_same_outcome(one, place / 'runs' / 'two')
    assert done.stderr == ''
    assert_single_output(place, 'two', done.stdout)


def assert_same_outcome(one: Path, two: Path) -> None:
    for ours, theirs in zip(rows(one), rows(two), strict=True):
        assert ours['train_loss'] == pytest.approx(theirs['train_loss'], rel=1e-4)
        assert ours['val_loss'] == pytest.approx(theirs['val_loss'], rel=1e-3)
        assert ours['mIoU'] == pytest.approx(theirs['mIoU'], abs=2e-3)
    states = [torch.load(f / 'state.ckpt', weights_only=True)['state_dict'] for f in (one, two)]
    for name, tensor in states[0].items():
        assert torch.allclose(tensor, states[1][name], atol=1e-4), name


def assert_single_output(place: Path, name: str, output: str) -> None:
    """Check that nothing is printed, written or sent twice."""
    said = output.splitlines()
    assert [line[:12] for line in said] == ['epoch 1 of 2', 'epoch 2 of 2', 'best mIoU 0.']
    folder = place / 'runs' / name
    assert [row['epoch'] for row in rows(folder)] == [0, 1]
    assert {p.name for p in folder.iterdir()} == {
        'artifacts', 'checkpoint', 'experiment.yaml', 'metrics.jsonl', 'run.json', 'state.ckpt',
    }  # fmt: skip
    store = MlflowClient(f'sqlite:///{place}/runs/mlflow.db')
    study = store.get_experiment_by_name('segmentation')
    assert study is not None
    names = [run.info.run_name for run in store.search_runs([study.experiment_id])]
    assert names.count(name) == 1


def test_mistake_is_told_once(place: Path) -> None:
    done = command(place, 'wrong', *TWO, 'val={streets val: {set: streets, split: val, count: 1}}')
    assert done.returncode == 1
    assert done.stderr == (
        'error: validation set streets val has 1 images for 2 processes; expected at least one '
        'image per process: add images or use fewer devices\n'
    )


def machines(
    place: Path, names: tuple[str, str], *accidents: runs.Accident | None
) -> list[tuple[int, str]]:
    """Run the trainer as two machines do, each in its folder; returns statuses and outputs."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    started = [
        runs.Started(
            ['experiment.yaml', f'runs/{name}', 'num_nodes=2', 'strategy=ddp'], place, accident,
            f'said_{rank}.txt',
            {'NODE_RANK': str(rank), 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port},
        )
        for rank, (name, accident) in enumerate(
            zip(names, accidents or (None, None), strict=True)
        )
    ]  # fmt: skip
    return [process.wait() for process in started]


def test_two_machines_come_to_the_same_even_if_one_fails(place: Path, one: Path) -> None:
    """The second machine is killed in the second epoch, and both repeat the command."""
    (status, _), (killed, said) = machines(
        place, ('nodes', 'nodes'), None, runs.kill_in_the_second_epoch
    )
    assert (killed, said) == (-9, '')
    assert status == 1  # instead of waiting for the other machine
    assert [row['epoch'] for row in rows(place / 'runs' / 'nodes')] == [0]
    first, second = machines(place, ('nodes', 'nodes'))
    assert (first[0], second) == (0, (0, ''))
    assert_same_outcome(one, place / 'runs' / 'nodes')
    assert_single_output(place, 'nodes', 'epoch 1 of 2\n' + first[1])


def test_machines_that_do_not_share_the_folder(place: Path, one: Path) -> None:
    experiment = (one / 'experiment.yaml').read_text(encoding='utf-8')
    apart = place / 'runs' / 'apart'
    shutil.copytree(one, apart)
    (apart / 'experiment.yaml').write_text(experiment + 'num_nodes: 2\nstrategy: ddp\n')
    before = (apart / 'metrics.jsonl').read_bytes()
    first, second = machines(place, ('apart', 'elsewhere'))
    assert first[0] == 1
    assert first[1] == (
        'error: runs/apart is not the same folder on all machines: it has 0 to 2 complete epochs; '
        'use a folder on a file system that they share\n'
    )
    assert second == (1, '')
    assert (apart / 'metrics.jsonl').read_bytes() == before


@pytest.mark.parametrize(
    ('environment', 'says'),
    [
        ({}, 'num_nodes is 2, but MASTER_ADDR, MASTER_PORT, NODE_RANK are not set; start'),
        ({'NODE_RANK': '0', 'MASTER_PORT': '9'}, 'num_nodes is 2, but MASTER_ADDR is not set;'),
        (
            {'RANK': '0', 'WORLD_SIZE': '3', 'TORCHELASTIC_RUN_ID': 'x', 'LOCAL_RANK': '0'},
            'num_nodes 2 are not available on this machine: .*does not match the world size',
        ),
    ],
)
def test_machine_that_cannot_find_the_others(
    place: Path, environment: dict[str, str], says: str
) -> None:
    arguments = ['experiment.yaml', 'runs/alone', 'num_nodes=2', 'strategy=ddp']
    status, said = runs.Started(arguments, place, environment=environment).wait()
    assert status == 1
    assert re.match(f'error: .*{says}', said)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ('environment', 'first'),
    [
        ({}, True),
        ({'LOCAL_RANK': '1'}, False),
        ({'NODE_RANK': '1', 'LOCAL_RANK': '0'}, False),
        ({'NODE_RANK': '0', 'LOCAL_RANK': '0'}, True),
        ({'SLURM_PROCID': '3'}, False),
        ({'SLURM_PROCID': '1', 'RANK': '0', 'LOCAL_RANK': '0'}, True),  # torchrun below srun
        ({'RANK': '4', 'LOCAL_RANK': '0', 'GROUP_RANK': '1'}, False),
    ],
)
def test_first_process_is_known_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], first: bool
) -> None:
    for name in ('RANK', 'SLURM_PROCID', 'NODE_RANK', 'LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first
