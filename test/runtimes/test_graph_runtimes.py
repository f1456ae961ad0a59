# SPDX-License-Identifier: Apache-2.0
"""OpenVINO and ONNX Runtime against PyTorch, and the graph files that they read."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from safetensors.torch import load_file, save_file
from test_segmenter import image

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import CheckpointError, ImageError, SettingError
from segmentation_node.labels import load_scheme
from segmentation_node.runtimes import graph_files
from segmentation_node.runtimes.cache import cache_root
from segmentation_node.runtimes.openvino_preprocessing import resize_matrix
from segmentation_node.runtimes.openvino_runtime import OpenVinoRuntime
from segmentation_node.segmenter import Segmenter

Image = UInt8Array


@pytest.fixture
def cache(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own that has the graph of the tiny checkpoint."""
    opened(tiny_checkpoint)
    graphs = cache_root() / 'graphs'
    names = {path.name for path in graphs.iterdir()}
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    (cache_root() / 'graphs').mkdir(parents=True)
    for name in names & {_key(tiny_checkpoint)}:
        shutil.copyfile(graphs / name, cache_root() / 'graphs' / name)
    return cache_root()


def _key(model: Path) -> str:
    """Name of a checkpoint's converted graph in the cache."""
    checkpoint = find_checkpoint(str(model))
    digest = graph_files.graph_digest(checkpoint, 'openvino', 'float')
    return graph_files._CONVERTED._path({'format': 'openvino', 'graph': digest}).name


def opened(model: Path, runtime: str = 'openvino', **settings: Any) -> Segmenter:
    return Segmenter(str(model), runtime=runtime, precision='fp32', **settings)


def entries(cache: Path, kind: str) -> list[Path]:
    return sorted((cache / kind).iterdir())


def in_a_process(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a Python of its own; returns what it printed."""
    command = [sys.executable, '-c', code, *map(str, arguments)]
    done = subprocess.run(
        command, check=True, timeout=300, text=True, stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize('kind', ['tiny_checkpoint', 'tiny_deeplabv3', 'tiny_mask2former'])
def test_one_graph_labels_every_size_as_torch_does(
    runtime: str, kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(kind)
    segmenter, reference = opened(model, runtime), opened(model, 'torch')
    monkeypatch.setattr(graph_files, '_convert', lambda *_: pytest.fail('converted again'))
    for count, height, width in ((1, 64, 96), (2, 50, 70), (1, 160, 32), (1, 97, 201)):
        images = [image(height, width, seed) for seed in range(count)]
        found, expected = segmenter.segment(images), reference.segment(images)
        assert found.labels.shape == (count, height, width)
        assert (found.labels == expected.labels).mean() > 0.999
        assert len(np.unique(found.labels)) > 1
        difference = found.confidence.astype(int) - expected.confidence
        assert np.abs(difference).max() <= 2
        for ours, theirs in zip(
            *(each.engine.run(np.stack(images)) for each in (segmenter, reference)), strict=True
        ):
            assert ours.features is not None
            assert theirs.features is not None
            assert np.allclose(ours.features, theirs.features, rtol=1e-3, atol=1e-3)


def test_windows_of_swin_follow_the_size(tmp_path: Path) -> None:
    from conftest import spread_queries
    from transformers import AutoConfig, Mask2FormerConfig

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.networks.mask2former import Mask2Former

    torch.manual_seed(0)
    backbone = AutoConfig.for_model(
        'swin', embed_dim=8, depths=[2] * 4, num_heads=[2] * 4, window_size=7,
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )  # fmt: skip
    network = Mask2Former(
        Mask2FormerConfig(
            backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32,
            num_attention_heads=2, encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2,
            dim_feedforward=32, num_queries=12,
            id2label={i: c.name for i, c in enumerate(load_scheme('cityscapes8').learned)},
        )
    )  # fmt: skip
    spread_queries(network)
    save_checkpoint(tmp_path / 'swin', network, Spec('mask2former', 'cityscapes8'), '# Swin\n')
    segmenter, reference = opened(tmp_path / 'swin'), opened(tmp_path / 'swin', 'torch')
    for size in ((64, 96), (224, 448), (160, 290)):
        found = segmenter.segment([image(*size)]).labels
        assert (found == reference.segment([image(*size)]).labels).mean() > 0.999
        assert len(np.unique(found)) > 1


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
@pytest.mark.parametrize('box', [(32, 64), (120, 200)])
def test_a_box_to_fit_into(tiny_checkpoint: Path, runtime: str, box: tuple[int, int]) -> None:
    found = opened(tiny_checkpoint, runtime, input_size=box).segment([image()])
    expected = opened(tiny_checkpoint, 'torch', input_size=box).segment([image()])
    assert (found.labels == expected.labels).mean() > 0.999


@given(st.integers(1, 300), st.integers(1, 300))
def test_resizing_by_matrices_is_that_of_torch(padded: int, network: int) -> None:
    column = np.random.default_rng(0).uniform(0, 255, (padded, 3)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(column)[None, None], (network, 3), mode='bilinear', antialias=True
    )
    np.testing.assert_allclose(
        resize_matrix(padded, network) @ column, expected[0, 0].numpy(), atol=5e-3
    )


def test_literal_resizing() -> None:
    assert resize_matrix(2, 2).tolist() == [[1, 0], [0, 1]]
    assert resize_matrix(2, 1).tolist() == [[0.5, 0.5]]
    assert resize_matrix(1, 2).tolist() == [[1], [1]]


def test_a_prepared_size_is_there_when_it_comes(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = opened(tiny_checkpoint)
    segmenter.prepare((64, 96))
    monkeypatch.setattr(OpenVinoRuntime, '_compile', lambda *_: pytest.fail('compiled again'))
    assert segmenter.segment([image(64, 96)]).labels.shape == (1, 64, 96)
    with pytest.raises(ImageError, match='20000 x 20000'):
        segmenter.prepare((20000, 20000))


@pytest.mark.parametrize('runtime', ['openvino', 'onnxruntime'])
def test_torch_is_loaded_by_another_process(tiny_checkpoint: Path, runtime: str) -> None:
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
    cold = str(tiny_checkpoint.with_name(f'cold_{runtime}'))
    in_a_process(code, tiny_checkpoint, frame, labels, runtime, XDG_CACHE_HOME=cold)
    assert (np.load(labels) == expected).all()


@pytest.mark.parametrize(
    ('kind', 'harm'),
    [
        ('graphs', 'flipped'), ('compiled', 'flipped'), ('compiled', 'cut'), ('compiled', 'empty'),
        ('compiled', 'gone'),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_made_anew(
    tiny_checkpoint: Path, cache: Path, kind: str, harm: str
) -> None:
    expected = opened(tiny_checkpoint).segment([image()]).labels
    if kind == 'graphs':  # else it would not be read
        shutil.rmtree(cache / 'compiled')
    (entry,) = entries(cache, kind)
    whole = entry.read_bytes()
    if harm == 'gone':
        entry.unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :]
        entry.write_bytes({'flipped': flipped, 'cut': whole[:-100], 'empty': b''}[harm])
    assert (opened(tiny_checkpoint).segment([image()]).labels == expected).all()
    (again,) = entries(cache, kind)
    assert again == entry
    assert len(again.read_bytes()) == len(whole)


def test_other_weights_are_converted_anew(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / 'model'
    shutil.copytree(tiny_checkpoint, model)
    before = opened(model).segment([image()]).labels
    weights = load_file(model / 'model.safetensors')
    head = next(name for name in weights if name.startswith('segmentation_head'))
    weights[head] = -weights[head]
    save_file(weights, model / 'model.safetensors', metadata={'format': 'pt'})
    assert (opened(model).segment([image()]).labels != before).any()


def test_it_runs_without_a_cache_and_warns(
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = opened(tiny_checkpoint).segment([image()]).labels
    (tmp_path / 'file').write_text('', encoding='utf-8')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    with caplog.at_level(logging.WARNING):
        found = opened(tiny_checkpoint).segment([image()]).labels
    assert (found == expected).all()
    assert 'running without a cache' in caplog.text
    assert 'XDG_CACHE_HOME' in caplog.text


def test_a_full_temporary_folder_is_told(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))  # nothing is converted there

    def full(**_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('tempfile.TemporaryDirectory', full)
    with pytest.raises(SettingError, match=r'No space left.*set TMPDIR'):
        opened(tiny_checkpoint)


def test_memory_is_flat_over_sixty_sizes(tiny_checkpoint: Path) -> None:
    code = (
        'import sys, numpy as np\n'
        'from segmentation_node.segmenter import Segmenter\n'
        's = Segmenter(sys.argv[1], runtime="openvino", precision="fp32")\n'
        'for index in range(60):\n'
        '    s.segment([np.zeros((32 * (2 + index % 10), 32 * (3 + index // 10), 3), np.uint8)])\n'
        '    if index in (19, 59):\n'
        '        rss = next(r for r in open("/proc/self/status") if r.startswith("VmRSS"))\n'
        '        print(int(rss.split()[1]) / 1024)\n'
    )
    early_mb, late_mb = map(float, in_a_process(code, tiny_checkpoint).split())
    # A few sizes stay compiled, and the later ones are larger.
    assert late_mb < 1.2 * early_mb


def test_models_that_come_and_go_leave_the_stack_for_signals_alone(tiny_checkpoint: Path) -> None:
    code = (
        'import ctypes, sys, numpy as np\n'
        'from segmentation_node.segmenter import Segmenter\n'
        'image = np.zeros((1, 64, 96, 3), np.uint8)\n'
        'def tell():\n'
        '    stack = (ctypes.c_size_t * 3)()\n'  # stack_t: address, flags, size
        '    ctypes.CDLL(None).sigaltstack(None, stack)\n'
        '    print(stack[0])\n'
        'models = []\n'
        'for _ in range(3):\n'
        '    models.append(Segmenter(sys.argv[1], runtime="openvino", precision="fp32"))\n'
        '    models[-1].segment(image)\n'
        '    tell()\n'
        'while models:\n'
        '    del models[0]\n'
        '    tell()\n'
    )
    assert len(set(in_a_process(code, tiny_checkpoint).split())) == 1


def test_what_openvino_cannot_do(tiny_checkpoint: Path) -> None:
    with pytest.raises(SettingError, match="'cuda' is not supported by runtime openvino"):
        opened(tiny_checkpoint, device='cuda')
    with pytest.raises(ImageError, match='must be padded'):
        opened(tiny_checkpoint, input_size=(8, 8)).segment([np.zeros((2, 60000, 3), np.uint8)])


@pytest.mark.parametrize(
    ('runtime', 'settings', 'says'),
    [
        ('onnxruntime', {'device': 'cuda'}, r'CUDAExecutionProvider.*onnxruntime-gpu.*use cpu'),
        ('onnxruntime', {'device': 'gpu'}, "unknown device 'gpu'"),
        ('onnxruntime', {'precision': 'bf16'}, "'bf16' is not supported .* onnxruntime.*fp32"),
        ('tensorrt', {}, 'requires a GPU and TensorrtExecutionProvider'),
        ('openvino', {'precision': 'int8'}, 'run export_model'),
        ('torch', {'precision': 'int8'}, "'int8' is not supported by runtime torch"),
    ],
)
def test_what_is_not_available_here(
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


def test_a_missing_library_comes_with_its_command(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / 'torch.py').write_text(
        'raise ModuleNotFoundError("No module named \'torch\'", name="torch")\n', encoding='utf-8'
    )
    code = (
        'import sys\n'
        'from segmentation_node.errors import SettingError\n'
        'from segmentation_node.segmenter import Segmenter\n'
        'try:\n'
        '    Segmenter(sys.argv[1])\n'
        'except SettingError as error:\n'
        '    print(error)\n'
    )
    paths = {'PYTHONPATH': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path)}
    said = in_a_process(code, tiny_checkpoint, **paths)
    assert 'no graph files' in said
    assert f"pip install -e '{ROOT}[torch]'" in said
