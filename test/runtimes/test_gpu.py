# SPDX-License-Identifier: Apache-2.0
"""PyTorch on an NVIDIA GPU; nothing of it runs where there is none."""

import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from test_segmenter import image

from segmentation_node.runtimes import torch_runtime
from segmentation_node.segmenter import Segmenter

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')


@pytest.mark.parametrize('model', ['deeplabv3plus', 'mask2former', 'unet'])
def test_labels_are_those_of_a_cpu(model: str) -> None:
    images = [image(128, 256), image(128, 256)[::-1].copy()]
    on_gpu = Segmenter(model, device='cuda', precision='fp32')
    assert (on_gpu.runtime, on_gpu.device) == ('torch', 'cuda')
    expected = Segmenter(model, runtime='torch', device='cpu', precision='fp32').segment(images)
    for found in (on_gpu.segment(images), on_gpu.segment(images)):
        assert (found.labels == expected.labels).mean() > 0.99
        assert np.abs(found.confidence.astype(int) - expected.confidence).mean() < 3


def test_results_outlive_the_next_image(tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(tiny_checkpoint), device='cuda')
    first = segmenter.segment([image(64, 96)])
    labels, confidence = first.labels.copy(), first.confidence.copy()
    segmenter.segment([image(64, 96)[:, ::-1].copy()])
    assert (first.labels == labels).all()
    assert (first.confidence == confidence).all()


def test_every_shape_has_its_graph(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_runtime, '_CAPTURED', 2)
    segmenter = Segmenter(str(tiny_checkpoint), device='cuda', precision='fp32')
    shapes = [(64, 96), (50, 70), (33, 95)]
    before = [segmenter.segment([image(*shape)]).labels for shape in shapes]
    again = [segmenter.segment([image(*shape)]).labels for shape in shapes]
    for first, second in zip(before, again, strict=True):
        assert (first == second).mean() > 0.999


def test_a_model_is_loaded_aside_by_another_thread(tiny_checkpoint: Path) -> None:
    segmenter = Segmenter('deeplabv3plus', device='cuda')
    pixels = image(256, 512)
    expected = segmenter.segment([pixels]).labels
    loaded: list[Segmenter] = []

    def load() -> None:
        other = Segmenter('unet', device='cuda')
        other.prepare((256, 512))
        loaded.append(other)

    thread = threading.Thread(target=load)
    thread.start()
    while thread.is_alive():
        assert (segmenter.segment([pixels]).labels == expected).all()
    assert loaded


def test_what_cannot_be_captured_runs_all_the_same(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = Segmenter(str(tiny_checkpoint), device='cuda', precision='fp32')
    segmenter = Segmenter(str(tiny_checkpoint), device='cuda', precision='fp32')
    executor = segmenter._runtime._executor  # type: ignore[attr-defined]
    run = executor._run

    def asking_the_host(pixels: torch.Tensor) -> object:
        pixels.sum().item()
        return run(pixels)

    monkeypatch.setattr(executor, '_run', asking_the_host)
    with caplog.at_level(logging.WARNING):
        found = segmenter.segment([image(64, 96)])
    assert 'cannot capture a CUDA graph' in caplog.text
    assert (found.labels == expected.segment([image(64, 96)]).labels).mean() > 0.999


def test_compiled_labels_are_those_of_torch(tiny_checkpoint: Path) -> None:
    compiled = Segmenter(str(tiny_checkpoint), runtime='torch_compiled', device='cuda')
    compiled.prepare((64, 96))  # by a thread that ends
    plain = Segmenter(str(tiny_checkpoint), runtime='torch', device='cuda')
    same = compiled.segment([image(64, 96)]).labels == plain.segment([image(64, 96)]).labels
    assert same.mean() > 0.99
