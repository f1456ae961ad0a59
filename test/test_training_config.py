# SPDX-License-Identifier: Apache-2.0
"""Experiments as files: every mistake is told before training begins."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import training
from segmentation_node.errors import SettingError
from segmentation_node.labels import available_schemes
from segmentation_node.models import FAMILIES
from training.config import load_experiment

CONFIGS = sorted((Path(training.__file__).parent / 'configs').glob('*.yaml'))

LEAST: dict[str, Any] = {
    'family': 'unet', 'label_scheme': 'cityscapes8', 'network': {'encoder_name': 'resnet18'},
    'train': [{'layout': 'folders', 'root': 'x', 'scheme': 'camvid11', 'share': 2}],
    'val': {'v': {'layout': 'folders', 'root': 'x', 'scheme': 'camvid11'}},
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    path = folder / 'experiment.yaml'
    path.write_text(yaml.safe_dump(LEAST | changes), encoding='utf-8')
    return path


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_of_the_project_loads(path: Path) -> None:
    experiment = load_experiment(path, [])
    assert experiment.family in FAMILIES
    assert experiment.label_scheme in available_schemes()
    assert sum(description['share'] for description in experiment.train) > 1
    assert experiment.notes


def test_there_are_experiments() -> None:
    assert {'deeplabv3plus', 'mask2former'} <= {path.stem for path in CONFIGS}


def test_fields_not_given_have_their_defaults(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, steps=5, crop_hw=[32, 64]), [])
    assert (experiment.steps, experiment.crop_hw) == (5, (32, 64))
    assert experiment.learning_rate == 2e-3


def test_overrides_replace_fields(tmp_path: Path) -> None:
    path = write(tmp_path, steps=5)
    overrides = ['steps=7', 'learning_rate=2e-4', 'scale=[1, 2]', 'notes=a: b=c']
    with pytest.raises(SettingError, match='notes is'):
        load_experiment(path, overrides)
    experiment = load_experiment(path, overrides[:3])
    assert (experiment.steps, experiment.scale) == (7, (1.0, 2.0))
    assert experiment.learning_rate == pytest.approx(2e-4)
    assert isinstance(experiment.learning_rate, float)


def test_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 2e-3 as text."""
    path = tmp_path / 'experiment.yaml'
    path.write_text(yaml.safe_dump(LEAST) + 'learning_rate: 2e-3\n', encoding='utf-8')
    assert load_experiment(path, []).learning_rate == pytest.approx(0.002)


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'learning_rat': 1}, 'unknown fields learning_rat; there are family, label_scheme'),
        ({'steps': '7'}, "steps is '7'; expected the like of 2000"),
        ({'steps': 7.5}, 'steps is 7.5; expected'),
        ({'steps': True}, 'steps is True; expected'),
        ({'learning_rate': 'fast'}, "learning_rate is 'fast'; expected the like of 0.002"),
        ({'crop_hw': [32]}, r'crop_hw is \[32\]; expected the like of \(256, 352\)'),
        ({'crop_hw': 32}, 'crop_hw is 32; expected'),
        ({'crop_hw': [32, 'b']}, "crop_hw is 'b'; expected"),
        ({'family': None}, 'lacks family'),
        ({'val': {}}, 'lacks val'),
        ({'train': [{'layout': 'folders'}]}, 'has no "share", its number of images'),
        ({'train': [{'share': 0}]}, 'has no "share"'),
        ({'train': ['camvid']}, 'train set camvid has no "share"'),
    ],
)
def test_field_with_something_wrong(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        load_experiment(write(tmp_path, **changes), [])


@pytest.mark.parametrize('override', ['steps', 'steps:3', ''])
def test_override_without_an_equals_sign(tmp_path: Path, override: str) -> None:
    with pytest.raises(SettingError, match='must read field=value'):
        load_experiment(write(tmp_path), [override])


def test_override_of_an_unknown_field(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match='unknown fields batch; there are'):
        load_experiment(write(tmp_path), ['batch=3'])


def test_override_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match='cannot be read'):
        load_experiment(write(tmp_path), ['steps=[1'])


@pytest.mark.parametrize('text', ['', '- a', '{', '3'])
def test_file_that_is_no_experiment(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'experiment.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(SettingError, match=r'experiment\.yaml'):
        load_experiment(path, [])


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'none\.yaml cannot be read'):
        load_experiment(tmp_path / 'none.yaml', [])
