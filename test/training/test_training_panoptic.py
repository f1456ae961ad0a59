# SPDX-License-Identifier: Apache-2.0
"""Tests of panoptic training, from instance images to a checkpoint, and of its evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_runs as runs
import yaml
from panoptic_models import INSTANCE, write_hub_model
from training_data import MASK2FORMER, cars, fields, write_folders, write_instances

from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.export.export_model import main as export_model
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter
from training.batches import Data
from training.config import Experiment
from training.evaluate import main as evaluate

CATEGORIES = load_scheme('cityscapes8')
FLAT, VEHICLE = CATEGORIES.id_of('flat'), CATEGORIES.id_of('vehicle')
TOWNS = {'set': 'towns', 'split': 'train'}
STREETS = {'set': 'streets', 'split': 'train'}
EPOCHS = 120


def experiment_of(root: Path, **changes: Any) -> dict[str, Any]:
    """Return an experiment on streets with instances, and one street without."""
    return fields(
        root, family='mask2former', task='panoptic', network={**MASK2FORMER, 'num_queries': 16},
        train=[TOWNS | {'share': 2}, STREETS | {'share': 1}],
        val={'1 towns': TOWNS, '2 streets': STREETS},
        epochs=EPOCHS, evaluate_every=EPOCHS, crop_hw=[64, 96], augment=False,
        learning_rate=6e-3, warm_up=0.4, points=256, ema=0.8, gradient_clip=5.0,
    ) | changes  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the data, the experiment, and a run that fitted two streets with cars."""
    root = tmp_path_factory.mktemp('place')
    write_instances(root / 'towns', 'train', 2)
    write_folders(root / 'streets', 'train', 1)
    (root / 'e.yaml').write_text(yaml.safe_dump(experiment_of(root)), encoding='utf-8')
    done, said = runs.run(['e.yaml', 'run'], root)
    assert done == 0, said
    (root / 'said.txt').write_text(said, encoding='utf-8')
    return root


@pytest.fixture(scope='module')
def figures(place: Path) -> dict[str, float]:
    """Figures of the last epoch."""
    lines = (place / 'run' / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    found: dict[str, float] = json.loads(lines[-1])
    return found


def test_a_network_learns_to_tell_cars_apart(place: Path, figures: dict[str, float]) -> None:
    assert figures['PQ'] > 0.6
    assert figures['PQ_things'] > 0.6
    assert figures['PQ/1 towns'] == figures['PQ']
    # Without instances there is no PQ of all classes.
    assert 'PQ/2 streets' not in figures
    assert figures['mIoU/2 streets'] > 0.5
    said = (place / 'said.txt').read_text(encoding='utf-8')
    assert f'best PQ {figures["PQ"]:.4f}' in said
    assert f'PQ {100 * figures["PQ"]:.2f}, mIoU' in said


def test_its_checkpoint_is_panoptic(place: Path, figures: dict[str, float]) -> None:
    model = place / 'run' / 'checkpoint'
    checkpoint = find_checkpoint(str(model))
    assert (checkpoint.task, checkpoint.scheme) == ('panoptic', CATEGORIES)
    prediction = Segmenter(str(model), runtime='torch', device='cpu').segment([cars(0)[0]])
    instances = prediction.instances_of(0)
    assert instances is not None
    values = cars(0)[1]
    found = [np.bincount(instances.ids[values == number]).argmax() for number in (26001, 26002)]
    assert len({*found, 0}) == 3  # both cars, and different ones
    assert {segment.class_id for segment in instances.segments} == {VEHICLE}
    metrics = checkpoint.spec.provenance['metrics']
    assert metrics['1 towns']['panoptic']['PQ'] == figures['PQ']
    assert set(metrics['2 streets']['panoptic']) == {'PQ_stuff', 'SQ_stuff', 'RQ_stuff'}
    card = (model / 'README.md').read_text(encoding='utf-8')
    assert 'the best PQ on the first' in card
    assert f'| all | {figures["PQ"]:.4f} |' in card


def arguments(place: Path, output: str, *more: str) -> list[str]:
    return [
        '--split', 'train', '--experiment', str(place / 'e.yaml'), '--data-root', str(place),
        '--output', str(place / output), '--device', 'cpu', '--precision', 'fp32', '--quiet',
        *more,
    ]  # fmt: skip


def test_evaluation_has_the_figures_of_the_training(
    place: Path, figures: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    run = ['--run', str(place / 'run')]
    assert evaluate([*run, *arguments(place, 'towns-out', '--set', 'towns')]) == 0
    assert f'PQ {figures["PQ"]:.4f}' in capsys.readouterr().out
    scores = json.loads((place / 'towns-out' / 'scores.json').read_text(encoding='utf-8'))
    found = scores['figures']
    for name in ('mIoU', 'PQ', 'SQ', 'RQ', 'PQ_things', 'PQ_stuff', 'SQ_things', 'RQ_stuff'):
        assert found[name] == pytest.approx(figures[name], abs=0.02)  # weights are stored as fp16
    assert found['PQ_things'] == found['PQ/vehicle']
    assert 0.3 < found['AP'] == found['AP/vehicle'] <= found['AP50'] <= 1
    assert 'AP/flat' not in found
    report = (place / 'towns-out' / 'report.md').read_text(encoding='utf-8')
    assert '## Segments' in report
    assert f'| PQ | {found["PQ"]:.4f} |' in report
    row = ' | '.join(
        f'{found[f"{kind}/vehicle"]:.4f}' for kind in ('PQ', 'SQ', 'RQ', 'AP', 'AP50')
    )
    assert f'| vehicle | {row} |' in report


def test_truth_without_instances_scores_stuff_only(place: Path) -> None:
    run = ['--run', str(place / 'run')]
    assert evaluate([*run, *arguments(place, 'streets-out', '--set', 'streets')]) == 0
    scores = json.loads((place / 'streets-out' / 'scores.json').read_text(encoding='utf-8'))
    assert scores['figures']['PQ_stuff'] > 0.5
    assert not {'PQ', 'PQ_things', 'PQ/vehicle', 'AP'} & set(scores['figures'])


def test_views_cannot_be_averaged(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ['--run', str(place / 'run')]
    assert evaluate([*run, *arguments(place, 'flip-out', '--set', 'towns', '--flip')]) == 1
    assert 'averages class scores, which a model with instances' in capsys.readouterr().err
    assert not (place / 'flip-out').exists()


def test_a_model_of_instances_has_ap_only(place: Path, tmp_path: Path) -> None:
    model = write_hub_model(tmp_path / INSTANCE)
    assert evaluate([str(model), *arguments(place, 'instance-out', '--set', 'towns')]) == 0
    scores = json.loads((place / 'instance-out' / 'scores.json').read_text(encoding='utf-8'))
    assert {'AP', 'AP50', 'AP/car'} <= set(scores['figures'])
    assert not {'PQ', 'PQ_stuff'} & set(scores['figures'])


def test_an_exported_model_finds_the_same_instances(place: Path) -> None:
    model, output = place / 'run' / 'checkpoint', place / 'exported'
    images = place / 'towns' / 'leftImg8bit' / 'train' / 'cartown'
    assert export_model([
        '--model', str(model), '--images', str(images), '--precision', 'fp32',
        '--output', str(output), '--quiet',
    ]) == 0  # fmt: skip
    assert find_checkpoint(str(output)).task == 'panoptic'
    exported = Segmenter(str(output), runtime='openvino', precision='fp32')
    original = Segmenter(str(model), runtime='torch', device='cpu', precision='fp32')
    found, expected = (s.segment([cars(0)[0]]) for s in (exported, original))
    assert (found.labels == expected.labels).mean() > 0.99
    ours, theirs = found.instances_of(0), expected.instances_of(0)
    assert ours is not None
    assert theirs is not None
    assert (ours.ids == theirs.ids).mean() > 0.99
    assert len(ours.segments) == len(theirs.segments)


# Experiments


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'family': 'unet'}, 'task panoptic is not supported by family unet; choose family mask2'),
        ({'task': 'video'}, "task is 'video': input should be 'semantic' or 'panoptic'"),
    ],
)
def test_a_task_that_cannot_be_learned(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    from training.config import load_experiment

    (tmp_path / 'e.yaml').write_text(yaml.safe_dump(experiment_of(tmp_path, **changes)), 'utf-8')
    with pytest.raises(SettingError, match=says):
        load_experiment(tmp_path / 'e.yaml', [])


def test_the_first_validation_set_needs_instances(place: Path) -> None:
    experiment = Experiment.model_validate(experiment_of(place, val={'streets': STREETS}))
    with pytest.raises(SettingError, match=r"'streets' .* streets has no instance images; put"):
        Data(experiment)
