# SPDX-License-Identifier: Apache-2.0
"""Tests of whole training runs on a few small images: their output and their resumption."""

import json
import math
import os
import pickle
import re
import shutil
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import training_runs as runs
import yaml
from mlflow import MlflowClient
from training_data import (
    DEEPLAB,
    MASK2FORMER,
    UNET,
    fields,
    street,
    write_cityscapes,
    write_experiment,
    write_folders,
)

from segmentation_node.checkpoint import SPEC_FILE, Spec, find_checkpoint, load_checkpoint
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import UNCOUNTED, Confusion, truth_lut_of
from segmentation_node.paths import config_dir
from segmentation_node.runtimes import open_runtime
from segmentation_node.segmenter import Segmenter
from training import provenance
from training.calibration import Calibration
from training.card import main as write_card
from training.config import Experiment
from training.epochs import peak_memory_mb
from training.frame_counts import FRAME_COUNTS_FILE, parse_frame_counts
from training.task import Average, rate_at
from training.tracking import METRICS, Run, client
from training.train import main

CATEGORIES = load_scheme('cityscapes8')
VAL = range(90, 95)
FAMILIES = {
    'deeplabv3plus': DEEPLAB,
    'deeplabv3': DEEPLAB,
    'unet': {**UNET, 'encoder_name': 'tu-mobilenetv3_small_050'},
    'mask2former': MASK2FORMER,
}
#: Network without statistics, and a rate too small to change a weight: the score never improves.
STILL = (
    'family=unet', 'network.encoder_name=mit_b0', 'network.decoder_use_norm=false',
    'network.decoder_channels=[16, 8, 8, 8, 8]', 'ema=0', 'learning_rate=1e-30',
)  # fmt: skip
#: Figures of time and memory, which differ between any two runs.
MEASURED = (
    'time_ms', 'imgs_per_sec', 'train_imgs_per_sec', 'train_time_sec', 'data_wait_share',
    'peak_memory_mb',
)  # fmt: skip


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working directory with the runs of these tests and their store."""
    root = tmp_path_factory.mktemp('place')
    write_folders(root / 'data' / 'streets', 'train', 6)
    write_folders(root / 'data' / 'streets', 'val', len(VAL), first=VAL[0])
    write_cityscapes(root / 'data' / 'towns', 'train', 2)
    return root


@pytest.fixture(scope='module')
def config(place: Path) -> Path:
    """Experiment of two epochs with three steps each."""
    train = [
        {'set': 'streets', 'split': 'train', 'share': 2},
        {'set': 'towns', 'split': 'train', 'share': 1},
    ]
    changes = {'train': train, 'data_root': 'data', 'cache': 'prepared'}
    return write_experiment(place / 'experiment.yaml', place, **changes)


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)


def flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()


@pytest.fixture(scope='module', params=FAMILIES)
def finished(request: pytest.FixtureRequest, config: Path, place: Path) -> Path:
    """Folder of an uninterrupted run, by family."""
    return run_once(request.param, config, place)


@pytest.fixture(scope='module')
def deeplab(config: Path, place: Path) -> Path:
    return run_once('deeplabv3plus', config, place)


def run_once(family: str, config: Path, place: Path) -> Path:
    folder = place / 'runs' / f'whole_{family}'
    if not folder.exists():
        network = f'network={flow(FAMILIES[family])}'
        done, said = runs.run([str(config), str(folder), f'family={family}', network], place)
        assert done == 0, said
        (folder / 'said.txt').write_text(said, encoding='utf-8')
    return folder


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    return [json.loads(line) for line in lines]


def run_id(folder: Path) -> str:
    return str(json.loads((folder / 'run.json').read_text(encoding='utf-8'))['run_id'])


def state(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / 'state.ckpt', weights_only=True)
    return loaded


def assert_same_outcome(one: Path, other: Path) -> None:
    """Check that figures, weights, averaged weights, optimizers and checkpoints are equal."""
    for ours, theirs in zip(rows(one), rows(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - set(MEASURED):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-6), key
    ours, theirs = state(one), state(other)
    assert ours['global_step'] == theirs['global_step']
    for part in ('state_dict', 'current_model_state'):
        for name, tensor in theirs[part].items():
            assert torch.allclose(ours[part][name], tensor, atol=1e-6), name
    moments = (s['optimizer_states'][0]['state'] for s in (ours, theirs))
    for mine, yours in zip(*(m.values() for m in moments), strict=True):
        assert all(torch.allclose(mine[k], yours[k], atol=1e-6) for k in yours)
    checkpoints = [load_checkpoint(str(f / 'checkpoint')) for f in (one, other)]
    assert checkpoints[0].spec.provenance['epoch'] == checkpoints[1].spec.provenance['epoch']
    weights = (c.load_network().state_dict().values() for c in checkpoints)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*weights, strict=True))


def test_every_epoch_has_all_figures(finished: Path) -> None:
    found = rows(finished)
    assert [row['epoch'] for row in found] == [0, 1]
    for row in found:
        assert set(METRICS) <= set(row)
        assert {'mIoU/streets val', 'IoU/flat', 'Dice/sky'} <= set(row)
        assert row['mIoU/streets val'] == row['mIoU']
        assert 0 <= row['data_wait_share'] <= 1
    assert 0 < found[-1]['learning_rate'] < 1e-3


def test_figures_in_the_store_are_those_of_the_folder(finished: Path) -> None:
    store = client()
    of_run = store.get_run(run_id(finished))
    assert of_run.info.status == 'FINISHED'
    for key in rows(finished)[0].keys() - {'epoch', 'time_ms'}:
        history = store.get_metric_history(run_id(finished), key)
        kept = [(row['epoch'], row['time_ms'], row[key]) for row in rows(finished) if key in row]
        assert sorted((m.step, m.timestamp, m.value) for m in history) == kept
    params, tags = of_run.data.params, of_run.data.tags
    assert params['crop_hw'] == '[32, 64]'
    assert params['train.1.set'] == 'towns'
    assert params['val.streets val.split'] == 'val'
    assert tags['loss_kind'] == ('set loss' if 'mask2former' in finished.name else 'cross-entropy')
    assert re.fullmatch(r'[0-9a-f]{40}(\+changes)?', tags['git_revision'])
    assert len(tags['train_fingerprint'].split()) == 2
    assert tags['version.torch'] == version('torch')


def test_files_in_the_store_are_those_of_the_folder(finished: Path, tmp_path: Path) -> None:
    there = Path(client().download_artifacts(run_id(finished), '', str(tmp_path)))
    files = {p.relative_to(there).as_posix() for p in there.rglob('*') if p.is_file()}
    assert {
        'curves.png', 'confusion.json', 'grid/epoch_0001.png', 'grid/epoch_0002.png',
        'examples/090_image.png', 'examples/094_truth.png', 'examples/091_prediction.png',
        'checkpoint/model.safetensors', 'checkpoint/segmentation.yaml', 'checkpoint/README.md',
    } <= files  # fmt: skip
    for name in files:
        assert (there / name).read_bytes() == (finished / 'artifacts' / name).read_bytes(), name
    confusion = json.loads((there / 'confusion.json').read_text(encoding='utf-8'))
    assert confusion['classes'] == [c.name for c in CATEGORIES.learned]
    assert np.array(confusion['counts']).sum() == len(VAL) * (64 - 3) * 96  # without void pixels


def test_figures_of_the_checkpoint_are_those_of_the_segmenter(finished: Path) -> None:
    """Training reports the scores of the node, except for rounding of weights to half."""
    segmenter = Segmenter(
        str(finished / 'checkpoint'), runtime='torch', device='cpu', precision='fp32'
    )
    assert segmenter.scheme == CATEGORIES
    lut = load_scheme('camvid11').mapping_to(CATEGORIES)
    confusion = Confusion()
    for seed in VAL:
        image, ids = street(seed)
        confusion.add(lut[ids], segmenter.segment([image]).labels[0])
    found = confusion.scores(CATEGORIES)
    provenance = segmenter.checkpoint.spec.provenance
    stated = provenance['metrics']['streets val']
    assert found.miou() == pytest.approx(stated['miou'], abs=0.004)
    assert found.mean_dice() == pytest.approx(stated['dice'], abs=0.004)
    assert found.pixel_accuracy() == pytest.approx(stated['pixel_accuracy'], abs=0.004)
    assert segmenter.checkpoint.spec.temperature == pytest.approx(_temperature(finished), rel=0.02)
    best = max(rows(finished), key=lambda row: row['mIoU'])
    assert stated['miou'] == best['mIoU']  # not rounded: whoever shows it does that, once
    assert provenance['epoch'] == best['epoch'] + 1


def test_counts_of_each_image_are_those_of_the_best_epoch(finished: Path) -> None:
    content = (finished / 'artifacts' / FRAME_COUNTS_FILE).read_bytes()
    [(name, frames)] = parse_frame_counts(content).items()
    best = max(rows(finished), key=lambda row: row['mIoU'])
    assert frames.miou() == pytest.approx(best['mIoU'], abs=1e-12)
    assert f'mIoU/{name}' in best
    assert frames.names == tuple(f'{i:03}' for i in VAL)
    assert (frames.counts[:, 1].sum(axis=1) == 61 * 96).all()  # three rows are not labeled


def _temperature(finished: Path) -> float:
    """Return the temperature that calibrates a checkpoint on its validation frames."""
    checkpoint = find_checkpoint(str(finished / 'checkpoint'))
    raw = replace(checkpoint, spec=replace(checkpoint.spec, temperature=1.0))
    engine = open_runtime(
        'torch', raw, device='cpu', precision='fp32', input_size=None, measure_aside=False
    )
    lut = truth_lut_of(load_scheme('camvid11'), CATEGORIES)
    lut[lut == CATEGORIES.void_id] = UNCOUNTED
    counts = Calibration()
    for seed in VAL:
        image, ids = street(seed)
        [found] = engine.run(image[None])
        counts.add(lut[ids], found.labels, found.confidence)
    return counts.temperature()


def test_provenance_says_how_the_weights_came_about(finished: Path) -> None:
    known = load_checkpoint(str(finished / 'checkpoint')).spec.provenance
    assert known['recipe']['crop_hw'] == [32, 64]
    assert known['data'][0]['source'] == 'Small streets.'
    assert known['data'][0]['images'] == 6
    assert known['curve'] == provenance.curve(Run(finished))
    assert [point['epoch'] for point in known['curve']] == [1, 2]
    assert set(known['curve'][0]) == {'epoch', *provenance.CURVE}
    assert known['steps'] == 3 * known['epoch']
    assert known['versions']['torch'] == version('torch')
    assert known['mlflow_run'] == run_id(finished)


def test_model_card_states_data_recipe_and_figures(finished: Path) -> None:
    card = (finished / 'checkpoint' / 'README.md').read_text(encoding='utf-8')
    known = load_checkpoint(str(finished / 'checkpoint')).spec.provenance
    assert re.match(r'# \w+ on cityscapes8\n', card)
    assert '- streets train, 6 images: Small streets.' in card
    assert '- towns train, 2 images: data/towns' in card  # its folder, because it has no source
    assert 'A run for a test.' in card
    iou = known['metrics']['streets val']['class_iou']['flat']
    assert f'| flat | {iou:.4f} |' in card


def test_card_is_written_anew_where_the_checkpoint_tells_of_its_training(
    deeplab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(deeplab / 'checkpoint', tmp_path / 'checkpoint')
    card = (tmp_path / 'checkpoint' / 'README.md').read_bytes()
    (tmp_path / 'checkpoint' / 'README.md').unlink()
    assert write_card([str(tmp_path / 'checkpoint')]) == 0
    assert (tmp_path / 'checkpoint' / 'README.md').read_bytes() == card
    spec = Spec.read(tmp_path / 'checkpoint' / SPEC_FILE)
    measured = {
        'data': 'towns val', 'frames': 9, 'ece_uncalibrated': 0.25, 'ece': 0.0125,
        'false_alarms': 0.125, 'detected': {'black': 1.0, 'night': 0.5},
    }  # fmt: skip
    replace(spec, provenance=spec.provenance | {'calibration': measured}).write(
        tmp_path / 'checkpoint' / SPEC_FILE
    )
    assert write_card([str(tmp_path / 'checkpoint')]) == 0
    text = (tmp_path / 'checkpoint' / 'README.md').read_text(encoding='utf-8')
    assert '0.0125 on towns val (9 frames)' in text
    assert '12.5% of towns val, 100% of black, 50% of night.' in text
    Spec('unet', 'cityscapes8').write(tmp_path / SPEC_FILE)
    assert write_card([str(tmp_path)]) == 1
    assert 'has no training recipe' in capsys.readouterr().err


def test_what_is_said_is_for_the_reader(finished: Path) -> None:
    """Output to a file is one line per epoch and one with the checkpoint."""
    said = (finished / 'said.txt').read_text(encoding='utf-8').splitlines()
    losses = r'loss [\d.]+, val [\d.]+, mIoU [\d.]+ \(best\): flat \d'
    assert re.match(rf'epoch 1 of 2: \d+ s, {losses}', said[0])
    assert re.match(r'epoch 2 of 2: ', said[1])
    assert re.fullmatch(rf'best mIoU 0\.\d{{4}}; checkpoint in {finished}/checkpoint', said[2])
    assert len(said) == 3


def test_finished_run_has_nothing_left_to_do(
    deeplab: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (deeplab / 'metrics.jsonl').read_bytes(), (deeplab / 'state.ckpt').stat().st_mtime_ns
    best = max(row['mIoU'] for row in rows(deeplab))
    assert main([str(config), str(deeplab), f'network={flow(DEEPLAB)}']) == 0
    assert f'best mIoU {best:.4f}' in capsys.readouterr().out
    after = (deeplab / 'metrics.jsonl').read_bytes(), (deeplab / 'state.ckpt').stat().st_mtime_ns
    assert before == after
    assert client().get_run(run_id(deeplab)).info.status == 'FINISHED'


@pytest.mark.parametrize(
    ('accident', 'epochs'),
    [
        (runs.kill_in_mid_epoch, [0]),
        (runs.kill_in_first_epoch, []),
        (runs.kill_before_the_state_is_kept, [0]),
        (runs.kill_while_the_state_is_moved, [0, 1]),
    ],
)
def test_killed_run_ends_as_if_nothing_had_happened(
    accident: runs.Accident, epochs: list[int], config: Path, place: Path, deeplab: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    arguments = [str(config), str(tmp_path / 'run')]
    assert runs.run(arguments, place, accident)[0] == -9
    assert [row['epoch'] for row in rows(tmp_path / 'run')] == epochs
    done, said = runs.run(arguments, place)
    assert done == 0, said
    assert_same_outcome(tmp_path / 'run', deeplab)
    history = client().get_metric_history(run_id(tmp_path / 'run'), 'imgs_per_sec')
    assert [m.step for m in sorted(history, key=lambda m: m.step)] == [0, 1]


def test_killed_mask2former_ends_as_if_nothing_had_happened(
    config: Path, place: Path, tmp_path: Path
) -> None:
    """Its loss samples points, and its decoder uses dropout."""
    whole = run_once('mask2former', config, place)
    overrides = ['family=mask2former', f'network={flow(MASK2FORMER)}']
    arguments = [str(config), str(tmp_path / 'run'), *overrides]
    assert runs.run(arguments, place, runs.kill_in_mid_epoch)[0] == -9
    assert runs.run(arguments, place)[0] == 0
    assert_same_outcome(tmp_path / 'run', whole)


@pytest.mark.parametrize('accident', [runs.interrupt, runs.terminate])
def test_interrupted_run_says_so_and_goes_on(
    accident: runs.Accident, config: Path, place: Path, deeplab: Path, tmp_path: Path
) -> None:
    arguments = [str(config), str(tmp_path / 'run')]
    done, said = runs.run(arguments, place, accident)
    assert done == 130
    assert said.splitlines()[-1] == (
        'interrupted; repeat the command to resume after the last complete epoch'
    )
    assert len(said.splitlines()) == 2  # the line of the first epoch, and this one
    assert client().get_run(run_id(tmp_path / 'run')).info.status == 'KILLED'
    assert runs.run(arguments, place)[0] == 0
    assert_same_outcome(tmp_path / 'run', deeplab)
    assert client().get_run(run_id(tmp_path / 'run')).info.status == 'FINISHED'


def test_checkpoint_survives_a_kill_while_it_is_replaced(
    config: Path, place: Path, tmp_path: Path
) -> None:
    arguments = [str(config), str(tmp_path / 'run'), 'epochs=4', 'ema=0', 'learning_rate=0.003']
    assert runs.run(arguments, place, runs.kill_between_the_renames)[0] == -9
    assert not (tmp_path / 'run' / 'checkpoint').exists()
    done, said = runs.run(
        [*arguments, 'notes=x'], place, runs.fill_disk_before_the_first_checkpoint
    )
    assert done == 1, said
    assert load_checkpoint(str(tmp_path / 'run' / 'checkpoint')).spec.provenance['epoch'] == 1


@pytest.mark.parametrize(
    ('accident', 'what', 'epochs'),
    [
        (runs.fill_disk_before_the_first_checkpoint, 'checkpoint', 0),
        (runs.fill_disk_before_the_second_state, 'state.ckpt', 1),
        (runs.fill_disk_before_the_second_figures, '', 1),
    ],
)
def test_full_disk_is_named_and_costs_nothing_finished(
    accident: runs.Accident, what: str, epochs: int, config: Path, place: Path, deeplab: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / 'run'
    arguments = [str(config), str(folder)]
    done, said = runs.run(arguments, place, accident)
    assert done == 1, said
    assert 'Traceback' not in said
    assert not re.search('warning: .{400}', said)
    errors = [line for line in said.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1, said
    assert errors[0].startswith(f'error: {folder / what} cannot be written: ')
    assert 'File too large' in errors[0]
    assert 'free disk space there and repeat the command' in errors[0]
    assert not list(folder.glob('*.new'))
    assert (folder / 'state.ckpt').exists() == (epochs > 0)
    if epochs:
        assert state(folder)['epoch'] == epochs - 1
        load_checkpoint(str(folder / 'checkpoint'))
    assert runs.run(arguments, place)[0] == 0
    assert_same_outcome(folder, deeplab)


def small(config: Path, folder: Path, *overrides: str) -> int:
    """Train for one epoch in this process; returns the exit status."""
    return main([str(config), str(folder), 'epochs=1', *overrides])


def test_run_without_a_better_epoch_stops(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = ['epochs=9', 'patience=2', *STILL]
    assert main([str(config), str(tmp_path), *still]) == 0
    found = rows(tmp_path)
    assert [row['epoch'] for row in found] == [0, 1, 2]
    assert main([str(config), str(tmp_path), *still]) == 0
    assert rows(tmp_path) == found  # the run does not continue
    known = load_checkpoint(str(tmp_path / 'checkpoint')).spec.provenance
    assert known['epoch'] == 1
    # The checkpoint tells of the epochs after its own, too, and so does the copy that is sent.
    assert [point['epoch'] for point in known['curve']] == [1, 2, 3]
    sent = Spec.read(tmp_path / 'artifacts' / 'checkpoint' / SPEC_FILE)
    assert sent.provenance == known


def test_patience_counts_epochs(config: Path, tmp_path: Path) -> None:
    still = ['epochs=9', 'patience=3', 'evaluate_every=2', *STILL]
    assert main([str(config), str(tmp_path), *still]) == 0
    # The epoch in which patience ends is evaluated, because it may be the best.
    assert [row['epoch'] for row in rows(tmp_path)] == [1, 3, 4]
    assert state(tmp_path)['epoch'] == 4


def test_patience_counts_epochs_of_a_killed_run_too(
    config: Path, place: Path, tmp_path: Path
) -> None:
    """Lightning's EarlyStopping would not count the third epoch, which is not evaluated."""
    still = ['epochs=9', 'patience=3', 'evaluate_every=2', *STILL]
    arguments = [str(config), str(tmp_path / 'run'), *still]
    assert runs.run(arguments, place, runs.kill_in_third_epoch)[0] == -9
    assert runs.run(arguments, place)[0] == 0
    assert [row['epoch'] for row in rows(tmp_path / 'run')] == [1, 3, 4]


def test_last_epoch_is_evaluated(config: Path, tmp_path: Path) -> None:
    assert main([str(config), str(tmp_path), 'epochs=3', 'evaluate_every=2']) == 0
    assert [row['epoch'] for row in rows(tmp_path)] == [1, 2]


def test_label_scheme_of_ones_own_goes_with_the_checkpoint(
    config: Path, place: Path, tmp_path: Path
) -> None:
    own = place / 'mine.yaml'
    own.write_text((config_dir() / 'labels' / 'cityscapes8.yaml').read_text(encoding='utf-8'))
    assert small(config, tmp_path, 'label_scheme=mine.yaml') == 0
    own.unlink()
    scheme = load_checkpoint(str(tmp_path / 'checkpoint')).scheme
    assert (scheme.name, scheme.learned) == ('mine', CATEGORIES.learned)


def test_each_evaluation_is_told_at_once(config: Path, place: Path, tmp_path: Path) -> None:
    """Output to a file must not be buffered until thousands of lines have accumulated."""
    arguments = [str(config), str(tmp_path / 'run')]
    assert runs.run(arguments, place, runs.kill_in_mid_epoch)[1].startswith('epoch 1 of 2: ')


def test_peak_memory_is_that_of_the_run(config: Path, tmp_path: Path) -> None:
    """Memory used before the run, for instance by another trial of a search, is excluded."""
    before_mb = 500 + peak_memory_mb(torch.device('cpu'))
    np.ones(round(before_mb * 2**20 / 8))
    assert peak_memory_mb(torch.device('cpu')) > before_mb
    assert small(config, tmp_path) == 0
    assert 0 < rows(tmp_path)[0]['peak_memory_mb'] < before_mb


def test_without_an_average_the_newest_weights_are_kept(config: Path, tmp_path: Path) -> None:
    assert small(config, tmp_path, 'ema=0') == 0
    found = load_checkpoint(str(tmp_path / 'checkpoint')).load_network().state_dict()
    kept = state(tmp_path)
    assert 'current_model_state' not in kept
    for name, tensor in found.items():
        newest = kept['state_dict'][f'graph.network.{name}']
        assert torch.allclose(tensor, newest.half().to(tensor.dtype)), name


def test_with_an_average_it_is_what_is_kept(config: Path, tmp_path: Path) -> None:
    assert small(config, tmp_path) == 0
    kept, best = state(tmp_path), load_checkpoint(str(tmp_path / 'checkpoint'))
    for name, tensor in best.load_network().state_dict().items():
        averaged = kept['state_dict'][f'graph.network.{name}']
        assert torch.allclose(tensor, averaged.half().to(tensor.dtype)), name
    head = 'graph.network.model.segmentation_head.0.weight'
    assert not torch.equal(kept['state_dict'][head], kept['current_model_state'][head])


def test_another_experiment_in_the_same_folder_is_refused(
    deeplab: Path, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (deeplab / 'experiment.yaml').read_bytes()
    assert main([str(config), str(deeplab), 'learning_rate=0.5', 'seed=3']) == 1
    said = capsys.readouterr().err
    assert 'contains a run of a different experiment' in said
    assert '(different fields: learning_rate, seed); choose another folder' in said
    assert (deeplab / 'experiment.yaml').read_bytes() == before


def test_what_does_not_change_the_outcome_may_change(
    config: Path, tmp_path: Path, place: Path
) -> None:
    assert small(config, tmp_path / 'run') == 0
    assert small(config, tmp_path / 'run', f'cache={tmp_path / "c"}', 'notes=other') == 0


def test_mistake_can_be_corrected_in_the_same_folder(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that failed before its start does not occupy the folder."""
    assert small(config, tmp_path / 'run', 'train.0.set=street') == 1
    assert "unknown data set 'street'" in capsys.readouterr().err
    assert small(config, tmp_path / 'run') == 0


class Evil:
    """Object that runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('damage', ['garbage', 'cut', 'empty', 'list', 'evil'])
def test_damaged_state_is_named(
    deeplab: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    whole = (deeplab / 'state.ckpt').read_bytes()
    (tmp_path / 'list').write_bytes(b'')
    torch.save([1, 2], tmp_path / 'list')
    torch.save({'epoch': 1, 'x': Evil(tmp_path / 'made')}, tmp_path / 'evil')
    content = {
        'garbage': b'garbage', 'cut': whole[: len(whole) // 2], 'empty': b'',
        'list': (tmp_path / 'list').read_bytes(), 'evil': (tmp_path / 'evil').read_bytes(),
    }  # fmt: skip
    (tmp_path / 'state.ckpt').write_bytes(content[damage])
    assert small(config, tmp_path) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'error: {tmp_path}/state.ckpt is damaged (')
    assert 'remove it to restart the run' in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / 'made').exists()


def test_state_with_code_in_it_is_not_run_by_the_library_either(
    deeplab: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Besides our own check, Lightning also loads only tensors and plain values."""
    kept = state(deeplab)
    torch.save(kept | {'epoch': 0, 'x': Evil(tmp_path / 'made')}, tmp_path / 'state.ckpt')
    monkeypatch.setattr('training.train._completed_epochs', lambda _: 1)
    with pytest.raises(pickle.UnpicklingError, match='weights_only'):
        main([str(config), str(tmp_path)])
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('family', ['deeplabv3plus', 'mask2former'])
def test_loss_that_explodes_ends_the_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    network = [f'family={family}', f'network={flow(FAMILIES[family])}']
    assert small(config, tmp_path, *network, 'learning_rate=1e30', 'warm_up=0') == 1
    said = capsys.readouterr().err
    assert re.match(r'error: loss is (nan|inf) at step [12]; lower learning_rate', said)
    assert client().get_run(run_id(tmp_path)).info.status == 'FAILED'


def test_bad_image_is_named_before_anything_begins(
    place: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / 'streets', 'train', 3)
    write_folders(tmp_path / 'streets', 'val', 1)
    write_cityscapes(tmp_path / 'towns', 'train', 1)
    path = tmp_path / 'streets' / 'val' / 'images' / '000.png'
    path.write_bytes(path.read_bytes()[:-20])
    assert small(config, tmp_path / 'run', f'data_root={tmp_path}') == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f'error: {path} cannot be read: ' + said[0].partition('cannot be read: ')[2]]
    assert 'cut short' in said[0]
    assert not (tmp_path / 'run' / 'state.ckpt').exists()


def test_validation_without_labels_is_named(
    config: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / 'blank', 'val', 1)
    from segmentation_node.images.files import encode_png

    labels = encode_png(np.full((64, 96), 11, np.uint8))
    (tmp_path / 'blank' / 'val' / 'labels' / '000.png').write_bytes(labels)
    blank = {'layout': 'folders', 'root': str(tmp_path / 'blank'), 'scheme': 'camvid11'}
    overrides = [f'datasets.blank={flow(blank)}', 'val={v: {set: blank, split: val}}']
    assert small(config, tmp_path / 'run', *overrides) == 1
    assert "validation set 'v' has no pixel of a scored class" in capsys.readouterr().err


def test_folder_that_cannot_be_made_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').write_text('', encoding='utf-8')
    assert small(config, tmp_path / 'file') == 1
    assert capsys.readouterr().err.startswith(f'error: {tmp_path}/file cannot be written')


def test_device_that_is_not_there_is_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small(config, tmp_path, 'strategy=ddd') == 1
    assert capsys.readouterr().err.startswith('error: accelerator cpu, devices 1, strategy ddd')


class Down(BaseHTTPRequestHandler):
    """Server that fails every request and counts them."""

    asked = 0

    def do_POST(self) -> None:
        Down.asked += 1
        self.send_error(503)

    def log_message(self, *_: Any) -> None:
        pass


def test_store_that_is_down_is_told_after_a_few_tries(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with ThreadingHTTPServer(('127.0.0.1', 0), Down) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        uri = f'http://127.0.0.1:{server.server_port}'
        monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
        assert small(config, tmp_path / 'run') == 1
        server.shutdown()
    assert Down.asked == 3  # by default, the library would retry for minutes
    said = capsys.readouterr().err
    assert f'error: MLflow at {uri} cannot be used (' in said
    assert 'unset MLFLOW_TRACKING_URI' in said
    assert not (tmp_path / 'run' / 'metrics.jsonl').read_text(encoding='utf-8')
    monkeypatch.delenv('MLFLOW_TRACKING_URI')
    assert small(config, tmp_path / 'run') == 0


def test_mistakes_are_told_in_one_line(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(config), str(tmp_path / 'run'), 'speed=3']) == 1
    assert capsys.readouterr().err.startswith(f'error: {config}: unknown field speed')
    assert not (tmp_path / 'run').exists()


def experiment(**changes: Any) -> Experiment:
    return Experiment.model_validate(fields(Path(), **changes))


@pytest.mark.parametrize('schedule', ['cosine', 'poly'])
def test_rate_warms_up_and_falls_to_nearly_nothing(schedule: str) -> None:
    wanted = experiment(warm_up=0.1, schedule=schedule)
    rates = [rate_at(step, 100, wanted) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5 if schedule == 'cosine' else 0.5**0.9)
    assert 0 < rates[99] < 0.03
    assert all(a >= b for a, b in pairwise(rates[10:]))
    assert rate_at(0, 1, wanted) == 1


def test_average_follows_the_weights() -> None:
    average = Average(0.9)
    averaged: Any = torch.optim.swa_utils.AveragedModel(
        torch.nn.BatchNorm1d(1), use_buffers=True, **average._kwargs
    )
    network = torch.nn.BatchNorm1d(1)
    averaged.update_parameters(network)  # the first update copies the weights
    with torch.no_grad():
        network.weight.fill_(2.0)
    network.running_mean.fill_(5.0)  # type: ignore[union-attr]
    averaged.update_parameters(network)
    share = (1 + 1) / (10 + 1)  # the decay starts small
    assert averaged.module.weight.item() == pytest.approx(share + 2 * (1 - share))
    assert averaged.module.running_mean.item() == pytest.approx(5 * (1 - share))
    averaged.n_averaged.fill_(10_000)
    before = averaged.module.weight.item()
    averaged.update_parameters(network)
    assert averaged.module.weight.item() == pytest.approx(before * 0.9 + 2 * 0.1)


def test_without_git_the_revision_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    # The working directory is not in a repository.
    assert re.fullmatch(r'[0-9a-f]{40}(\+changes)?', provenance.revision())
    monkeypatch.setenv('PATH', '')
    assert provenance.revision() == 'unknown'


def test_curve_leaves_out_what_is_no_number(deeplab: Path) -> None:
    curve = load_checkpoint(str(deeplab / 'checkpoint')).spec.provenance['curve']
    assert all(math.isfinite(v) for point in curve for v in point.values())


def test_store_is_the_embedded_one(place: Path, deeplab: Path) -> None:
    assert (place / 'runs' / 'mlflow.db').is_file()
    assert isinstance(client(), MlflowClient)
