# SPDX-License-Identifier: Apache-2.0
"""Exporting a model: what is let through, what is not, and what the segmenter makes of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node import exports
from segmentation_node.errors import CheckpointError, ExportError, ImageError, SettingError
from segmentation_node.export.agreement import measure, share
from segmentation_node.export.export_model import main
from segmentation_node.export.exporting import Request, export_model
from segmentation_node.export.images import images_of_folder, spread
from segmentation_node.exports import EXPORT_FILE, Export
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter

Image = npt.NDArray[np.uint8]


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


def test_int8_is_run_where_it_was_exported(in_int8: Path, tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(in_int8))
    assert (segmenter.runtime, segmenter.precision) == ('openvino', 'int8')
    found = segmenter.segment([picture(0)])
    expected = Segmenter(str(tiny_checkpoint), runtime='torch', precision='fp32')
    assert share(expected.segment([picture(0)]).labels, found.labels) >= 0.99
    # It was quantized: no confidence would be another otherwise.
    assert (found.confidence != expected.segment([picture(0)]).confidence).any()


def test_an_export_needs_neither_torch_nor_a_cache(in_int8: Path, tmp_path: Path) -> None:
    code = (
        'import sys, numpy as np\n'
        'from segmentation_node.segmenter import Segmenter\n'
        'Segmenter(sys.argv[1]).segment(np.zeros((1, 64, 96, 3), np.uint8))\n'
        'assert "torch" not in sys.modules\n'
    )
    environment = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path)}
    command = [sys.executable, '-c', code, str(in_int8)]
    subprocess.run(command, env=environment, check=True, timeout=120)


def test_another_size_or_box_than_exported_is_told(in_int8: Path) -> None:
    with pytest.raises(SettingError, match='in int8 for images of 96 x 64, and one of 32 x 32'):
        Segmenter(str(in_int8)).segment([picture(0, 32, 32)])
    with pytest.raises(SettingError, match='run export_model --precision int8'):
        Segmenter(str(in_int8), precision='int8', input_size=(32, 48))
    assert Segmenter(str(in_int8), precision='fp32', runtime='openvino').precision == 'fp32'


def test_an_export_of_other_weights_is_told(
    in_int8: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    config = (model / 'config.json').read_text(encoding='utf-8')
    (model / 'config.json').write_text(config + '\n', encoding='utf-8')
    with pytest.raises(CheckpointError, match='exported from other weights'):
        Segmenter(str(model))


@pytest.mark.parametrize(
    ('field', 'value'),
    [('precision', 'int4'), ('image_hw', [64]), ('image_hw', [0, 96]), ('agreement', 'all')],
)
def test_a_damaged_description_is_told(
    in_int8: Path, tmp_path: Path, field: str, value: Any
) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    (path,) = model.glob(f'exports/*/{EXPORT_FILE}')
    export = Export.read(path)
    object.__setattr__(export, field, tuple(value) if isinstance(value, list) else value)
    export.write(path.parent)
    with pytest.raises(CheckpointError, match=f'has {field} .*export anew'):
        Segmenter(str(model))


def test_onnx_runs_elsewhere(tiny_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip('onnxruntime')
    assert run(tiny_checkpoint, pictures, tmp_path / 'model', '--format', 'onnx') == 0
    graph = tmp_path / 'model/exports/onnx-fp32-96x64/graph.onnx'
    session = onnxruntime.InferenceSession(graph, providers=['CPUExecutionProvider'])
    labels, confidence = session.run(['labels', 'confidence'], {'images_rgb': picture(0)[None]})
    expected = Segmenter(str(tiny_checkpoint), runtime='torch', precision='fp32').segment(
        [picture(0)]
    )
    assert share(expected.labels, labels) >= 0.995
    assert np.abs(expected.confidence.astype(int) - confidence).max() <= 1


def test_an_export_takes_another_graph(
    in_int8: Path, tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    model = tmp_path / 'model'
    shutil.copytree(in_int8, model)
    assert run(tiny_checkpoint, pictures, model) == 0
    names = sorted(path.name for path in (model / 'exports').iterdir())
    assert names == ['openvino-fp32-96x64', 'openvino-int8-96x64']
    assert Segmenter(str(model)).precision == 'int8'


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
        assert 'not an export of this model' in capsys.readouterr().err
    assert sorted(path for path in in_int8.rglob('*')) == before
    assert (tmp_path / 'thesis.txt').read_text(encoding='utf-8') == 'all of it'


def test_too_little_agreement_is_refused_and_shown(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(exports.AGREEMENT, 'fp32', 1.01)
    images = images_of_folder(pictures, 5)
    with pytest.raises(ExportError, match=r'labels .* of the pixels as the network does, and 101'):
        export_model(Request(str(tiny_checkpoint)), images, tmp_path / 'model')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['model_differences.png']
    shown = cv2.imread(str(tmp_path / 'model_differences.png'))
    assert shown is not None
    assert shown.shape == (2 * 64, 2 * 96, 3)


def test_agreement_is_counted_in_pixels() -> None:
    images = [np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 9, np.uint8)]
    expected = [np.array(rows, np.uint8) for rows in ([[1, 2], [3, 4]], [[1, 1], [1, 1]])]
    found = {0: expected[0], 9: np.array([[1, 1], [1, 7]], np.uint8)}
    agreement = measure(images, expected, lambda image: found[image[0, 0, 0]], quiet=True)
    assert agreement.share == 7 / 8
    assert (agreement.worst == 9).all()
    shown = agreement.picture(load_scheme('cityscapes8'))
    assert shown.shape == (4, 4, 3)
    assert shown[1, 3].tolist() == [255, 0, 255]  # where they differ
    assert shown[0, 3].tolist() == [4, 4, 4]


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (('--format', 'onnx', '--precision', 'int8'), 'say openvino for int8'),
        (('--precision', 'int8', '--count', '1'), 'there are 1 images, and int8 needs 2'),
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


def test_images_of_several_sizes_are_named(tmp_path: Path) -> None:
    for index, width in enumerate((32, 32, 48)):
        cv2.imwrite(str(tmp_path / f'{index}.png'), picture(index, 32, width))
    with pytest.raises(ImageError, match=r'2\.png is 48 x 32 and those before are 32 x 32'):
        images_of_folder(tmp_path, 3)


@given(total=st.integers(0, 50), count=st.integers(1, 60))
def test_a_spread_reaches_all_over(total: int, count: int) -> None:
    chosen = list(spread(range(total), total, count))
    assert len(chosen) == min(total, count)
    gaps = np.diff([*chosen, total])
    assert not len(gaps) or (gaps.max() - gaps.min() <= 1 and chosen[0] == 0)
