# SPDX-License-Identifier: Apache-2.0
"""Tests of published records of runs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from training_data import DEEPLAB, fields, write_folders

from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models, locate
from training import provenance
from training.compare import main as compare
from training.config import Experiment, save_experiment
from training.corruptions.kinds import SEVERITIES, cases_of
from training.publish import RESULTS, main, page
from training.report.summary import percent
from training.robustness_results import (
    CLEAN,
    IN_RUN,
    RESULTS_FILE,
    ModelRobustness,
    RobustnessResults,
)
from training.robustness_results import FIGURES as CASE_FIGURES
from training.tracking import Run, client
from training.tracking import main as deliver
from training.train import train

RECORDS = sorted(path.parent for path in RESULTS.glob('*/run.json'))


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
    assert names == {
        'experiment.yaml', 'metrics.jsonl', 'run.json', 'artifacts/confusion.json',
        'artifacts/frame_counts.json',
        'artifacts/checkpoint/segmentation.yaml',
    }  # fmt: skip
    best: dict[str, Any] = Run(run).history()[0]
    page = (tmp_path / 'README.md').read_text(encoding='utf-8')
    assert '## cityscapes8 on streets val (' in page
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
    assert 'status KILLED, expected FINISHED' in capsys.readouterr().err
    assert main([str(tmp_path), '--results', str(tmp_path / 'results')]) == 1
    assert 'is not the folder of a run' in capsys.readouterr().err


def test_page_is_that_of_the_records() -> None:
    assert f'{page()}\n' == (RESULTS / 'README.md').read_text(encoding='utf-8')


def record_spec(record: Path) -> Spec:
    return Spec.read(record / 'artifacts' / 'checkpoint' / SPEC_FILE)


@pytest.mark.parametrize('record', RECORDS, ids=lambda path: path.name)
def test_curves_of_the_records_are_those_of_their_runs(record: Path, tmp_path: Path) -> None:
    known = record_spec(record).provenance
    copy = shutil.copytree(record, tmp_path / 'run')
    assert known['curve'] == provenance.curve(Run(copy))
    assert known['loss_kind'] == Run(copy).description()['tags']['loss_kind']
    epochs = [point['epoch'] for point in known['curve']]
    assert epochs == sorted(set(epochs))
    assert epochs[0] >= 1
    assert epochs[-1] == known['recipe']['epochs']  # the whole run, and no epoch beyond it
    assert known['epoch'] in epochs


@pytest.mark.parametrize('model', bundled_models())
def test_bundled_models_carry_what_their_records_say(model: str) -> None:
    assert Spec.read(locate(model) / SPEC_FILE) == record_spec(RESULTS / f'{model}_camvid8')


@pytest.mark.parametrize('model', bundled_models())
def test_figures_are_rounded_once(model: str) -> None:
    """The README's table and that of the results show the same of one training."""
    figures = next(iter(Spec.read(locate(model) / SPEC_FILE).provenance['metrics'].values()))
    shown = (RESULTS / 'README.md').read_text(encoding='utf-8')
    [row] = [line for line in shown.splitlines() if line.startswith(f'| {model}_camvid8 | ')
             and ' of ' in line]  # fmt: skip
    kinds = (figures[kind] for kind in ('miou', 'dice', 'pixel_accuracy'))
    assert row.split(' | ')[2:] == [
        *(percent(value) for value in kinds),
        *(percent(value) for value in list(figures['class_iou'].values())[:-1]),
        f'{percent(list(figures["class_iou"].values())[-1])} |',
    ]


@pytest.mark.parametrize('given', ['.', 'deeplab', '../published/deeplab/'])
def test_records_are_not_published_over_themselves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], given: str,
) -> None:  # fmt: skip
    results = tmp_path / 'published'
    assert main([str(run), '--results', str(results)]) == 0
    monkeypatch.chdir(results / 'deeplab' if given == '.' else results)
    assert main([given, '--results', str(results)]) == 1
    assert 'is a published record' in capsys.readouterr().err
    assert (results / 'deeplab' / 'metrics.jsonl').is_file()


def test_run_is_published_from_within_its_folder(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    (tmp_path / 'other').mkdir()
    assert main(['.', '--results', str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {'README.md', 'deeplab', 'other'}


def test_run_without_scores_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run of a search is such a run."""
    search = tmp_path / 'search'
    search.mkdir()
    (search / 'run.json').write_text('{"status": "FINISHED"}')
    (search / 'metrics.jsonl').write_text('{"epoch": 0, "time_ms": 0, "best_mIoU": 0.5}\n')
    assert main([str(search), '--results', str(tmp_path / 'results')]) == 1
    assert 'of a search, publish one of its trials' in capsys.readouterr().err
    assert not (tmp_path / 'results').exists()


def finished(
    folder: Path, figures: dict[str, float], tags: dict[str, str] | None = None, **changes: Any
) -> Path:
    """Write a finished run of two epochs, with the first as the best; returns its folder."""
    experiment = Experiment(**fields(Path(), **changes))
    val = next(iter(experiment.val))
    folder.mkdir(parents=True)
    save_experiment(experiment, folder / 'experiment.yaml')
    params = {key: str(value) for key, value in provenance.params(experiment).items()}
    known = {
        'study': 'segmentation', 'name': folder.name, 'params': params, 'status': 'FINISHED',
        'tags': {'val_fingerprint': '0123456789ab', 'machine': 'a machine'} | (tags or {}),
    }  # fmt: skip
    (folder / 'run.json').write_text(json.dumps(known))
    rows = [
        {'epoch': epoch, 'time_ms': 1} | {k: v - epoch / 10 for k, v in figures.items()}
        for epoch in (0, 1)
    ]
    rows = [row | {f'mIoU/{val}': row['mIoU']} for row in rows]
    lines = ''.join(json.dumps(row) + '\n' for row in rows)
    (folder / 'metrics.jsonl').write_text(lines)
    return folder


CAMVID = {'camvid val': {'set': 'camvid', 'split': 'val'}}
FIGURES = {'mIoU': 0.7, 'Dice': 0.8, 'pixel_acc': 0.9}


@pytest.fixture
def published(place: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """Page of five runs, and their records."""
    runs = [
        finished(tmp_path / 'net_camvid8', FIGURES | {'IoU/flat': 0.9, 'IoU/sky': 0.5}),
        finished(
            tmp_path / 'net_camvid8_noaug', {'mIoU': 0.65, 'Dice': 0.8, 'pixel_acc': 0.9,
            'IoU/sky': 0.4, 'IoU/human': 0.3}, augment=False, crop_hw=[64, 96], data_root='other',
        ),
        finished(tmp_path / 'elsewhere', FIGURES, {'val_fingerprint': 'ffff'}),
        finished(
            tmp_path / 'net_camvid11', FIGURES | {'IoU/car': 0.8}, label_scheme='camvid11',
            val=CAMVID, initial_encoder='imagenet_package',
            train=[{'set': 'camvid', 'split': 'train', 'share': 2}],
        ),
        finished(tmp_path / 'streets11', FIGURES, label_scheme='camvid11'),
    ]  # fmt: skip
    results = tmp_path / 'results'
    assert main([*map(str, runs), '--results', str(results)]) == 0
    return results / 'README.md', [results / run.name for run in runs]


def test_scores_stand_in_the_columns_of_their_classes(published: tuple[Path, Any]) -> None:
    """Runs may have different classes."""
    text = published[0].read_text(encoding='utf-8')
    section = text.partition('## cityscapes8 on streets val (0123456789ab)')[2].splitlines()
    assert section[2:6] == [
        '| run | best epoch | mIoU | Dice | pixel accuracy | flat | sky | human |',
        '| --- | --- | --- | --- | --- | --- | --- | --- |',
        '| net_camvid8 | 1 of 2 | 70.0 | 80.0 | 90.0 | 90.0 | 50.0 | none |',
        '| net_camvid8_noaug | 1 of 2 | 65.0 | 80.0 | 90.0 | none | 40.0 | 30.0 |',
    ]
    other = text.partition('## cityscapes8 on streets val (ffff)')[2].splitlines()
    assert other[4] == '| elsewhere | 1 of 2 | 70.0 | 80.0 | 90.0 |'


def test_robustness_is_that_of_the_records(published: tuple[Path, list[Path]]) -> None:
    page_file, (first, *_) = published
    assert '## Robustness' not in page_file.read_text(encoding='utf-8')
    model = ModelRobustness('digest', 'cityscapes8', 'openvino', 'cpu', 'int8')
    for case in [CLEAN, *cases_of(['noise', 'eight'], SEVERITIES)]:
        model.cases[case] = dict.fromkeys(CASE_FIGURES, 0.25)
    RobustnessResults('camvid val', 101, 0, {first.name: model}).write(first / IN_RUN)
    assert main(['--results', str(page_file.parent)]) == 0
    section = page_file.read_text(encoding='utf-8').partition('## Robustness')[2]
    head, _, *rows = [line for line in section.splitlines() if line.startswith('|')][:7]
    assert head.startswith('| run | frames | clean | 15 corruptions | share of clean | noise |')
    assert (
        '| net_camvid8 | 101, camvid val | 25.0 | - | - | 25.0 | - | - | - | - | - | 25.0 |'
        in rows
    )
    assert f'| elsewhere |{" - |" * 11}' in rows


def test_robustness_is_published_with_the_run(run: Path, tmp_path: Path) -> None:
    results = RobustnessResults('streets val', 2, 0, {})
    results.write(run / IN_RUN)
    assert main([str(run), '--results', str(tmp_path)]) == 0
    (run / IN_RUN / RESULTS_FILE).unlink()
    assert RobustnessResults.read(tmp_path / 'deeplab' / IN_RUN) == results


def test_augmentation_is_told_with_without_and_difference(published: tuple[Path, Any]) -> None:
    section = published[0].read_text(encoding='utf-8').partition('## Augmentation\n')[2]
    assert section.splitlines()[3:6] == [
        '| augmented run | plain run | score | with | without | gain | other differences |',
        '| --- | --- | --- | --- | --- | --- | --- |',
        '| net_camvid8 | net_camvid8_noaug | mIoU | 70.0 | 65.0 | +5.0 | crop_hw |',
    ]
    assert 'elsewhere' not in section.partition('\n##')[0]


def test_published_figures_stand_beside_own_ones(published: tuple[Path, Any]) -> None:
    _, _, section = published[0].read_text(encoding='utf-8').partition('with published figures')
    assert 'test split (233 images)' in ' '.join(section.split())
    rows = [line for line in section.splitlines() if line.startswith('| ')][2:]
    assert rows[0] == (
        '| net_camvid11 | 70.0 | camvid val, also used to choose the epoch '
        '| encoder from ImageNet; on camvid | this repository |'
    )
    assert rows[1].startswith('| SegNet | about 46.4 | test, 480 x 360 | ')
    assert any(row.startswith('| FC-DenseNet103 | 66.9 | test, 480 x 360 | ') for row in rows)
    assert 'streets11' not in section  # same classes, other images
    assert all(row.count(' | ') == 4 for row in rows)


def test_records_and_report_tell_the_same(
    published: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands in the README suffice to get published runs into the report."""
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/report.db')
    for record in published[1]:
        assert deliver([str(record)]) == 0
    assert compare(['--study', 'segmentation', '--output', str(tmp_path / 'page.html')]) == 0
    text = (tmp_path / 'page.html').read_text(encoding='utf-8')
    section = text.partition('id="published"')[2].partition('</section>')[0]
    for part in ('net_camvid11', 'FC-DenseNet103', '66.9', 'encoder from ImageNet; on camvid'):
        assert part in section
    assert 'streets11' not in section
    augmentation = text.partition('id="augmentation"')[2].partition('</section>')[0]
    assert '+0.0500' in augmentation
    assert 'crop_hw' in augmentation
    assert 'data_root' not in augmentation
