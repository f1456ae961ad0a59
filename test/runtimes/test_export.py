# SPDX-License-Identifier: Apache-2.0
"""Exporting a model: what is let through, what is not, and what the segmenter makes of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags.camera_frames import evenly_spaced
from segmentation_node.errors import CheckpointError, ExportError
from segmentation_node.export.calibration_images import images_of_folders
from segmentation_node.export.export_model import main
from segmentation_node.export.exporting import Request, export_model
from segmentation_node.export.judging import Judge, share
from segmentation_node.labels import load_scheme
from segmentation_node.runtimes import graph_files
from segmentation_node.runtimes.graph_files import GraphInfo, info_file
from segmentation_node.segmenter import Segmenter

Image = UInt8Array


def picture(seed: int, height: int = 64, width: int = 96) -> Image:
    """Blurred noise: structure at several scales, in colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    stretched = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    return np.asarray(stretched, np.uint8)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('pictures')
    for seed in range(5):
        cv2.imwrite(str(folder / f'{seed}.png'), picture(seed)[..., ::-1])
    return folder


def run(model: Path, pictures: Path, output: Path, *more: str) -> int:
    arguments = ['--model', model, '--images', pictures, '--output', output, '--quiet', *more]
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope='module')
def in_int8(
    tiny_checkpoint: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp('int8') / 'model'
    assert run(tiny_checkpoint, pictures, output, '--precision', 'int8') == 0
    return output


def test_int8_labels_nearly_as_torch(in_int8: Path, tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(in_int8), precision='int8')
    assert (segmenter.runtime, segmenter.precision) == ('openvino', 'int8')
    expected = Segmenter(str(tiny_checkpoint), runtime='torch', precision='fp32')
    for size in ((64, 96), (50, 130)):  # one graph for every size
        shown = picture(7, *size)
        found, wanted = segmenter.segment([shown]), expected.segment([shown])
        assert share(wanted.labels, found.labels) >= 0.95
        # It was quantized: no confidence would be another otherwise.
        assert (found.confidence != wanted.confidence).any()


def test_auto_knows_the_exported_int8(in_int8: Path) -> None:
    segmenter = Segmenter(str(in_int8))
    assert segmenter.precision == 'int8'  # the first to be ready, before anything is measured


def test_an_export_needs_no_torch_and_converts_nothing(in_int8: Path, tmp_path: Path) -> None:
    code = (
        'import sys, numpy as np\n'
        'from segmentation_node.segmenter import Segmenter\n'
        'Segmenter(sys.argv[1], precision="int8").segment(np.zeros((1, 64, 96, 3), np.uint8))\n'
        'assert "torch" not in sys.modules\n'
    )
    environment = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path)}
    command = [sys.executable, '-c', code, str(in_int8)]
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert not (tmp_path / 'segmentation_node/graphs').exists()


def test_an_export_of_other_weights_is_told(in_int8: Path, tmp_path: Path) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    config = (model / 'config.json').read_text(encoding='utf-8')
    (model / 'config.json').write_text(config + '\n', encoding='utf-8')
    with pytest.raises(CheckpointError, match='exported from weights other than'):
        Segmenter(str(model))


@pytest.mark.parametrize('name', ['graph.xml', 'graph.bin'])
@pytest.mark.parametrize('harm', ['flipped', 'cut', 'gone'])
def test_a_damaged_graph_is_told(in_int8: Path, tmp_path: Path, name: str, harm: str) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    path = model / 'graphs/openvino-int8' / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    if harm == 'gone':
        path.unlink()
    else:
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes(flipped if harm == 'flipped' else whole[:middle])
    with pytest.raises(CheckpointError, match=r'damaged|cannot be read'):
        Segmenter(str(model), precision='int8')


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('network: 5', 'must have the keys network, files'),
        ('[]', 'must have the keys network, files'),
        ('{', 'cannot be read'),
        (None, r'has agreement \[1\], expected a dict'),
    ],
)
def test_a_damaged_description_is_told(
    in_int8: Path, tmp_path: Path, text: str | None, says: str
) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    path = info_file(model / 'graphs/openvino-int8')
    if text is None:
        info = GraphInfo.read(path)
        object.__setattr__(info, 'agreement', [1])
        info.write(path)
    else:
        path.write_text(text, encoding='utf-8')
    with pytest.raises(CheckpointError, match=f'{says}.*export the graph again'):
        Segmenter(str(model))


def test_onnx_runs_without_torch(tiny_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    arguments = ('--format', 'onnx', '--precision', 'fp32')
    assert run(tiny_checkpoint, pictures, tmp_path / 'model', *arguments) == 0
    graph = tmp_path / 'model/graphs/onnx-float/graph.onnx'
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    (scores,) = session.run(['class_scores'], {'pixels': np.zeros((1, 3, 64, 96), np.float32)})
    assert scores.shape == (1, 8, 16, 24)
    found = Segmenter(str(tmp_path / 'model'), runtime='onnxruntime').segment([picture(0)])
    expected = Segmenter(str(tiny_checkpoint), runtime='torch', precision='fp32')
    assert share(expected.segment([picture(0)]).labels, found.labels) >= 0.995


def test_graph_file_of_deeplabv3_labels_as_torch(
    tiny_deeplabv3: Path, pictures: Path, tmp_path: Path
) -> None:
    assert run(tiny_deeplabv3, pictures, tmp_path / 'model', '--precision', 'fp32') == 0
    assert GraphInfo.read(info_file(tmp_path / 'model/graphs/openvino-float')).keeps_labels('fp32')
    found = Segmenter(str(tmp_path / 'model'), precision='fp32')
    expected = Segmenter(str(tiny_deeplabv3), runtime='torch', precision='fp32')
    assert found.runtime == 'openvino'
    assert share(*(s.segment([picture(0)]).labels for s in (expected, found))) >= 0.999


def test_all_precisions_are_written_by_default(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, model)
    assert run(model, pictures, model) == 0  # into the checkpoint itself
    names = sorted(path.name for path in (model / 'graphs').iterdir())
    assert names == ['openvino-float', 'openvino-int8']
    said = capsys.readouterr().out
    assert 'evaluated on 2 images of the camera' in said
    assert 'labeled as by PyTorch in fp32: fp32 ' in said


def test_truth_is_what_int8_is_judged_by(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ('images', 'labels'):
        (tmp_path / 'truth/val' / name).mkdir(parents=True)
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f'truth/val/images/{seed}.png'), picture(seed)[..., ::-1])
        truth = np.full((64, 96), 1 + seed, np.uint8)
        cv2.imwrite(str(tmp_path / f'truth/val/labels/{seed}.png'), truth)
    arguments = ('--truth', str(tmp_path / 'truth'), '--truth-scheme', 'cityscapes8')
    # Agreement alone would not do.
    monkeypatch.setitem(graph_files.AGREEMENT, 'int8', 1.01)
    output = tmp_path / 'model'
    assert run(tiny_checkpoint, pictures, output, '--precision', 'int8', *arguments) == 0
    info = GraphInfo.read(info_file(output / 'graphs/openvino-int8'))
    assert set(info.miou) == {'torch', 'int8'}
    assert info.judged_on == '2 labeled frames of truth'
    assert info.keeps_labels('int8')
    assert not GraphInfo(**{**vars(info), 'miou': {'torch': 0.8, 'int8': 0.7979}}).keeps_labels(
        'int8'
    )


def test_what_is_something_else_is_left_alone(
    tiny_checkpoint: Path,
    tiny_mask2former: Path,
    in_int8: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / 'thesis.txt').write_text('all of it', encoding='utf-8')
    before = sorted(path for path in in_int8.rglob('*'))
    for model, output in ((tiny_checkpoint, tmp_path), (tiny_mask2former, in_int8)):
        assert run(model, pictures, output) == 1
        assert 'not a checkpoint with these weights' in capsys.readouterr().err
    assert sorted(path for path in in_int8.rglob('*')) == before
    assert (tmp_path / 'thesis.txt').read_text(encoding='utf-8') == 'all of it'


def test_too_little_agreement_is_refused_and_shown(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graph_files.AGREEMENT, 'fp32', 1.01)
    images = images_of_folders([pictures], 5)
    request = Request(str(tiny_checkpoint), images, precisions=('fp32',))
    with pytest.raises(ExportError, match=r'labels .* of the pixels as PyTorch does, .*101'):
        list(export_model(request, tmp_path / 'model'))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model_differences.png']
    shown = cv2.imread(str(tmp_path / 'model_differences.png'))
    assert shown is not None
    assert shown.shape == (2 * 64, 2 * 96, 3)


def test_agreement_is_counted_in_pixels() -> None:
    images = [np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 9, np.uint8)]
    expected = [np.array(rows, np.uint8) for rows in ([[1, 2], [3, 4]], [[1, 1], [1, 1]])]
    found = {0: expected[0], 9: np.array([[1, 1], [1, 7]], np.uint8)}
    truth = [np.array([[1, 1], [3, 3]], np.int16), np.array([[-1, -1], [1, 7]], np.int16)]
    scheme = load_scheme('cityscapes8')
    judge = Judge(scheme, images, expected, truth)
    judgment = judge.judge(lambda image: found[image[0, 0, 0]], '', quiet=True)
    assert judgment.agreement == 7 / 8
    # Flat 2 of 3, object 1 of 2, vehicle 1 of 1; construction and nature are false alarms.
    assert judgment.miou == pytest.approx((2 / 3 + 0 + 1 / 2 + 0 + 1) / 5)
    assert np.isnan(Judge(scheme, images, expected).miou(expected))
    assert (judgment.worst == 9).all()
    shown = judgment.picture(scheme)
    assert shown.shape == (4, 4, 3)
    assert shown[1, 3].tolist() == [255, 0, 255]  # where they differ
    assert shown[0, 3].tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (('--format', 'onnx', '--precision', 'int8'), 'use openvino for int8'),
        (('--format', 'onnx'), 'add --precision fp32'),
        (('--precision', 'int8', '--count', '1'), 'there are 1 images for calibration'),
    ],
)
def test_what_cannot_be_exported(
    tiny_checkpoint: Path,
    pictures: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tiny_checkpoint, pictures, tmp_path / 'model', *arguments) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_images_come_from_all_folders(tmp_path: Path) -> None:
    for folder, number in (('a', 5), ('b', 2)):
        (tmp_path / folder).mkdir()
        for index in range(number):
            size = (32, 48) if folder == 'a' else (64, 32)
            cv2.imwrite(str(tmp_path / folder / f'{index}.png'), picture(index, *size))
    images = images_of_folders([tmp_path / 'a', tmp_path / 'b'], 4)
    assert [image.shape[:2] for image in images] == [(32, 48)] * 2 + [(64, 32)] * 2


@given(total=st.integers(0, 50), count=st.integers(1, 60))
def test_a_spread_reaches_all_over(total: int, count: int) -> None:
    chosen = list(evenly_spaced(range(total), total, count))
    assert len(chosen) == min(total, count)
    gaps = np.diff([*chosen, total])
    assert not len(gaps) or (gaps.max() - gaps.min() <= 1 and chosen[0] == 0)
