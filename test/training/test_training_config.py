# SPDX-License-Identifier: Apache-2.0
"""Tests of experiment files: every error is reported before training starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import training
from segmentation_node.errors import SettingError
from segmentation_node.labels import available_schemes, load_scheme
from segmentation_node.networks import FAMILIES
from training.build import build_network
from training.config import Experiment, catalog, load_experiment, save_experiment
from training.datasets import LAYOUTS

CONFIGS = sorted((Path(training.__file__).parent / 'configs').glob('*.yaml'))

LEAST: dict[str, Any] = {
    'family': 'unet', 'label_scheme': 'cityscapes8', 'network': {'encoder_name': 'resnet18'},
    'train': [{'set': 'camvid', 'split': 'train', 'share': 2}],
    'val': {'v': {'set': 'camvid', 'split': 'val'}},
}  # fmt: skip


def write(folder: Path, name: str = 'experiment.yaml', **changes: Any) -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(LEAST | changes), encoding='utf-8')
    return path


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_experiment_of_the_project_loads(path: Path) -> None:
    experiment = load_experiment(path, [])
    assert experiment.family in FAMILIES
    assert experiment.label_scheme in available_schemes()
    assert experiment.batch_size > 1
    assert experiment.notes
    for use in (*experiment.train, *experiment.val.values()):
        assert experiment.dataset(use.set).layout in LAYOUTS


def test_every_network_of_the_project_can_be_built() -> None:
    experiments = [load_experiment(p, ["initial=''", "initial_encoder=''"]) for p in CONFIGS]
    for experiment in {f'{e.family} {e.network}': e for e in experiments}.values():
        scheme = load_scheme(experiment.label_scheme)
        assert build_network(experiment, scheme).channels() == len(scheme.learned)


def test_there_are_experiments() -> None:
    assert {'deeplabv3plus_camvid8', 'mask2former_camvid8', 'unet_camvid8', 'smoke'} <= {
        path.stem for path in CONFIGS
    }


def test_the_data_sets_of_the_catalog_have_schemes_and_sources() -> None:
    for dataset in catalog().values():
        assert load_scheme(dataset.scheme).classes
        assert dataset.layout in LAYOUTS
        assert dataset.source


def test_fields_not_given_have_their_defaults(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, epochs=5, crop_hw=[32, 64]), [])
    assert (experiment.epochs, experiment.crop_hw) == (5, (32, 64))
    assert experiment.learning_rate == 1e-3


def test_overrides_replace_fields(tmp_path: Path) -> None:
    path = write(tmp_path, epochs=5)
    overrides = ['epochs=7', 'learning_rate=2e-4', 'scale=[1, 2]', 'notes=a: b=c']
    with pytest.raises(SettingError, match='notes'):
        load_experiment(path, overrides)
    experiment = load_experiment(path, [*overrides[:3], 'notes="a: b=c"', 'initial='])
    assert (experiment.epochs, experiment.scale) == (7, (1, 2))
    assert experiment.learning_rate == pytest.approx(2e-4)
    assert (experiment.notes, experiment.initial) == ('a: b=c', '')


def test_overrides_reach_inside_fields(tmp_path: Path) -> None:
    path = write(tmp_path, train=[LEAST['train'][0], LEAST['train'][0]])
    experiment = load_experiment(
        path,
        ['network.encoder_name=resnet34', 'network.decoder={a: 1}', 'network.decoder.b=2',
         'val.v.count=3', 'train.1.share=5', 'datasets={mine: {layout: folders, root: x}}',
         'datasets.mine.scheme=y'],
    )  # fmt: skip
    assert experiment.network == {'encoder_name': 'resnet34', 'decoder': {'a': 1, 'b': 2}}
    assert experiment.val['v'].count == 3
    # The two rows are YAML aliases of each other.
    assert [use.share for use in experiment.train] == [2, 5]
    assert experiment.dataset('mine').root == 'data/x'


@pytest.mark.parametrize(
    'override', ['epochs.x=1', 'nothing.x=1', 'train.2.share=1', 'train.first.share=1']
)
def test_override_inside_of_nothing(tmp_path: Path, override: str) -> None:
    with pytest.raises(SettingError, match=rf'override {override!r}: .* has no'):
        load_experiment(write(tmp_path, epochs=3), [override])


def test_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 2e-3 as text."""
    path = tmp_path / 'experiment.yaml'
    path.write_text(yaml.safe_dump(LEAST) + 'learning_rate: 2e-3\n', encoding='utf-8')
    assert load_experiment(path, []).learning_rate == pytest.approx(0.002)


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'learning_rat': 1}, 'unknown field learning_rat; did you mean learning_rate'),
        ({'xyzzy': 1}, r'unknown field xyzzy; see training/config\.py'),
        ({'epochs': 'many'}, "epochs is 'many': "),
        ({'epochs': 7.5}, r'epochs is 7\.5: '),
        ({'epochs': True}, 'epochs is True: '),
        ({'epochs': 0}, 'epochs is 0: .*greater than 0'),
        ({'seed': -1}, 'seed is -1: .*greater than or equal to 0'),
        ({'learning_rate': 'fast'}, "learning_rate is 'fast': "),
        ({'learning_rate': float('nan')}, 'learning_rate is nan: '),
        ({'learning_rate': float('inf')}, 'learning_rate is inf: '),
        ({'mean': [float('nan'), 0, 0]}, r'mean\.0 is nan: '),
        ({'std': [0.5, 0, 0.5]}, r'std\.1 is 0: .*greater than 0'),
        ({'ema': 1}, 'ema is 1: .*less than 1'),
        ({'hardest': 0}, 'hardest is 0: '),
        ({'schedule': 'cosin'}, "schedule is 'cosin': .*'cosine' or 'poly'"),
        ({'crop_hw': [32]}, r'crop_hw\.1'),
        ({'crop_hw': 32}, 'crop_hw is 32: '),
        ({'crop_hw': [32, 'b']}, r"crop_hw\.1 is 'b': "),
        ({'crop_hw': [32, -1]}, r'crop_hw\.1 is -1: .*greater than 0'),
        ({'scale': [2, 0.5]}, r'scale is .*smallest value first'),
        (
            {'train': [LEAST['train'][0] | {'scale': [2, 0.5]}]},
            r'train\.0\.scale is .*smallest value first',
        ),
        ({'family': 3}, 'family is 3: '),
        ({'val': {}}, 'val is {}: .*at least 1'),
        ({'train': []}, r'train is \[\]: .*at least 1'),
        (
            {'train': [{'set': 'camvid'}]},
            r'train\.0\.split is missing; train\.0\.share is missing',
        ),
        ({'train': [LEAST['train'][0] | {'shar': 1}]}, r'train\.0\.shar; did you mean share'),
        ({'train': [LEAST['train'][0] | {'share': 0}]}, r'train\.0\.share is 0: .*greater'),
        ({'train': ['camvid']}, r"train\.0 is 'camvid': "),
        (
            {'train': [LEAST['train'][0] | {'subset': 'small', 'count': 3}]},
            r'train\.0 is .*subset .small. determines the images; remove "count" and "seed"',
        ),
        ({'val': {'v': {'set': 'camvid', 'split': 'val', 'subset': 's', 'seed': 1}}}, 'remove'),
    ],
)
def test_field_with_something_wrong(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says) as told:
        load_experiment(write(tmp_path, **changes), [])
    assert str(tmp_path / 'experiment.yaml') in str(told.value)


def test_missing_fields_are_all_named(tmp_path: Path) -> None:
    path = tmp_path / 'experiment.yaml'
    path.write_text('epochs: 3', encoding='utf-8')
    missing = 'family is missing; label_scheme is missing; network is missing'
    with pytest.raises(SettingError, match=missing):
        load_experiment(path, [])


@pytest.mark.parametrize('override', ['epochs', 'epochs:3', ''])
def test_override_without_an_equals_sign(tmp_path: Path, override: str) -> None:
    with pytest.raises(SettingError, match='must have the form field=value'):
        load_experiment(write(tmp_path), [override])


def test_override_of_an_unknown_field(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match='unknown field epoch; did you mean epochs'):
        load_experiment(write(tmp_path), ['epoch=3'])


def test_override_that_is_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"override 'epochs=\[1' is not valid YAML"):
        load_experiment(write(tmp_path), ['epochs=[1'])


@pytest.mark.parametrize('text', ['', '- a', '{', '3', '\x00', '3: 4'])
def test_file_that_is_no_experiment(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'experiment.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(SettingError, match=r'experiment\.yaml'):
        load_experiment(path, [])


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'none\.yaml cannot be read'):
        load_experiment(tmp_path / 'none.yaml', [])


def test_a_file_extends_another(tmp_path: Path) -> None:
    write(tmp_path, epochs=5, crop_hw=[32, 64])
    child = tmp_path / 'child.yaml'
    child.write_text('extends: experiment.yaml\nepochs: 6\n', encoding='utf-8')
    experiment = load_experiment(child, [])
    assert (experiment.epochs, experiment.crop_hw) == (6, (32, 64))


@pytest.mark.parametrize(
    ('base', 'says'),
    [('child.yaml', 'extends itself'), ('none.yaml', r'none\.yaml cannot be read'), ('3', 'name')],
)
def test_what_cannot_be_extended(tmp_path: Path, base: str, says: str) -> None:
    child = tmp_path / 'child.yaml'
    child.write_text(f'extends: {base}\n', encoding='utf-8')
    with pytest.raises(SettingError, match=says):
        load_experiment(child, [])


def test_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"'kitti'; available: camvid, .*; add others"):
        load_experiment(write(tmp_path), []).dataset('kitti')


def test_batch_that_cannot_be_parted(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r'batch of 2 .* among 3 devices'):
        load_experiment(write(tmp_path, devices=3), [])
    with pytest.raises(SettingError, match=r'batch of 2 .* among 4 devices'):
        load_experiment(write(tmp_path, devices=2), ['num_nodes=2'])


def test_batch_too_small_for_the_network(tmp_path: Path) -> None:
    least = write(tmp_path, family='deeplabv3plus')
    with pytest.raises(SettingError, match='at least two; increase "share"'):
        load_experiment(least, ['devices=2'])
    with pytest.raises(SettingError, match='batch norm of deeplabv3 over'):
        load_experiment(least, ['num_nodes=2', 'family=deeplabv3'])
    load_experiment(least, ['devices=2', 'family=unet'])
    load_experiment(least, ['devices=2', 'train.0.share=4'])


rates = st.floats(1e-9, 1e3)
sides = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
texts = st.text(st.characters(codec='utf-8', exclude_categories=['Cs', 'Cc']), max_size=20)
experiments = st.builds(
    Experiment,
    family=st.sampled_from(sorted(FAMILIES)),
    label_scheme=texts,
    network=st.dictionaries(texts, st.one_of(st.integers(), rates, texts, st.lists(rates))),
    train=st.tuples(
        st.fixed_dictionaries({'set': texts, 'split': texts, 'share': st.integers(2, 9)})
    ),
    val=st.dictionaries(
        texts.filter(bool),
        st.fixed_dictionaries({'set': texts, 'split': texts, 'seed': st.integers(0, 9)}),
        min_size=1,
        max_size=2,
    ),
    crop_hw=sides,
    fit_hw=st.none() | sides,
    learning_rate=rates,
    scale=st.tuples(rates, rates).map(lambda pair: tuple(sorted(pair))),
    epochs=st.integers(1, 10**6),
    notes=texts,
)


@given(experiments)
def test_what_is_saved_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, experiment: Experiment
) -> None:
    path = tmp_path_factory.getbasetemp() / 'saved.yaml'
    save_experiment(experiment, path)
    assert load_experiment(path, []) == experiment
