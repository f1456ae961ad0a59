# SPDX-License-Identifier: Apache-2.0
"""Tests of the robustness benchmark with real frames, a real network and real processes."""

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from fitted_model import write_fitted_model
from repository import ROOT
from training_data import write_folders

from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.paths import bundled_models_dir
from training.card import main as rewrite_card
from training.card import robustness_lines
from training.corruptions.kinds import EIGHT, GROUPS, KINDS, SEVERITIES, Case, cases_of
from training.evaluate import main as evaluate
from training.robustness import main
from training.robustness_charts import write_chart
from training.robustness_report import card_section, eight_table, report, summary_table
from training.robustness_results import (
    CLEAN,
    FIGURES,
    ModelRobustness,
    RobustnessResults,
    find_result,
    percent,
)

FRAMES = 3
FILES = {'robustness.json', 'report.md', 'robustness.png', 'corruptions.png'}


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint that classifies some pixels correctly."""
    return write_fitted_model(tmp_path_factory.mktemp('models') / 'fitted')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with a small CamVid."""
    root = tmp_path_factory.mktemp('data')
    write_folders(root / 'camvid', 'val', FRAMES)
    return root


def options(data: Path, *more: str) -> list[str]:
    return [
        '--set', 'camvid', '--split', 'val', '--data-root', str(data), '--runtime', 'torch',
        '--device', 'cpu', '--precision', 'fp32', '--quiet', *more,
    ]  # fmt: skip


def content_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / 'robustness.json').read_text('utf-8'))
    return content


SOME = ('--kinds', 'contrast,scale_down,gaussian_noise', '--severities', '1,5')


@pytest.fixture(scope='module')
def written(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of three kinds."""
    folder = tmp_path_factory.mktemp('results') / 'some'
    assert main([str(model), *options(data, *SOME, '--output', str(folder))]) == 0
    return folder


def test_folder_has_figures_report_and_pictures(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == FILES
    content = content_of(written)
    assert content['data'] == 'camvid val'
    assert content['frames'] == FRAMES
    entry = content['models']['fitted']
    assert (entry['runtime'], entry['precision']) == ('torch', 'fp32')
    assert set(entry['kinds']) == {'clean', 'contrast', 'scale_down', 'gaussian_noise'}
    assert all(set(f) == set(FIGURES) for k in entry['kinds'].values() for f in k.values())
    noisy = entry['kinds']['gaussian_noise']
    assert noisy['5']['mIoU'] < noisy['1']['mIoU'] < entry['kinds']['clean']['0']['mIoU']
    for name in ('robustness.png', 'corruptions.png'):
        picture = cv2.imread(str(written / name))
        assert picture is not None
        assert picture.std() > 10
    page = (written / 'report.md').read_text(encoding='utf-8')
    assert (
        f'| contrast | digital | {100 * entry["kinds"]["contrast"]["1"]["mIoU"]:.1f} | - |' in page
    )


def test_clean_figures_are_those_of_the_evaluation(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    assert evaluate([str(model), *options(data, '--output', str(tmp_path / 'out'))]) == 0
    scores = json.loads((tmp_path / 'out' / 'scores.json').read_text(encoding='utf-8'))
    clean = content_of(written)['models']['fitted']['kinds']['clean']['0']
    assert all(clean[name] == scores['figures'][name] for name in ('mIoU', 'pixel_acc', 'ECE'))


def test_continued_results_are_those_of_one_run(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    for kinds in ('contrast', 'contrast,scale_down', 'contrast,scale_down,gaussian_noise'):
        more = ['--kinds', kinds, '--severities', '1,5', '--output', str(tmp_path)]
        assert main([str(model), *options(data, *more)]) == 0
    assert content_of(tmp_path) == content_of(written)


def test_measured_cases_are_not_measured_again(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written, tmp_path / 'copy'))
    content = content_of(folder)
    content['models']['fitted']['kinds']['contrast']['5']['mIoU'] = 0.123
    (folder / 'robustness.json').write_text(json.dumps(content))
    # The runtime of the results continues them.
    given = [word for word in options(data) if word not in {'--runtime', 'torch'}]
    assert main([str(model), *given, *SOME, '--output', str(folder)]) == 0
    assert content_of(folder) == content


def test_other_weights_of_the_same_name_are_measured_anew(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written, tmp_path / 'copy'))
    content = content_of(folder)
    content['models']['fitted']['digest'] = 'of other weights'
    (folder / 'robustness.json').write_text(json.dumps(content))
    assert main([str(model), *options(data, '--kinds', 'dark', '--severities', '2', '--output',
                                      str(folder))]) == 0  # fmt: skip
    entry = content_of(folder)['models']['fitted']
    assert entry['digest'] == find_checkpoint(str(model)).digest
    assert set(entry['kinds']) == {'clean', 'dark'}


def test_an_interrupted_run_continues(model: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'training.robustness', str(model)]
    more = options(data, '--kinds', 'noise', '--output', str(tmp_path / 'out'))
    loud = [word for word in more if word != '--quiet']
    with subprocess.Popen(
        [*command, *loud], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b'clean 0: mIoU fitted ')
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
    assert process.returncode == 130
    assert 'interrupted; repeat the command to continue' in said
    begun = content_of(tmp_path / 'out')['models']['fitted']['kinds']
    assert main([str(model), *more]) == 0
    done = content_of(tmp_path / 'out')['models']['fitted']['kinds']
    assert sum(map(len, done.values())) == 3 * 5 + 1
    assert all(done[kind][s] == f for kind, figures in begun.items() for s, f in figures.items())


def test_run_gets_the_results_among_its_artifacts(model: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / 'some_run'
    shutil.copytree(model, run / 'checkpoint')
    given = options(data, '--kinds', 'jpeg', '--severities', '1')
    assert main(['--run', str(run), *given]) == 0
    assert set(content_of(run / 'artifacts' / 'robustness')['models']) == {'some_run'}
    found = find_result(
        find_checkpoint(str(model)).digest, [tmp_path, run / 'artifacts/robustness']
    )
    assert found is not None
    assert ('jpeg', 1) in found[1].cases
    assert find_result('other', [run / 'artifacts/robustness']) is None


@pytest.mark.parametrize(
    ('given', 'says'),
    [
        ('m', 'expected frames to corrupt; give --set NAME --split NAME'),
        ('--set camvid --split val', 'expected models or a run'),
        ('m --run r --set camvid --split val', 'expected models or a run'),
        ('m --set camvid --split val', 'expected a folder for the results; add --output'),
        (
            'm --set camvid --split val --output o --subset s --count 3',
            'omit --count and --seed',
        ),
        ('m m --set camvid --split val --output o', 'm and m have the same name m'),
        (
            'm --set camvid --split val --output o --kinds rain',
            "unknown kind of corruption 'rain'",
        ),
        ('m --set camvid --split val --output data', 'data is not empty and has no robustness'),
        ('no_such --set camvid --split val --output o', "no model 'no_such'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], given: str, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(data)
    assert main([*given.split(), '--quiet']) == 1
    said = capsys.readouterr().err
    assert said.startswith('robustness: ')
    assert said.count('\n') == 1
    assert says in said


def test_results_of_other_frames_or_runtimes_are_not_mixed(
    written: Path, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ['--output', str(written)]
    assert main([str(model), *options(data, '--seed', '1', *output)]) == 1
    assert 'not of camvid val (3 frames, seed 1); choose another folder' in capsys.readouterr().err
    given = ['bf16' if word == 'fp32' else word for word in options(data, *output)]
    assert main([str(model), *given]) == 1
    assert 'figures of fitted by torch, cpu, fp32, not by torch, cpu' in capsys.readouterr().err


@pytest.mark.parametrize('given', ['0', '6', '1,x', ''])
def test_severities_are_numbers_from_1_to_5(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(['m', '--severities', given])
    assert 'expected numbers from 1 to 5' in capsys.readouterr().err


# Results, their means and tables.


def result(value: float = 0.5, cases: list[Case] | None = None) -> ModelRobustness:
    """All cases have the same figures, clean frames 0.8."""
    found = ModelRobustness('d1', 'cityscapes8', 'torch', 'cpu', 'fp32')
    for case in cases_of(GROUPS, SEVERITIES) if cases is None else cases:
        found.cases[case] = dict.fromkeys(FIGURES, value)
    found.cases[CLEAN] = dict.fromkeys(FIGURES, 0.8)
    return found


def test_means_by_hand() -> None:
    model = result(0.5)
    for severity in SEVERITIES:  # one of 15 kinds
        model.cases['jpeg', severity] = dict.fromkeys(FIGURES, 0.8)
    summary = model.summary()
    assert summary['clean'] == 0.8
    assert summary['common'] == pytest.approx((14 * 0.5 + 0.8) / 15)
    assert summary['of clean'] == pytest.approx(summary['common'] / 0.8)
    assert summary['digital'] == pytest.approx((3 * 0.5 + 0.8) / 4)
    assert summary['noise'] == summary['camera'] == 0.5
    assert summary['eight'] == pytest.approx((7 * 0.5 + 0.8) / 8)


def test_mean_of_an_incomplete_group_is_a_dash() -> None:
    model = result(cases=cases_of(['noise', 'eight'], SEVERITIES))
    summary = model.summary()
    assert math.isnan(summary['common'])
    assert math.isnan(summary['blur'])
    assert summary['noise'] == summary['eight'] == 0.5
    lines = summary_table({'net': model}).splitlines()
    assert lines[0] == (
        '| model | clean | 15 corruptions | share of clean | noise | blur | weather | digital | '
        'camera | light | eight kinds |'
    )
    assert lines[2] == '| net | 80.0 | - | - | 50.0 | - | - | - | - | - | 50.0 |'


def test_report_and_card_have_all_figures(tmp_path: Path) -> None:
    results = RobustnessResults('some frames', 7, 3, {'net': result(), 'other': result(0.25)})
    page = report(results, 'chart.png', 'sheet.png')
    assert all(f'\n| {kind} | ' in page for kind in KINDS)
    assert '![mIoU by model and kind](chart.png)' in page
    assert (
        eight_table(results.models).splitlines()[3] == f'| other |{" 25.0 |" * (len(EIGHT) + 1)}'
    )
    card = '\n'.join(card_section(results, results.models['net']))
    assert 'some frames (7 frames)' in card
    assert '| share of clean | 62.5 |' in card
    assert f'| night | {EIGHT["night"][1]} | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |' in card
    write_chart(results, tmp_path / 'chart.png')
    assert cv2.imread(str(tmp_path / 'chart.png')) is not None


def test_card_of_a_run_has_its_robustness(tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(bundled_models_dir() / 'unet', tmp_path / 'run/checkpoint'))
    before = (checkpoint / 'README.md').read_text(encoding='utf-8')
    assert rewrite_card([str(checkpoint)]) == 0
    assert ('## Robustness' in before) == bool(robustness_lines(checkpoint))
    measured = result()
    measured.digest = find_checkpoint(str(checkpoint)).digest
    folder = tmp_path / 'run' / 'artifacts' / 'robustness'
    RobustnessResults('some frames', 7, 3, {'run': measured}).write(folder)
    assert rewrite_card([str(checkpoint)]) == 0
    card = (checkpoint / 'README.md').read_text(encoding='utf-8')
    assert card.index('## Figures') < card.index('## Robustness') < card.index('## Recipe')
    assert '| 15 corruptions | 50.0 |' in card
    (folder / 'robustness.json').write_text('{}')
    assert rewrite_card([str(checkpoint)]) == 1


def test_chart_of_few_kinds_is_drawn(tmp_path: Path) -> None:
    write_chart(
        RobustnessResults('d', 1, 0, {'net': result(cases=[('fog', 3)])}), tmp_path / 'chart.png'
    )
    assert cv2.imread(str(tmp_path / 'chart.png')) is not None


def test_results_are_read_as_written(tmp_path: Path) -> None:
    results = RobustnessResults('some frames', 7, 3, {'net': result()})
    results.write(tmp_path)
    assert RobustnessResults.read(tmp_path) == results


@pytest.mark.parametrize(
    'change',
    [
        {'corruptions': 0}, {'models': []}, {'models': {'net': {}}}, {'frames': 'many'},
        {'models': {'net': {'digest': '', 'label_scheme': '', 'runtime': '', 'device': '',
                            'precision': '', 'kinds': {'jpeg': {'1': {'mIoU': 2}}}}}},
    ],
)  # fmt: skip
def test_invalid_results_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    RobustnessResults('some frames', 7, 3, {'net': result()}).write(tmp_path)
    content = content_of(tmp_path) | change
    (tmp_path / 'robustness.json').write_text(json.dumps(content))
    with pytest.raises(SettingError, match='choose another folder, or delete it'):
        RobustnessResults.read(tmp_path)


def test_percent_of_an_unknown_figure_is_a_dash() -> None:
    assert percent(math.nan) == '-'
    assert percent(0.12345) == '12.3'
