# SPDX-License-Identifier: Apache-2.0
"""Whole runs of the trainer on a few small images."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from training_data import street, write_cityscapes, write_folders

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion
from segmentation_node.segmenter import Segmenter
from training import train as trainer
from training.augment import Augment
from training.config import Experiment, load_experiment
from training.datasets import open_dataset
from training.train import Batches, Ema, Run, class_weights, main, rate_at

CATEGORIES = load_scheme('cityscapes8')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('data')
    write_folders(root / 'train', 4)
    write_folders(root / 'val', 2)
    write_cityscapes(root, 'train', 2)
    return root


@pytest.fixture(scope='module')
def config(data: Path) -> Path:
    """An experiment of three steps."""
    folders = {'layout': 'folders', 'scheme': 'camvid11'}
    content: dict[str, Any] = {
        'family': 'deeplabv3plus',
        'label_scheme': 'cityscapes8',
        'network': {'encoder_name': 'resnet18', 'decoder_channels': 16},
        'train': [
            {**folders, 'root': str(data / 'train'), 'share': 2, 'source': 'Small streets.'},
            {'layout': 'cityscapes', 'root': str(data), 'scheme': 'cityscapes34', 'share': 1},
        ],
        'val': {'small val': {**folders, 'root': str(data / 'val')}},
        'crop_hw': [32, 64],
        'steps': 3,
        'evaluate_every': 1,
        'notes': 'A run for a test.',
    }
    path = data / 'experiment.yaml'
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    return path


@pytest.fixture(scope='module')
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that went through without an interruption."""
    output = tmp_path_factory.mktemp('finished')
    assert main([str(config), str(output)]) == 0
    return output


def test_checkpoint_is_one_that_the_segmenter_loads(finished: Path) -> None:
    segmenter = Segmenter(str(finished / 'checkpoint'), device='cpu', precision='fp32')
    labels = segmenter.segment([street(0)[0]]).labels
    assert labels.shape == (1, 64, 96)
    assert segmenter.scheme == CATEGORIES


def test_figures_of_the_checkpoint_are_those_of_the_segmenter(finished: Path, data: Path) -> None:
    """What training reports is what the node will run, but for weights rounded to half."""
    segmenter = Segmenter(str(finished / 'checkpoint'), device='cpu', precision='fp32')
    lut = load_scheme('camvid11').mapping_to(CATEGORIES)
    confusion = Confusion()
    for seed in range(2):
        image, ids = street(seed)
        confusion.add(lut[ids], segmenter.segment([image]).labels[0])
    found = confusion.scores(CATEGORIES)
    stated = segmenter.checkpoint.spec.provenance['metrics']['small val']
    assert found.miou() == pytest.approx(stated['miou'], abs=0.01)
    assert found.pixel_accuracy() == pytest.approx(stated['pixel_accuracy'], abs=0.01)


def test_provenance_says_how_the_weights_came_about(finished: Path) -> None:
    provenance = load_checkpoint(str(finished / 'checkpoint')).spec.provenance
    assert provenance['recipe']['crop_hw'] == [32, 64]
    assert provenance['recipe']['train'][0]['source'] == 'Small streets.'
    assert [point['step'] for point in provenance['curve']] == list(
        range(1, provenance['step'] + 1)
    )
    assert provenance['versions']['torch'] == torch.__version__


def test_model_card_states_data_recipe_and_figures(finished: Path, data: Path) -> None:
    card = (finished / 'checkpoint' / 'README.md').read_text(encoding='utf-8')
    provenance = load_checkpoint(str(finished / 'checkpoint')).spec.provenance
    assert '# deeplabv3plus on cityscapes8' in card
    assert '- Small streets.' in card
    assert f'- {data}' in card  # a set without a source is named by its folder
    assert 'A run for a test.' in card
    iou = provenance['metrics']['small val']['class_iou']['flat']
    assert f'| flat | {iou:.3f} |' in card


def test_run_goes_on_after_an_interruption(
    config: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    advance = Run.advance

    def interrupted(self: Run, images: Tensor, channels: Tensor) -> float:
        if self.step == 2 and 2 not in steps:
            steps.append(2)
            raise KeyboardInterrupt
        steps.append(self.step)
        return advance(self, images, channels)

    monkeypatch.setattr(Run, 'advance', interrupted)
    assert main([str(config), str(tmp_path)]) == 130
    assert main([str(config), str(tmp_path)]) == 0
    assert steps == [0, 1, 2, 2]
    ours, theirs = (
        torch.load(folder / 'state.pt', weights_only=True) for folder in (tmp_path, finished)
    )
    assert ours['step'] == theirs['step'] == 3
    assert [point['step'] for point in ours['curve']] == [1, 2, 3]
    for name, weights in theirs['network'].items():
        assert torch.allclose(ours['network'][name].float(), weights.float(), atol=1e-6), name
    # A run that is finished has nothing left to do.
    assert main([str(config), str(tmp_path)]) == 0
    assert steps == [0, 1, 2, 2]


def test_state_of_another_experiment_is_refused(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'state.pt').write_bytes((finished / 'state.pt').read_bytes())
    network = 'network={encoder_name: resnet18, decoder_channels: 8}'
    assert main([str(config), str(tmp_path), network]) == 1
    said = capsys.readouterr().err
    assert 'state.pt is damaged or of another experiment' in said
    assert 'give another output folder' in said


def test_damaged_state_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / 'state.pt').write_bytes(b'garbage')
    with pytest.raises(SettingError, match='damaged or of another experiment'):
        trainer.train(load_experiment(config, []), tmp_path)


def test_mask2former_starts_from_the_encoder_of_a_checkpoint(
    config: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = {
        'model_type': 'resnet', 'layer_type': 'basic', 'depths': [2, 2, 2, 2],
        'hidden_sizes': [64, 128, 256, 32], 'embedding_size': 64,
        'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
    }  # fmt: skip
    network = {
        'backbone_config': backbone, 'feature_size': 32, 'mask_feature_size': 32,
        'hidden_dim': 32, 'num_attention_heads': 2, 'encoder_layers': 1,
        'encoder_feedforward_dim': 32, 'decoder_layers': 2, 'dim_feedforward': 32,
        'num_queries': 12,
    }  # fmt: skip
    overrides = {
        'family': 'mask2former', 'network': network, 'steps': 1, 'points': 64,
        'initial_encoder': str(finished / 'checkpoint'),
    }  # fmt: skip
    arguments = [
        f'{name}={yaml.safe_dump(v, default_flow_style=True)}' for name, v in overrides.items()
    ]
    assert main([str(config), str(tmp_path), *arguments]) == 0
    assert 'tensors taken over' in capsys.readouterr().out
    segmenter = Segmenter(str(tmp_path / 'checkpoint'), device='cpu')
    assert segmenter.checkpoint.spec.family == 'mask2former'
    assert segmenter.segment([street(0)[0]]).labels.shape == (1, 64, 96)


def test_mistakes_are_told_in_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config), str(tmp_path), 'speed=3']) == 1
    assert capsys.readouterr().err.startswith(f'error: {config}: unknown fields speed')


def test_loss_that_explodes_ends_the_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(trainer, 'loss_of', lambda *_: lambda *_: torch.tensor(float('nan')))
    assert main([str(config), str(tmp_path)]) == 1
    assert 'loss is nan at step 0; lower learning_rate' in capsys.readouterr().err


def test_without_git_the_revision_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('PATH', '')
    assert trainer.revision() == 'unknown'


def batches(data: Path, start: int, count: int) -> list[tuple[Tensor, Tensor]]:
    folders = {'layout': 'folders', 'root': str(data / 'train'), 'scheme': 'camvid11'}
    sets = [open_dataset(folders, CATEGORIES)] * 2
    endless = iter(Batches(sets, [2, 1], Augment((16, 24), (0.7, 1.6)), seed=3, start=start))
    return [next(endless) for _ in range(count)]


def test_a_batch_depends_on_its_step_alone(data: Path) -> None:
    all_of_them, later = batches(data, 0, 4), batches(data, 2, 2)
    for one, other in zip(all_of_them[2:], later, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert not torch.equal(all_of_them[0][0], all_of_them[1][0])
    assert all_of_them[0][0].shape == (3, 3, 16, 24)


def test_rate_warms_up_and_falls_to_nearly_nothing() -> None:
    experiment = Experiment('', '', {}, [], {}, steps=100, warm_up=0.1)
    rates = [rate_at(step, experiment) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_rare_classes_weigh_more(data: Path) -> None:
    folders = {'layout': 'folders', 'root': str(data / 'train'), 'scheme': 'camvid11'}
    images = open_dataset(folders, CATEGORIES)
    weights = class_weights([images], 8, power=0.5)
    counts = images.channel_counts()[:8]
    assert weights[CATEGORIES.id_of('vehicle')] > weights[CATEGORIES.id_of('flat')]
    assert torch.isfinite(weights).all()  # of classes without a pixel too
    mean = np.average(weights.numpy(), weights=np.maximum(counts / counts.sum(), 1e-4))
    assert mean == pytest.approx(1, abs=1e-3)
    assert class_weights([images], 8, power=0.0) == pytest.approx(np.ones(8), abs=1e-3)


def test_average_follows_the_weights_and_takes_the_buffers() -> None:
    network: Any = torch.nn.BatchNorm1d(1)
    ema = Ema(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(2.0)
    network.running_mean.fill_(5.0)
    ema.update(network, 0)
    averaged: Any = ema.network
    assert averaged.weight.item() == pytest.approx(1 + 0.9)  # at first it follows fast
    ema.update(network, 10_000)
    assert averaged.weight.item() == pytest.approx(1.9 + 0.1 * 0.1)
    assert averaged.running_mean.item() == 5.0
    assert math.isclose(network.weight.item(), 2.0)
