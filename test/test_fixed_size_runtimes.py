# SPDX-License-Identifier: Apache-2.0
"""OpenVINO and ONNX Runtime against PyTorch, and the cache of what was converted for them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.torch import load_file, save_file
from test_segmenter import image

from segmentation_node.errors import CheckpointError, ImageError, SettingError
from segmentation_node.runtimes import graph_cache
from segmentation_node.runtimes.openvino_runtime import OpenVinoRuntime
from segmentation_node.segmenter import Segmenter

Image = npt.NDArray[np.uint8]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return graph_cache.cache_root()


def opened(model: Path, runtime: str = 'openvino', **settings: Any) -> Segmenter:
    return Segmenter(str(model), runtime=runtime, precision='fp32', **settings)


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if (path / 'index.json').is_file())


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize('kind', ['tiny_checkpoint', 'tiny_mask2former'])
@pytest.mark.parametrize('shape', [(1, 64, 96), (2, 50, 70)])
def test_labels_are_those_of_torch(
    runtime: str, kind: str, shape: tuple[int, int, int], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(kind)
    images = [image(shape[1], shape[2], seed) for seed in range(shape[0])]
    found = opened(model, runtime).segment(images)
    expected = opened(model, 'torch').segment(images)
    assert found.labels.shape == shape
    assert (found.labels == expected.labels).mean() > 0.999
    difference = found.confidence.astype(int) - expected.confidence
    assert np.abs(difference).max() <= 2


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
def test_a_box_to_fit_into(tiny_checkpoint: Path, runtime: str) -> None:
    box = (32, 64)
    found = opened(tiny_checkpoint, runtime, input_size=box).segment([image()])
    expected = opened(tiny_checkpoint, 'torch', input_size=box).segment([image()])
    assert (found.labels == expected.labels).mean() > 0.999


def test_a_prepared_size_is_there_when_it_comes(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = opened(tiny_checkpoint)
    segmenter.prepare((64, 96))
    monkeypatch.setattr(OpenVinoRuntime, '_compile', lambda *_: pytest.fail('compiled again'))
    assert segmenter.segment([image(64, 96)]).labels.shape == (1, 64, 96)
    with pytest.raises(ImageError, match='20000 x 20000'):
        segmenter.prepare((20000, 20000))


def test_sizes_may_change(tiny_checkpoint: Path, cache: Path) -> None:
    segmenter, torch = opened(tiny_checkpoint), opened(tiny_checkpoint, 'torch')
    for height, width in ((64, 96), (32, 32), (64, 96)):
        found = segmenter.segment([image(height, width)]).labels
        assert (found == torch.segment([image(height, width)]).labels).mean() > 0.999
    assert len(entries(cache)) == 2


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
def test_what_was_converted_needs_no_torch(tiny_checkpoint: Path, runtime: str) -> None:
    expected = opened(tiny_checkpoint, runtime).segment([image()]).labels
    code = (
        'import sys, numpy as np\n'
        'from segmentation_node.segmenter import Segmenter\n'
        's = Segmenter(sys.argv[1], runtime=sys.argv[4], precision="fp32")\n'
        'np.save(sys.argv[3], s.segment([np.load(sys.argv[2])]).labels)\n'
        'assert "torch" not in sys.modules and "transformers" not in sys.modules\n'
    )
    frame, labels = tiny_checkpoint.with_name('frame.npy'), tiny_checkpoint.with_name('labels.npy')
    np.save(frame, image())
    files = map(str, (tiny_checkpoint, frame, labels))
    subprocess.run([sys.executable, '-c', code, *files, runtime], check=True, timeout=120)
    assert (np.load(labels) == expected).all()


@pytest.mark.parametrize('harm', ['cut', 'gone', 'index'])
def test_a_damaged_entry_is_made_anew(tiny_checkpoint: Path, cache: Path, harm: str) -> None:
    expected = opened(tiny_checkpoint).segment([image()]).labels
    (entry,) = entries(cache)
    weights = entry / 'graph.bin'
    if harm == 'cut':
        weights.write_bytes(weights.read_bytes()[:-100])
    elif harm == 'gone':
        weights.unlink()
    else:
        (entry / 'index.json').write_text('{"files": 3}', encoding='utf-8')
    assert (opened(tiny_checkpoint).segment([image()]).labels == expected).all()
    (again,) = entries(cache)
    assert again == entry
    assert json.loads((entry / 'index.json').read_text(encoding='utf-8'))['known']


def test_other_weights_are_converted_anew(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, model)
    before = opened(model).segment([image()]).labels
    weights = load_file(model / 'model.safetensors')
    head = next(name for name in weights if name.startswith('segmentation_head'))
    weights[head] = -weights[head]
    save_file(weights, model / 'model.safetensors', metadata={'format': 'pt'})
    assert (opened(model).segment([image()]).labels != before).any()


def test_the_oldest_entries_are_forgotten(
    tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_cache, 'KEPT', 2)
    segmenter = opened(tiny_checkpoint)
    for width in (32, 64, 96):
        segmenter.segment([image(32, width)])
    assert len(entries(cache)) == 2


def test_a_folder_that_cannot_be_written(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / 'file').write_text('', encoding='utf-8')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with pytest.raises(SettingError, match='set XDG_CACHE_HOME to another folder'):
        opened(tiny_checkpoint).segment([image()])


def test_what_openvino_cannot_do(tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="device 'cuda' is not one of the runtime openvino"):
        opened(tiny_checkpoint, device='cuda')
    with pytest.raises(SettingError, match='say runtime torch'):
        opened(tiny_checkpoint).class_scores([image()])
    with pytest.raises(ImageError, match='must be padded'):
        opened(tiny_checkpoint, input_size=(8, 8)).segment([np.zeros((2, 60000, 3), np.uint8)])


@pytest.mark.parametrize(
    ('runtime', 'settings', 'says'),
    [
        ('onnxruntime', {'device': 'cuda'}, r'CUDAExecutionProvider.*onnxruntime-gpu.*say cpu'),
        ('onnxruntime', {'device': 'gpu'}, "unknown device 'gpu'"),
        ('onnxruntime', {'precision': 'bf16'}, "'bf16' is none of runtime onnxruntime, .*fp32"),
        ('tensorrt', {}, 'needs a GPU and TensorrtExecutionProvider'),
        ('openvino', {'precision': 'int8'}, 'run export_model --precision int8'),
        ('torch', {'precision': 'int8'}, "'int8' is none of the runtime torch"),
    ],
)
def test_what_is_not_to_be_had_here(
    tiny_checkpoint: Path, runtime: str, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingError, match=says):
        Segmenter(str(tiny_checkpoint), runtime=runtime, **settings)


def test_damaged_weights_are_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, model)
    weights = model / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='damaged'):
        opened(model)
