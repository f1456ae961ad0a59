# SPDX-License-Identifier: Apache-2.0
"""Tests of the command that calibrates a checkpoint, with real data, networks and runtimes."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fitted_model import write_fitted_model
from training_data import street, write_folders

from segmentation_node.checkpoint import SPEC_FILE, Spec
from segmentation_node.networks.confidence import confidence_table
from segmentation_node.paths import bundled_models_dir
from segmentation_node.segmenter import Segmenter
from training.calibrate import main


@pytest.fixture(scope='module')
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fitted_model(tmp_path_factory.mktemp('models') / 'fitted')


@pytest.fixture
def model(fitted: Path, tmp_path: Path) -> Path:
    """A copy to calibrate."""
    return Path(shutil.copytree(fitted, tmp_path / 'fitted'))


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data root with a small CamVid."""
    root = tmp_path_factory.mktemp('data')
    write_folders(root / 'camvid', 'val', 5)
    write_folders(root / 'camvid', 'train', 4, first=30)
    write_folders(root / 'camvid', 'single', 1)
    return root


def arguments(model: Path | str, data: Path, *more: str) -> list[str]:
    return [
        str(model), '--set', 'camvid', '--split', 'val', '--data-root', str(data),
        '--runtime', 'torch', '--device', 'cpu', '--precision', 'fp32', '--quiet', *more,
    ]  # fmt: skip


def content(model: Path) -> Any:
    return yaml.safe_load((model / SPEC_FILE).read_text(encoding='utf-8'))


def figures(said: str) -> list[float]:
    """Return the printed errors: before, in cross-validation, on the same frames."""
    [line] = [line for line in said.splitlines() if line.startswith('ECE')]
    return [float(number) for number in re.findall(r'\d\.\d{4}', line)]


def test_confidence_means_something_afterwards_and_labels_stay(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, files = content(model), sorted(path.name for path in model.iterdir())
    options: dict[str, str] = {'runtime': 'torch', 'device': 'cpu', 'precision': 'fp32'}
    image, _ = street(7)
    old = Segmenter(str(model), **options).segment([image])  # type: ignore[arg-type]
    assert main(arguments(model, data)) == 0
    said = capsys.readouterr().out
    ece_before, ece_validated, ece = figures(said)
    assert ece < ece_before
    assert ece_validated < ece_before
    temperature, domain = (content(model)[name] for name in ('temperature', 'out_of_domain'))
    assert f'temperature 1 -> {temperature:g}' in said
    measured = content(model)['provenance']['calibration']
    assert content(model) == before | {
        'temperature': temperature, 'out_of_domain': domain,
        'provenance': before['provenance'] | {'calibration': measured},
    }  # fmt: skip
    assert f'{measured["ece"]:.4f}' == f'{ece_validated:.4f}'
    assert measured['frames'] == 5
    assert measured['false_alarms'] == 0
    assert measured['detected']['black'] == 1
    assert [each['name'] for each in domain['sets']] == ['camvid train']
    assert '0.0% of the frames' in said
    assert sorted(path.name for path in model.iterdir()) == files
    new = Segmenter(str(model), **options).segment([image])  # type: ignore[arg-type]
    assert np.array_equal(new.labels, old.labels)
    assert np.array_equal(new.confidence, confidence_table(temperature)[old.confidence])
    assert not np.array_equal(new.confidence, old.confidence)
    assert old.distances is None
    assert old.out_of_domain is None
    assert new.out_of_domain == (False,)
    assert new.distances is not None
    assert 0 < new.distances[0] < domain['threshold']
    strange = Segmenter(str(model), **options).segment([np.zeros_like(image)])  # type: ignore[arg-type]
    assert strange.out_of_domain == (True,)


def test_temperature_alone_leaves_the_known_images(model: Path, data: Path) -> None:
    assert main(arguments(model, data)) == 0
    before = content(model)
    assert main(arguments(model, data, '--no-domain')) == 0
    assert content(model) == before


def test_a_graph_without_features_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(bundled_models_dir() / 'unet', tmp_path / 'unet'))
    if _has_features(copy):
        pytest.skip('the bundled graphs have features')
    options = ['--runtime', 'openvino', '--precision', 'int8']
    assert main(arguments(copy, data, *options)) == 1
    assert 'was exported without features' in capsys.readouterr().err
    assert main(arguments(copy, data, *options, '--no-domain')) == 0


def _has_features(model: Path) -> bool:
    engine = Segmenter(str(model), runtime='openvino', precision='int8').engine
    return engine.run(street(0)[0][None])[0].features is not None


def test_a_second_calibration_finds_the_same(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(model, data)) == 0
    first, temperature = figures(capsys.readouterr().out), content(model)['temperature']
    assert main(arguments(model, data)) == 0
    second = figures(capsys.readouterr().out)
    assert content(model)['temperature'] == temperature
    assert second[0] == first[2]
    assert second[1:] == first[1:]


def test_dry_run_writes_nothing(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (model / SPEC_FILE).read_bytes()
    assert main(arguments(model, data, '--dry-run')) == 0
    assert 'nothing was written' in capsys.readouterr().out
    assert (model / SPEC_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ('more', 'says'),
    [
        (['--split', 'single'], 'has 1 frame, expected at least 2'),
        (['--split', 'nothing'], 'nothing'),
        (['--precision', 'int8'], "precision 'int8' is not supported by runtime torch"),
    ],
)
def test_mistakes_are_told_in_one_line(
    model: Path, data: Path, more: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (model / SPEC_FILE).read_bytes()
    assert main(arguments(model, data, *more)) == 1
    said = capsys.readouterr().err
    assert said.startswith('calibrate: ')
    assert says in said
    assert said.count('\n') == 1
    assert (model / SPEC_FILE).read_bytes() == before


def test_data_must_be_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model)]) == 1
    assert 'give --set NAME --split NAME' in capsys.readouterr().err


def test_folder_without_a_spec_has_no_place_for_a_temperature(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / SPEC_FILE).unlink()
    assert main(arguments(model, data)) == 1
    assert SPEC_FILE in capsys.readouterr().err


@pytest.mark.parametrize('name', ['deeplabv3plus', 'unet'])
def test_graph_files_publish_the_confidence_of_the_newest_temperature(
    name: str, tmp_path: Path
) -> None:
    """A graph returns scores; the temperature is read from the checkpoint and applied once."""
    copy = Path(shutil.copytree(bundled_models_dir() / name, tmp_path / name))
    image, _ = street(3)
    options: dict[str, str] = {'runtime': 'openvino', 'precision': 'int8'}
    seen = []
    for temperature in (1.0, 3.0, 0.4):
        spec = replace(Spec.read(copy / SPEC_FILE), temperature=temperature)
        spec.write(copy / SPEC_FILE)
        found = Segmenter(str(copy), **options).segment([image])  # type: ignore[arg-type]
        seen.append((found.labels, found.confidence))
        assert np.array_equal(found.labels, seen[0][0])
        assert np.array_equal(found.confidence, confidence_table(temperature)[seen[0][1]])
