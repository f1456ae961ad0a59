# SPDX-License-Identifier: Apache-2.0
"""Tests of the choice of a runtime, by name and by auto."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from repository import ROOT
from test_segmenter import image

from segmentation_node.errors import SettingError
from segmentation_node.runtimes import opening as runtimes
from segmentation_node.segmenter import Segmenter


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, '_may_have_cuda', lambda: False)


def without(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        runtimes, 'find_spec', lambda name: None if name == library else found(name)
    )


def test_auto_is_openvino_on_a_cpu(tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(tiny_checkpoint))
    assert (segmenter.runtime, segmenter.device) == ('openvino', 'cpu')


def test_auto_is_torch_without_openvino(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, 'openvino')
    assert Segmenter(str(tiny_checkpoint)).runtime == 'torch'


def test_auto_is_torch_on_a_gpu(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, '_may_have_cuda', lambda: True)
    assert Segmenter(str(tiny_checkpoint)).runtime == 'torch'


def test_a_gpu_without_torch_is_told(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtimes, '_may_have_cuda', lambda: True)
    without(monkeypatch, 'torch')
    assert Segmenter(str(tiny_checkpoint)).runtime == 'openvino'
    assert f"pip install -e '{ROOT}[torch]'" in caplog.text


def test_what_is_not_installed_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, 'onnxruntime')
    with pytest.raises(
        SettingError, match=r'requires the package onnxruntime.*pip install onnxruntime'
    ):
        Segmenter(str(tiny_checkpoint), runtime='onnxruntime')


@pytest.mark.parametrize('size', [(64, 96), (50, 70)])
def test_compiled_labels_are_those_of_torch(tiny_checkpoint: Path, size: Any) -> None:
    settings: Any = {'device': 'cpu', 'precision': 'fp32'}
    compiled = Segmenter(str(tiny_checkpoint), runtime='torch_compiled', **settings)
    found = compiled.segment([image(*size)])
    expected = Segmenter(str(tiny_checkpoint), runtime='torch', **settings).segment([image(*size)])
    assert (found.labels == expected.labels).mean() > 0.999


def test_a_missing_compiler_is_told_at_once(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('no compiler')

    monkeypatch.setattr(torch, 'compile', lambda *_, **__: fail)
    with pytest.raises(SettingError, match=r'no compiler.*install g\+\+'):
        Segmenter(str(tiny_checkpoint), runtime='torch_compiled')
