# SPDX-License-Identifier: Apache-2.0
"""Tests of the evaluation and its command with real data, networks and bags."""

import copy
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from bag_making import image_cdr, image_topic, label_cdr, stamp_ns, string_cdr, string_topic
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import (  # type: ignore[import-untyped]
    args as official_args,
)
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from fitted_model import write_fitted_model
from training_data import street, write_experiment, write_folders

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags.images_to_bag import main as images_to_bag
from segmentation_node.bags.score_bag import score_bag
from segmentation_node.bags.segment_bag import main as segment_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import DatasetError, SettingError
from segmentation_node.images.files import encode_png
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion, truth_lut_of
from segmentation_node.segmenter import Segmenter
from training.config import Experiment, Use, catalog
from training.datasets import open_files
from training.evaluate import main
from training.evaluation import evaluate, evaluate_recorded
from training.evaluation_folder import KEYS
from training.frame_counts import parse_frame_counts
from training.labeled_frames import BagFrames, FileFrames
from training.scenes.render import Renderer
from training.scenes.street import Street

CATEGORIES = load_scheme('cityscapes8')
LABEL_IDS = load_scheme('cityscapes34')
TRAIN_IDS = load_scheme('cityscapes19')
FRAMES = 3
Image = UInt8Array


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


@pytest.fixture(scope='module')
def bag(data: Path) -> Path:
    """Bag with the same frames."""
    folder = data / 'camvid' / 'val'
    path = data / 'frames.mcap'
    assert images_to_bag([
        '--images', str(folder / 'images'), '--labels', str(folder / 'labels'),
        '--label-scheme', 'camvid11', '--output', str(path), '--quiet',
    ]) == 0  # fmt: skip
    return path


def arguments(model: Path, data: Path, output: Path, *more: str) -> list[str]:
    return [
        str(model), '--set', 'camvid', '--split', 'val', '--data-root', str(data),
        '--output', str(output), '--device', 'cpu', '--precision', 'fp32', '--quiet', *more,
    ]  # fmt: skip


@pytest.fixture(scope='module')
def written(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder written by the command."""
    output = tmp_path_factory.mktemp('written') / 'whole'
    assert main(arguments(model, data, output, '--worst', '2')) == 0
    return output


def scores_of(folder: Path) -> Any:
    return json.loads((folder / 'scores.json').read_text(encoding='utf-8'))


# Written files.


def test_figures_are_those_of_the_segmenter_and_one_table(written: Path, model: Path) -> None:
    segmenter = Segmenter(str(model), runtime='torch', device='cpu', precision='fp32')
    lut = load_scheme('camvid11').mapping_to(CATEGORIES)  # unlabeled becomes void
    confusion = Confusion()
    for seed in range(FRAMES):
        image, ids = street(seed)
        confusion.add(lut[ids], segmenter.segment([image]).labels[0])
    expected = confusion.scores(CATEGORIES)
    figures = scores_of(written)['figures']
    assert figures['mIoU'] == expected.miou()
    assert figures['pixel_acc'] == expected.pixel_accuracy()
    assert figures['Dice'] == expected.mean_dice()
    for name, iou in expected.class_iou().items():
        assert figures.get(f'IoU/{name}', math.nan) == pytest.approx(iou, nan_ok=True)
    # The classes are the categories, and CamVid's void truth is not scored.
    assert figures['category_mIoU'] == figures['mIoU']
    assert 0.2 < figures['mIoU'] < 0.9
    assert 0 < figures['boundary_F'] < 1
    assert 0 < figures['ECE'] < 1


def test_every_key_is_explained(written: Path) -> None:
    content = scores_of(written)
    assert set(content) == set(KEYS)
    assert content['frames'] == FRAMES
    assert content['mode'] == 'whole'
    assert content['runs_on'] == 'torch, cpu, fp32'
    assert content['boundary'] == {
        'tolerance': 0.0075,
        'tolerances_px': [round(0.0075 * math.hypot(64, 96), 2)],
    }
    assert all(isinstance(value, float) for value in content['figures'].values())


def test_confusion_and_reliability_hold_every_scored_pixel(written: Path) -> None:
    content = scores_of(written)
    scored = FRAMES * 61 * 96  # the last 3 rows are unlabeled
    assert content['classes'] == [
        'flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle', 'other',
    ]  # fmt: skip
    assert np.array(content['confusion']).shape == (7, 8)
    assert np.array(content['confusion']).sum() == scored
    assert sum(row['pixels'] for row in content['reliability']) == scored
    hits = np.trace(np.array(content['confusion']))
    assert hits / scored == pytest.approx(content['figures']['pixel_acc'])


def test_counts_of_each_frame_add_up(written: Path) -> None:
    scores = scores_of(written)
    content = (written / 'frame_counts.json').read_bytes()
    [(data, frames)] = parse_frame_counts(content).items()
    assert data == scores['data']
    assert len(frames) == FRAMES
    assert frames.miou() == pytest.approx(scores['figures']['mIoU'], abs=1e-12)
    confusion = np.array(scores['confusion'])
    assert list(frames.classes) == scores['classes'][:-1]
    correct, truth, predicted = frames.counts.sum(axis=0)
    assert correct.tolist() == confusion.diagonal().tolist()
    assert truth.tolist() == confusion.sum(axis=1).tolist()
    assert predicted.tolist() == confusion.sum(axis=0)[:-1].tolist()


def test_interval_contains_the_score(written: Path) -> None:
    scores = scores_of(written)
    low, high = scores['mIoU_interval']
    assert low <= scores['figures']['mIoU'] <= high
    report = (written / 'report.md').read_text(encoding='utf-8')
    assert f'confidence interval of mIoU is {low:.4f} to {high:.4f}' in report


def test_one_frame_has_no_interval(model: Path, data: Path, tmp_path: Path) -> None:
    assert main(arguments(model, data, tmp_path / 'one', '--count', '1')) == 0
    assert scores_of(tmp_path / 'one')['mIoU_interval'] is None
    report = (tmp_path / 'one' / 'report.md').read_text(encoding='utf-8')
    assert 'mIoU has no confidence interval, which requires 2 to 20000 frames.' in report


def test_confidence_is_that_of_the_segmenter(written: Path, model: Path) -> None:
    segmenter = Segmenter(str(model), runtime='torch', device='cpu', precision='fp32')
    of_scored = [segmenter.segment([street(i)[0]]).confidence[0, :-3] for i in range(FRAMES)]
    table = [row for row in scores_of(written)['reliability'] if row['pixels']]
    mean = np.average([r['confidence'] for r in table], weights=[r['pixels'] for r in table])
    assert mean == pytest.approx(np.mean(of_scored) / 255)


def test_worst_frames_come_first_and_as_pictures(written: Path) -> None:
    worst = scores_of(written)['worst']
    assert len(worst) == 2
    assert worst[0]['mIoU'] <= worst[1]['mIoU']
    for frame in worst:
        assert frame['name'] in frame['picture']
        picture = cv2.imread(str(written / frame['picture']))
        assert picture is not None
        assert picture.shape[1] > 4 * 480
    assert len(list((written / 'worst').iterdir())) == 2


def test_confusion_is_a_picture(written: Path) -> None:
    picture = cv2.imread(str(written / 'confusion.png'))
    assert picture is not None
    assert min(picture.shape[:2]) > 400


def test_report_tells_the_figures_and_shows_the_pictures(written: Path) -> None:
    report = (written / 'report.md').read_text(encoding='utf-8')
    content = scores_of(written)
    for name in ('mIoU', 'Dice', 'pixel_acc', 'boundary_F', 'ECE', 'category_mIoU'):
        assert f'| {name} | {content["figures"][name]:.4f} |' in report
    assert f'| flat | {content["figures"]["IoU/flat"]:.4f} | ' in report
    assert '0.0075 of the diagonal = 0.87 pixels' in report
    links = re.findall(r'!\[([^\]]+)\]\(([^)]+)\)', report)
    assert {link for _, link in links} == {
        'confusion.png', *(frame['picture'] for frame in content['worst']),
    }  # fmt: skip
    assert all(len(text) > 20 for text, _ in links)
    for frame in content['worst']:
        assert f'### {frame["name"]}: mIoU {frame["mIoU"]:.3f}' in report


def test_the_command_as_a_process(model: Path, data: Path, tmp_path: Path) -> None:
    command = [sys.executable, '-m', 'training.evaluate']
    given = arguments(model, data, tmp_path / 'out', '--count', '1', '--worst', '0')
    done = subprocess.run([*command, *given], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r'^mIoU 0\.\d{4}, ', done.stdout)
    assert '1 frames of camvid val, 1 frames by seed 0; report in' in done.stdout
    assert list((tmp_path / 'out' / 'worst').iterdir()) == []


# Modes.


def test_a_window_as_large_as_the_image_gives_the_same(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    assert main(arguments(model, data, tmp_path / 'w', '--window', '64', '96')) == 0
    sliding = scores_of(tmp_path / 'w')
    whole = scores_of(written)['figures']
    # All labels are the same. A confidence halfway between two bytes may be rounded either way.
    assert sliding['figures'].pop('ECE') == pytest.approx(whole.pop('ECE'), abs=1e-5)
    assert sliding['figures'] == whole
    assert sliding['mode'] == 'sliding window 64 x 96, overlap 0.33'


@pytest.mark.parametrize(
    ('options', 'mode'),
    [
        ('--window 32 48 --overlap 0.5', 'sliding window 32 x 48, overlap 0.50'),
        ('--scales 0.5,1 --flip', 'scales 0.5 1, mirrored, too'),
        ('--input-size 32 48', 'whole, images fitted into 32 x 48'),
        ('--multi-scale', 'scales 0.5 0.75 1 1.25 1.5 1.75'),
    ],
)
def test_other_modes_give_other_figures(
    written: Path, model: Path, data: Path, tmp_path: Path, options: str, mode: str
) -> None:
    assert main(arguments(model, data, tmp_path / 'm', *options.split())) == 0
    found = scores_of(tmp_path / 'm')
    assert found['mode'] == mode
    assert found['figures'] != scores_of(written)['figures']


# Bags.


def test_a_bag_of_the_same_frames_gives_the_same(
    written: Path, model: Path, bag: Path, tmp_path: Path
) -> None:
    output = tmp_path / 'bag'
    assert main([
        str(model), '--bag', str(bag), '--output', str(output), '--device', 'cpu',
        '--precision', 'fp32', '--quiet',
    ]) == 0  # fmt: skip
    of_bag, of_files = scores_of(output), scores_of(written)
    for key in ('figures', 'confusion', 'reliability', 'boundary'):
        assert of_bag[key] == of_files[key]


def test_recorded_masks_score_as_the_model_that_made_them(
    written: Path, model: Path, bag: Path, tmp_path: Path
) -> None:
    masks = tmp_path / 'masks.mcap'
    assert segment_bag([
        str(bag), '--output', str(masks), '--model', str(model), '--runtime', 'torch',
        '--device', 'cpu', '--precision', 'fp32', '--outputs', 'label_mask,confidence', '--quiet',
    ]) == 0  # fmt: skip
    recorded = ['--bag', str(masks), '--predicted', '/segmentation_node/label_mask', '--quiet']
    assert main([*recorded, '--output', str(tmp_path / 'out')]) == 0
    found = scores_of(tmp_path / 'out')
    assert found['figures'] == scores_of(written)['figures']
    assert found['mode'] == 'as recorded'
    assert found['figures']['mIoU'] == score_bag(masks).scores.miou()


def test_masks_without_confidence_have_no_calibration(tmp_path: Path) -> None:
    ids = np.kron([[1, 1, 7]], np.ones((24, 1))).repeat(11, axis=1)[:, :32].astype(np.uint8)
    path = write_labeled_bag(tmp_path / 'bag', [(ids, ids)], 'cityscapes8', 'cityscapes8')
    found = evaluate_recorded(BagFrames(path, predicted_topic='/segmentation_node/label_mask'))
    assert found.calibration is None
    assert found.figures()['mIoU'] == 1
    assert 'ECE' not in found.figures()
    output = ['--output', str(tmp_path / 'out'), '--quiet']
    recorded = ['--bag', str(path), '--predicted', '/segmentation_node/label_mask']
    assert main([*recorded, *output]) == 0
    assert scores_of(tmp_path / 'out')['reliability'] is None
    assert 'No confidence was recorded' in (tmp_path / 'out' / 'report.md').read_text()


def write_labeled_bag(
    path: Path, frames: list[tuple[Image, Image]], truth_scheme: str, mask_scheme: str
) -> Path:
    """Write a bag with camera images, truth and label masks."""
    with BagWriter(path) as out:
        for namespace, scheme in (
            ('/ground_truth', truth_scheme), ('/segmentation_node', mask_scheme),
        ):  # fmt: skip
            text = string_cdr(load_scheme(scheme).to_json())
            out.write(string_topic(f'{namespace}/label_info_json'), stamp_ns(0), text)
        for index, (truth, mask) in enumerate(frames):
            gray = np.zeros((*truth.shape, 3), np.uint8)
            for topic, cdr in (
                ('/image', image_cdr(index, gray)),
                ('/ground_truth/label_mask', label_cdr(index, truth)),
                ('/segmentation_node/label_mask', label_cdr(index, mask)),
            ):
                out.write(image_topic(topic), stamp_ns(index), cdr)
    return path


# Comparison with the official Cityscapes evaluation on the same label images.


def random_truth() -> list[Image]:
    return [np.random.default_rng(i).integers(0, 34, (60, 90), np.uint8) for i in range(3)]


def scene_truth() -> list[Image]:
    renderer = Renderer(256, 128)
    return [renderer.render(Street(seed), 1.0).label_ids for seed in (7, 8)]


def guess(truth: Image, seed: int) -> Image:
    """Partly correct train ids, with a border of other classes and some void."""
    rng = np.random.default_rng(seed)
    right = LABEL_IDS.mapping_to(TRAIN_IDS)[np.roll(truth, 3, axis=1)]
    noise = rng.choice(np.array([c.id for c in TRAIN_IDS.classes], np.uint8), truth.shape)
    return np.where(rng.random(truth.shape) < 0.7, right, noise)


def official(truths: list[Image], guesses: list[Image], folder: Path) -> Any:
    """Return the result of the official Cityscapes evaluation of label files."""
    to_label_id = TRAIN_IDS.mapping_to(LABEL_IDS)
    files: tuple[list[str], list[str]] = ([], [])
    for index, (truth, found) in enumerate(zip(truths, guesses, strict=True)):
        pair = (to_label_id[found], f'{index}_pred.png'), (truth, f'{index}_labelIds.png')
        for names, (ids, name) in zip(files, pair, strict=True):
            (folder / name).write_bytes(encode_png(ids))
            names.append(str(folder / name))
    settings = copy.copy(official_args)
    settings.quiet, settings.JSONOutput, settings.evalInstLevelScore = True, False, False
    return evaluateImgLists(*files, settings)


@pytest.mark.parametrize('truth_of', [random_truth, scene_truth])
def test_scores_are_the_official_ones(truth_of: Any, tmp_path: Path) -> None:
    truths = truth_of()
    guesses = [guess(truth, seed) for seed, truth in enumerate(truths)]
    reference = official(truths, guesses, tmp_path)
    pairs = list(zip(truths, guesses, strict=True))
    path = write_labeled_bag(tmp_path / 'bag', pairs, 'cityscapes34', 'cityscapes19')
    frames = BagFrames(path, predicted_topic='/segmentation_node/label_mask')

    found = evaluate_recorded(frames)
    classes = found.scores.class_iou()
    assert len(classes) == 19
    expected = {name: reference['classScores'][name] for name in classes}
    assert classes == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert found.scores.miou() == pytest.approx(reference['averageScoreClasses'], abs=1e-9)

    categories = found.scores.category_iou()
    assert len(categories) == 7
    expected = {name: reference['categoryScores'][name] for name in categories}
    assert categories == pytest.approx(expected, abs=1e-9, nan_ok=True)
    average = reference['averageScoreCategories']
    assert found.figures()['category_mIoU'] == pytest.approx(average, abs=1e-9)

    # The same, with the categories as classes of a scheme.
    coarse = evaluate_recorded(frames, label_scheme='cityscapes8')
    assert coarse.scores.class_iou() == pytest.approx(expected, abs=1e-9, nan_ok=True)
    assert coarse.figures()['mIoU'] == pytest.approx(average, abs=1e-9)


def test_unscored_truth_counts_nowhere(tmp_path: Path) -> None:
    """Parking is flat but not scored, and neither are the pixels next to it."""
    truth = np.full((24, 32), 7, np.uint8)
    truth[:, 16:] = 9
    mask = np.full((24, 32), 1, np.uint8)
    mask[:, 16:] = 7
    assert truth_lut_of(LABEL_IDS, CATEGORIES)[9] == -1
    path = write_labeled_bag(tmp_path / 'bag', [(truth, mask)], 'cityscapes34', 'cityscapes8')
    found = evaluate_recorded(BagFrames(path, predicted_topic='/segmentation_node/label_mask'))
    assert found.scores.counts.sum() == 24 * 16
    assert found.figures() == {
        **dict.fromkeys(('mIoU', 'mIoU_with_void', 'Dice', 'pixel_acc'), 1.0),
        **dict.fromkeys(('category_mIoU', 'category_mIoU_with_void'), 1.0),
        **dict.fromkeys(('IoU/flat', 'Dice/flat', 'category_IoU/flat'), 1.0),
        'category_IoU_with_void/flat': 1.0,
    }


def test_void_truth_counts_only_with_void(tmp_path: Path) -> None:
    truth = np.full((24, 32), 7, np.uint8)
    truth[:12] = 1  # the hood of the own car
    mask = np.full((24, 32), 1, np.uint8)
    path = write_labeled_bag(tmp_path / 'bag', [(truth, mask)], 'cityscapes34', 'cityscapes8')
    found = evaluate_recorded(BagFrames(path, predicted_topic='/segmentation_node/label_mask'))
    assert found.figures()['mIoU'] == found.figures()['category_mIoU'] == 1
    assert 'boundary_F' not in found.figures()  # an edge between road and void is not a boundary
    assert found.figures()['category_IoU_with_void/void'] == 0
    assert found.figures()['category_mIoU_with_void'] == pytest.approx((0 + 1 / 2) / 2)


# The function.


def small(data: Path) -> FileFrames:
    experiment = Experiment.model_construct(data_root=str(data))
    return FileFrames(open_files(experiment, Use(set='camvid', split='val')), 'camvid val')


def test_as_a_function(written: Path, model: Path, data: Path) -> None:
    segmenter = Segmenter(str(model), runtime='torch', device='cpu', precision='fp32')
    found = evaluate(segmenter, small(data))
    assert found.figures() == scores_of(written)['figures']
    assert len(found.worst) == FRAMES
    assert (found.model, found.data, found.mode) == (str(model), 'camvid val', 'whole')
    # The figures of each frame follow the same rules.
    lut = load_scheme('camvid11').mapping_to(CATEGORIES)
    for frame in found.worst:
        image, ids = street(int(frame.name))
        own = Confusion()
        own.add(lut[ids], segmenter.segment([image]).labels[0])
        assert frame.miou == own.scores(CATEGORIES).miou()
    assert [f.miou for f in found.worst] == sorted(f.miou for f in found.worst)


def test_a_wider_tolerance_forgives_more(model: Path, data: Path) -> None:
    segmenter = Segmenter(str(model), runtime='torch', device='cpu', precision='fp32')
    usual, wide = (evaluate(segmenter, small(data), tolerance=t, worst=0) for t in (0.0075, 0.05))
    assert wide.figures()['boundary_F'] > usual.figures()['boundary_F']
    assert wide.figures()['mIoU'] == usual.figures()['mIoU']
    assert wide.worst == ()


def test_nothing_but_void_cannot_be_scored(tmp_path: Path) -> None:
    void = np.full((24, 32), 11, np.uint8)
    path = write_labeled_bag(tmp_path / 'bag', [(void, void % 8)], 'camvid11', 'cityscapes8')
    with pytest.raises(
        DatasetError, match='1 frames without a pixel whose truth is a scored class'
    ):
        evaluate_recorded(BagFrames(path, predicted_topic='/segmentation_node/label_mask'))
    with pytest.raises(SettingError, match='opened without recorded label masks'):
        evaluate_recorded(BagFrames(path))


# The output folder.


def test_a_run_gets_it_as_an_artifact(model: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / 'unet run'
    (run / 'checkpoint').parent.mkdir()
    (run / 'checkpoint').symlink_to(model)
    given = ['--run', str(run), '--set', 'camvid', '--split', 'val', '--data-root', str(data)]
    assert main([*given, '--device', 'cpu', '--flip', '--worst', '0', '--quiet']) == 0
    folder = run / 'artifacts' / 'evaluation' / 'camvid_val-mirrored_too'
    assert scores_of(folder)['mode'] == 'mirrored, too'
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_part_of_a_set_does_not_replace_the_whole(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(model), '--set', 'camvid', '--split', 'val', '--data-root', str(data)]
    given += ['--device', 'cpu', '--worst', '0', '--quiet']
    camvid = catalog()['camvid'].model_dump() | {'subsets': {'tiny': {'val': 1}}}
    experiment = write_experiment(tmp_path / 'e.yaml', data, datasets={'camvid': camvid})
    subset = ['--subset', 'tiny', '--experiment', str(experiment)]
    for more in ([], ['--count', '1'], ['--label-scheme', 'cityscapes8'], subset):
        assert main([*given, *more]) == 0
    folder = tmp_path / 'runs/evaluation'
    assert {path.name for path in folder.iterdir()} == {
        'fitted-camvid_val', 'fitted-camvid_val-1_of_seed_0', 'fitted-camvid_val-cityscapes8',
        'fitted-camvid_val-tiny',
    }  # fmt: skip
    report = (folder / 'fitted-camvid_val-tiny' / 'report.md').read_text(encoding='utf-8')
    assert 'camvid val, subset tiny' in report


def test_the_usual_folder_is_named_by_what_and_how(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = [str(model), '--set', 'camvid', '--split', 'val', '--data-root', str(data)]
    assert main([*given, '--device', 'cpu', '--worst', '0', '--quiet']) == 0
    assert (tmp_path / 'runs/evaluation/fitted-camvid_val/report.md').is_file()
    assert main([*given, '--device', 'cpu', '--worst', '0', '--quiet', '--name', 'mine']) == 0
    assert (tmp_path / 'runs/evaluation/mine/report.md').is_file()


def test_an_earlier_evaluation_is_replaced_and_nothing_else(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / 'out'
    assert main(arguments(model, data, output)) == 0
    assert len(list((output / 'worst').iterdir())) == FRAMES
    assert main(arguments(model, data, output, '--worst', '1')) == 0
    assert len(list((output / 'worst').iterdir())) == 1
    (output / 'scores.json').rename(output / 'thesis.txt')
    assert main(arguments(model, data, output)) == 1
    assert 'is not empty and not an evaluation' in capsys.readouterr().err
    assert (output / 'thesis.txt').is_file()


def test_data_sets_of_an_experiment(
    written: Path, model: Path, data: Path, tmp_path: Path
) -> None:
    use = {'set': 'mine', 'split': 'val'}
    content = {
        'family': 'unet', 'label_scheme': 'cityscapes8', 'network': {},
        'train': [{**use, 'share': 1}], 'val': {'mine': use}, 'data_root': str(data),
        'datasets': {'mine': {'layout': 'folders', 'root': 'camvid', 'scheme': 'camvid11'}},
    }  # fmt: skip
    file = tmp_path / 'experiment.yaml'
    file.write_text(yaml.safe_dump(content))
    given = [str(model), '--experiment', str(file), '--set', 'mine', '--split', 'val', '--quiet']
    output = ['--output', str(tmp_path / 'out'), '--device', 'cpu', '--precision', 'fp32']
    assert main([*given, *output]) == 0
    assert scores_of(tmp_path / 'out')['figures'] == scores_of(written)['figures']


# Errors.


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ('m', 'data source: give --set NAME --split NAME, or --bag BAG'),
        ('m --set camvid --split val --bag b', 'expected exactly one data source'),
        ('m --set camvid', '--set camvid requires --split; for example, add --split val'),
        ('m --set camvid --split val --subset s --count 3', 'omit --count and --seed'),
        ('m --bag b --subset s', '--subset requires --set'),
        ('--set camvid --split val', 'expected exactly one thing to evaluate: give a model'),
        ('m --bag b --predicted /a/b', 'expected exactly one thing to evaluate: give a model'),
        ('m --bag b --split val', '--split requires --set; add --set, or omit it'),
        ('m --set camvid --split val --truth /t', '--truth requires --bag'),
        ('--bag b --predicted /a/b --flip', '--flip requires a model'),
        ('m --bag b --overlap 0.5', 'requires windows; add --window H W'),
        ('m --bag b --output o --name n', 'exclude each other; give only one of them'),
        ('m --set kitti --split val', "unknown data set 'kitti'; available: camvid, "),
        ('m --bag nothing.mcap', 'nothing.mcap does not exist'),
        ('no_such_model --set camvid --split val', "no model 'no_such_model'"),
        ('m --set camvid --split val --scales 9', 'each above 0 and at most 4'),
        ('m --set camvid --split val --count 9', 'fewer than the requested subset of 9'),
        ('m --set camvid --split train', "no images of split 'train'"),
    ],
)
def test_mistakes_are_told_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], options: str, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data').symlink_to(data)
    assert main([*options.split(), '--quiet']) == 1
    said = capsys.readouterr().err
    assert said.startswith('evaluate: ')
    assert said.count('\n') == 1
    assert says in said
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'says'),
    [
        ('images/001.png', b'garbage', 'images/001.png cannot be read'),
        ('labels/001.png', encode_png(np.zeros((5, 5), np.uint8)), '001.png has size (5, 5)'),
        (
            'labels/001.png', encode_png(np.full((64, 96), 77, np.uint8)),
            'values that label scheme camvid11 lacks: 77 (6144 pixels)',
        ),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes,
    says: str,
) -> None:  # fmt: skip
    folder = write_folders(tmp_path / 'camvid', 'val', 2)
    (folder / name).write_bytes(content)
    assert main(arguments(model, tmp_path, tmp_path / 'out')) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_pictures_of_different_sizes_in_a_bag_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, mask = np.full((24, 32), 7, np.uint8), np.full((24, 30), 1, np.uint8)
    path = write_labeled_bag(tmp_path / 'bag', [(truth, mask)], 'cityscapes34', 'cityscapes8')
    given = ['--bag', str(path), '--predicted', '/segmentation_node/label_mask', '--quiet']
    assert main([*given, '--output', str(tmp_path / 'out')]) == 1
    said = capsys.readouterr().err
    assert f'at {stamp_ns(0)} ns have the sizes [(24, 30), (24, 32)]' in said


def test_figures_are_told_though_the_disk_is_full(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, 'No space left on device', str(self))

    output = tmp_path / 'out'
    assert main(arguments(model, data, output)) == 0
    before = scores_of(output)
    monkeypatch.setattr(Path, 'write_bytes', full)
    assert main(arguments(model, data, output, '--flip')) == 1
    said = capsys.readouterr()
    assert 'No space left on device' in said.err
    assert len(re.findall('^mIoU 0', said.out, re.MULTILINE)) == 2
    assert scores_of(output) == before
