# SPDX-License-Identifier: Apache-2.0
"""Tests of searches in the report and in the published results."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from training_data import fields

from training.compare import main as compare
from training.config import Experiment
from training.parallel_coordinates import PARALLEL_FILE, write_parallel
from training.publish import main as publish
from training.report.records import read_records
from training.report.searches import chapters
from training.report.selection import choose
from training.search_results import Row, cells, read_table, write_best, write_table
from training.search_space import Choices, Range, Space
from training.tracking import SEARCH_TAG, Run, client
from training.tracking import main as deliver

SPACE: Space = {
    'learning_rate': Range(1e-4, 1e-2, log=True),
    'weight_decay': Range(1e-4, 1e-1, log=True),
    'epochs': Choices((4, 8)),
    'optimizer': Choices(('adamw', 'sgd')),
}
HOSTILE = '<script>alert(1)</script>'


def row(number: int, miou: float | None, **values: Any) -> Row:
    usual = {'learning_rate': 0.00123456, 'weight_decay': 0.01, 'epochs': 4, 'optimizer': 'sgd'}
    error = '' if miou is not None else 'loss is nan, at step 3; "lower" it'
    state = 'failed' if miou is None else 'finished'
    return Row(number, state, miou, usual | values, 61.04, f'run{number}', error)


ROWS = [row(0, 0.51234), row(1, None, optimizer='adamw'), row(2, 0.625, epochs=8)]


@pytest.fixture(scope='module', autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Working directory with its own MLflow store."""
    folder = tmp_path_factory.mktemp('searches')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv('MLFLOW_TRACKING_URI', raising=False)
        yield folder


def search(
    name: str, rows: list[Row] = ROWS, status: str = 'FINISHED', *, study: str = 'searches'
) -> Run:
    """Write and track a search as the command does."""
    run = Run(Path('runs', name))
    params = {name: str(dimension) for name, dimension in SPACE.items()}
    run.start(study, f'{name} search', params, {SEARCH_TAG: '3'})
    plain = {'seed': 0, 'space': {name: d.plain() for name, d in SPACE.items()}}
    (run.folder / 'search.yaml').write_text(yaml.safe_dump(plain), encoding='utf-8')
    (run.folder / 'experiment.yaml').write_text('family: unet\n', encoding='utf-8')
    write_table(run.artifacts / 'trials.csv', rows, SPACE)
    write_parallel(run.artifacts / PARALLEL_FILE, rows, SPACE)
    scored = [row for row in rows if row.miou is not None]
    if scored:
        experiment = Experiment(**fields(run.folder))
        write_best(run.artifacts / 'best.yaml', experiment, scored[-1], rows)
    run.log(0, {'best_mIoU': 0.6})
    run.finish(status)
    return run


def model(name: str, study: str = 'searches') -> Run:
    run = Run(Path('runs', name))
    run.start(study, name, {'family': 'unet'}, {'val_fingerprint': 'aaaa'})
    run.log(0, {'mIoU': 0.5})
    run.finish('FINISHED')
    return run


@pytest.fixture(scope='module')
def searched(place: Path) -> Path:
    """Folder of a search, in a study with one run, `runs/model`."""
    model('model', 'whole')
    return search('searched', study='whole').folder


# Table and picture


def test_table_gives_back_what_was_written(tmp_path: Path) -> None:
    write_table(tmp_path / 'trials.csv', ROWS, SPACE)
    back = read_table((tmp_path / 'trials.csv').read_bytes())
    assert [vars(r) | {'seconds': 61.04} for r in back] == [vars(r) for r in ROWS]


@pytest.mark.parametrize(
    'content', [b'', b'a,b\n1,2\n', b'trial,state,mIoU,seconds,mlflow_run,error\n1\n', b'\xff',
                b'trial,state,mIoU,seconds,mlflow_run,error\nx,finished,0.5,1,,\n']
)  # fmt: skip
def test_other_tables_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r'table|decode|invalid literal'):
        read_table(content)


def test_trials_are_sorted_by_score() -> None:
    assert [line[0] for line in cells(ROWS, list(SPACE))] == ['trial', '2', '0', '1']


def colors_of(path: Path) -> np.ndarray[Any, Any]:
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture


@pytest.mark.parametrize(
    'rows', [ROWS, ROWS[:1], ROWS[1:2], [], [row(i, 0.5) for i in range(30)]], ids=len
)
def test_every_search_has_a_picture(tmp_path: Path, rows: list[Row]) -> None:
    write_parallel(tmp_path / 'picture.png', rows, SPACE)
    picture = colors_of(tmp_path / 'picture.png')
    assert picture.shape[1] > picture.shape[0] > 300
    saturation = picture.max(axis=2) - picture.min(axis=2)
    assert (saturation > 60).any() == any(r.miou is not None for r in rows)


def test_line_of_a_trial_goes_through_its_values(tmp_path: Path) -> None:
    """Trials at opposite ends of all fields fill other halves of the picture."""
    low = row(0, 0.5, learning_rate=1e-4, weight_decay=1e-4, epochs=4, optimizer='adamw')
    high = row(1, 0.9, learning_rate=1e-2, weight_decay=1e-1, epochs=8, optimizer='sgd')
    write_parallel(tmp_path / 'picture.png', [low, high], SPACE)
    picture = colors_of(tmp_path / 'picture.png').astype(int)
    colored = picture.max(axis=2) - picture.min(axis=2) > 60
    middle = colored.shape[0] // 2
    assert colored[:middle].any()
    assert colored[middle:].any()
    assert not colored[middle - 40 : middle + 40].any()


# Report


def chapter_texts(page: str) -> str:
    return page.partition('id="searches"')[2].partition('</section>')[0]


@pytest.fixture(scope='module')
def page(searched: Path) -> str:
    assert compare(['runs/model', str(searched), '--output', 'page.html']) == 0
    return Path('page.html').read_text(encoding='utf-8')


def test_search_has_a_chapter_and_no_column(page: str) -> None:
    assert 'Report of one run' in page
    chapter = chapter_texts(page)
    trials = chapter.partition('Trials of searched search by score')[2]
    order = [trials.index(text) for text in ('2 (chosen)', '0.6250', '0.5123', 'failed')]
    assert order == sorted(order)
    assert '<td class="text">0.0001 to 0.01, log</td><td class="text">0.00123</td>' in chapter
    assert '<td class="text">one of 4, 8</td><td class="text">8</td>' in chapter
    assert 'is 11.3 points of mIoU above the second' in chapter
    assert 'too few to say which field matters most' in chapter
    assert 'alt="Parallel coordinates of the trials of searched search' in chapter


def test_study_shows_its_searches(searched: Path) -> None:
    assert compare(['--study', 'whole', '--output', 'study.html', '--remark', 'A <remark>.']) == 0
    page = Path('study.html').read_text(encoding='utf-8')
    assert '2 (chosen)' in chapter_texts(page)
    assert '<p class="remark">A &lt;remark&gt;.</p>' in page


def test_searches_alone_are_refused(searched: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([str(searched), '--output', 'alone.html']) == 1
    assert 'expected at least one trained run, but these are searches' in capsys.readouterr().err
    assert not Path('alone.html').exists()


def test_unfit_files_of_a_search_are_told(place: Path) -> None:
    runs = {name: search(name, study='unfit') for name in ('open', 'cut', 'odd', 'text')}
    model('beside', 'unfit')
    write_table(runs['open'].artifacts / 'trials.csv', ROWS[:2], SPACE)
    (runs['cut'].artifacts / 'trials.csv').write_text('trial,state\n')
    (runs['odd'].artifacts / PARALLEL_FILE).write_bytes(b'GIF89a')
    hostile = [row(0, 0.5, optimizer=HOSTILE)]
    write_table(runs['text'].artifacts / 'trials.csv', hostile, SPACE)
    for run in runs.values():
        run.finish('FINISHED')
    store = client()
    found, missing = chapters(read_records(store, choose(store, [], 'unfit').searches))
    assert [chapter.name for chapter in found] == ['open search', 'odd search', 'text search']
    assert found[0].remarks[0] == '2 of 3 trials have ended; the choice is not final.'
    assert found[1].picture is None
    assert missing == ['cut search has no readable trials.csv: it is not a table of trials.']
    assert compare(['--study', 'unfit', '--output', 'unfit.html']) == 0
    assert '<script' not in Path('unfit.html').read_text(encoding='utf-8')


# Published


def test_published_search_has_table_picture_and_choice(searched: Path, tmp_path: Path) -> None:
    assert publish([str(searched), '--results', str(tmp_path)]) == 0
    record = tmp_path / 'searches/searched'
    names = {p.relative_to(record).as_posix() for p in record.rglob('*') if p.is_file()}
    assert names == {
        'search.yaml', 'experiment.yaml', 'metrics.jsonl', 'run.json', 'artifacts/trials.csv',
        'artifacts/parallel.png', 'artifacts/best.yaml',
    }  # fmt: skip
    text = (tmp_path / 'README.md').read_text(encoding='utf-8')
    section = text.partition('## Search searched\n')[2].splitlines()
    assert section[1].startswith('Trial 2: learning_rate 0.00123, weight_decay 0.01, epochs 8,')
    table = [line for line in section if line.startswith('|')]
    assert [line.split(' | ')[0] for line in table[2:]] == ['| 2', '| 0', '| 1']
    [link] = [line for line in section if line.startswith('![')]
    picture = tmp_path / link.partition('(')[2].rstrip(')')
    width, height = struct.unpack('>II', picture.read_bytes()[16:24])
    assert width > height


def test_published_search_becomes_a_tracked_search_again(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert publish([str(searched), '--results', str(tmp_path)]) == 0
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/other.db')
    assert deliver([str(tmp_path / 'searches/searched')]) == 0
    assert deliver(['runs/model']) == 0
    assert compare(['--study', 'whole', '--output', 'again.html']) == 0
    assert '2 (chosen)' in chapter_texts(Path('again.html').read_text(encoding='utf-8'))


def test_unfit_searches_are_not_published(
    searched: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ['--results', str(tmp_path)]
    assert publish([str(search('killed', status='KILLED').folder), *results]) == 1
    assert 'complete the search' in capsys.readouterr().err
    assert publish([str(search('failed', ROWS[1:2]).folder), *results]) == 1
    assert 'without artifacts/best.yaml' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert publish([str(searched), *results]) == 0
    (tmp_path / 'searches/searched/artifacts/trials.csv').write_text('a,b\n')
    assert publish(results) == 1
    assert 'publish the search again' in capsys.readouterr().err
