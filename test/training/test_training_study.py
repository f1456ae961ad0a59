# SPDX-License-Identifier: Apache-2.0
"""Tests of the study from start to report, and of intended differences of experiments."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from segmentation_node.labels import IGNORE, load_scheme
from training import study
from training.build import build_network
from training.config import load_experiment
from training.search import USUAL_SPACE
from training.search_space import load_space, variants
from training.study import HERE, MODELS, SPACE, TRIALS, config_of, main

CONFIGS = HERE / 'configs'
FIELDS = {'learning_rate', 'weight_decay', 'epochs', 'optimizer'}


@pytest.fixture(autouse=True)
def _in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a separate store and fewer frames."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    monkeypatch.setattr(study, 'STREETS', (('seed1', 'train', 4), ('seed9', 'val', 2)))
    monkeypatch.setattr(study, 'TRIALS', 2)
    monkeypatch.setattr(study, 'SEEDS', (0, 1))


def test_study_ends_in_a_report_and_repeats_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(['--output', 'small', '--models', 'unet']) == 0
    first = capfd.readouterr().out
    assert 'python -m training.search' in first
    page = (tmp_path / 'small/report.html').read_text(encoding='utf-8')
    assert 'unet' in page
    assert (tmp_path / 'small/search/unet/best.yaml').is_file()
    assert (tmp_path / 'small/unet/checkpoint/segmentation.yaml').is_file()
    assert list((tmp_path / 'small/unet/artifacts/evaluation').glob('*/scores.json'))
    text = unescape(re.sub(r'<[^>]+>', ' ', page))
    assert text.index(study.REMARK) < text.index('Conclusion')
    assert '2 scored trials' in text
    assert 'Trainings that differ only in their seed' in text
    chosen = load_experiment(tmp_path / 'small/search/unet/best.yaml', [])
    for folder, seed in (('unet', 0), ('unet_seed1', 1)):
        trained = load_experiment(tmp_path / 'small' / folder / 'experiment.yaml', [])
        assert trained == chosen.model_copy(update={'seed': seed})

    assert main(['--output', 'small', '--models', 'unet']) == 0
    again = capfd.readouterr().out
    assert again.count('already finished') == first.count('took')
    assert 'took' not in again


def test_step_that_fails_ends_the_study_and_is_done_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = [0, 1]
    plan = [
        study.Step('first', (), lambda _: answers[0]),
        study.Step('second', (), lambda _: answers[1]),
    ]
    monkeypatch.setattr(study, 'steps', lambda *_: plan)
    assert main(['--output', 'small']) == 1
    assert 'repeat the command to resume' in capfd.readouterr().err
    answers[:] = [1, 0]  # the first step is not repeated
    assert main(['--output', 'small']) == 0


def test_folder_of_something_else_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/precious').write_text('work', encoding='utf-8')
    assert main(['--output', 'mine', '--overwrite']) == 1
    assert 'is not empty and not a study' in capfd.readouterr().err
    assert (tmp_path / 'mine/precious').is_file()


@pytest.mark.parametrize('model', MODELS)
def test_space_of_the_study_fits_its_experiments(model: str) -> None:
    assert load_experiment(config_of(model), []).family == model
    space = load_space(SPACE, variants(config_of(model), []))
    assert set(space) == FIELDS
    assert TRIALS == 4


@pytest.mark.parametrize('model', ['deeplabv3plus', 'mask2former'])
def test_space_of_the_search_has_the_fields_of_the_study(model: str) -> None:
    path = CONFIGS / f'search_{model}.yaml'
    assert load_experiment(path, []).family == model
    assert set(load_space(USUAL_SPACE, variants(path, []))) == FIELDS


#: Fields in which the trials of a search are smaller than the full training.
SMALL = {'train', 'val', 'fit_hw', 'crop_hw', 'evaluate_every', 'notes'}


def differing(a: str, b: str) -> set[str]:
    first, second = (load_experiment(CONFIGS / f'{name}.yaml', []).model_dump() for name in (a, b))
    return {key for key in first if first[key] != second[key]}


@pytest.mark.parametrize(
    ('a', 'b', 'fields'),
    [
        ('unet_camvid8', 'unet_camvid8_noaug', {'augment', 'crop_hw'}),
        ('deeplabv3plus_camvid8', 'deeplabv3plus_camvid8_noaug', {'augment', 'crop_hw'}),
        ('unet_camvid8', 'unet_camvid11', {'label_scheme', 'train', 'val'}),
        ('mask2former_camvid8', 'mask2former_camvid11', {'label_scheme', 'train', 'val'}),
        ('deeplabv3plus_cityscapes8', 'unet_cityscapes8', {'family', 'network'}),
        ('deeplabv3plus_cityscapes8', 'deeplabv3_cityscapes8', {'family'}),
        ('deeplabv3plus_camvid8', 'deeplabv3_camvid8', {'family', 'network'}),
        *(
            (f'{family}_cityscapes8_{size}', f'{family}_cityscapes8_{size}_noaug', {'augment'})
            for family in ('deeplabv3plus', 'mask2former', 'unet')
            for size in (300, 2975)
        ),
        *(
            (f'{family}_cityscapes8_300', f'{family}_cityscapes8_2975', {'train', 'val', 'study'})
            for family in ('deeplabv3plus', 'mask2former', 'unet')
        ),
        ('deeplabv3plus_cityscapes8_300', 'unet_cityscapes8_300', {'family', 'network'}),
        (
            'deeplabv3plus_cityscapes8', 'deeplabv3plus_cityscapes19', {'label_scheme', 'study'},
        ),
        ('ablation_1_plain', 'ablation_2_scale', {'scale'}),
        ('ablation_2_scale', 'ablation_3_warp', {'warp'}),
        ('ablation_3_warp', 'ablation_4_strong', {'strong'}),
        ('ablation_4_strong', 'ablation_5_paste', {'paste'}),
        ('ablation_5_paste', 'unet_camvid8', SMALL | {'epochs'}),
        ('deeplabv3plus_camvid8', 'search_deeplabv3plus', SMALL),
        ('mask2former_camvid8', 'search_mask2former', SMALL | {'points'}),
    ],
)  # fmt: skip
def test_experiments_differ_in_what_they_compare_alone(a: str, b: str, fields: set[str]) -> None:
    assert differing(a, b) == fields


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('*.yaml')), ids=lambda path: path.stem)
def test_data_of_every_experiment_can_be_had_in_its_scheme(path: Path) -> None:
    experiment = load_experiment(path, [])
    target = load_scheme(experiment.label_scheme)
    uses: list[Any] = [*experiment.train, *experiment.val.values()]
    for use in uses:
        channels = target.channels_from(load_scheme(experiment.dataset(use.set).scheme))
        assert len({*channels.tolist()} - {IGNORE}) >= 7


def test_hub_checkpoint_has_as_many_weights_as_the_network_it_starts() -> None:
    path = CONFIGS / 'mask2former_cityscapes19.yaml'
    network = build_network(load_experiment(path, ["initial=''"]), load_scheme('cityscapes19'))
    # The paper's model zoo states 47 million for Swin-T.
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(47.4e6, rel=0.01)
