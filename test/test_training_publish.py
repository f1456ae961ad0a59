# SPDX-License-Identifier: Apache-2.0
"""Records of runs that stay with the code."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_data import DEEPLAB, fields, write_folders

from training.config import Experiment
from training.publish import RESULTS, main, table
from training.tracking import Run, client
from training.tracking import main as deliver
from training.train import train


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('place')


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)


@pytest.fixture
def run(place: Path) -> Path:
    folder = place / 'runs/deeplab'
    if not folder.exists():
        for split, count in (('train', 4), ('val', 2)):
            write_folders(place / 'streets', split, count)
        train(Experiment(**fields(place, network=DEEPLAB, epochs=1)), folder)
    return folder


def test_record_has_figures_and_no_image(run: Path, tmp_path: Path) -> None:
    assert main([str(run), '--results', str(tmp_path)]) == 0
    record = tmp_path / 'deeplab'
    names = {p.relative_to(record).as_posix() for p in record.rglob('*') if p.is_file()}
    assert names == {'experiment.yaml', 'metrics.jsonl', 'run.json', 'artifacts/confusion.json'}
    best: dict[str, Any] = Run(run).history()[0]
    page = (tmp_path / 'README.md').read_text(encoding='utf-8')
    assert '## cityscapes8' in page
    assert f'| deeplab | 1 of 1 | {100 * best["mIoU"]:.1f} |' in page


def test_record_becomes_a_tracked_run_again(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(run), '--results', str(tmp_path)]) == 0
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/other.db')
    assert deliver([str(tmp_path / 'deeplab')]) == 0
    found = client().get_run(Run(tmp_path / 'deeplab').id)
    assert found.data.params['family'] == 'deeplabv3plus'
    assert found.data.metrics['mIoU'] == pytest.approx(Run(run).history()[-1]['mIoU'])


def test_run_that_has_not_ended_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / 'broken'
    broken.mkdir()
    state = json.loads((run / 'run.json').read_text(encoding='utf-8')) | {'status': 'KILLED'}
    (broken / 'run.json').write_text(json.dumps(state), encoding='utf-8')
    assert main([str(broken), '--results', str(tmp_path / 'results')]) == 1
    assert 'is KILLED, expected a finished one' in capsys.readouterr().err
    assert main([str(tmp_path), '--results', str(tmp_path / 'results')]) == 1
    assert 'no folder of a run' in capsys.readouterr().err


def test_table_is_that_of_the_records() -> None:
    assert table() in (RESULTS / 'README.md').read_text(encoding='utf-8')
