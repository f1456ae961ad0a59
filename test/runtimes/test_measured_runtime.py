# SPDX-License-Identifier: Apache-2.0
"""The runtime that auto takes: measured, remembered, and serving images meanwhile."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_segmenter import image

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import ImageError, SettingError
from segmentation_node.networks.postprocessing import DeviceSegmentation
from segmentation_node.runtimes import measured_runtime
from segmentation_node.runtimes.cache import cache_root
from segmentation_node.runtimes.measured_runtime import MeasuredRuntime, choose
from segmentation_node.runtimes.opening import candidates, open_candidate
from segmentation_node.runtimes.runtime import Candidate
from segmentation_node.segmenter import Segmenter

INT8, BF16, FP32 = (Candidate('openvino', precision) for precision in ('int8', 'bf16', 'fp32'))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    return cache_root()


class Slow:
    """A runtime that takes a known time and labels with a known id."""

    name, device = 'openvino', 'cpu'

    def __init__(self, precision: str, took_s: float, label: int) -> None:
        self.precision, self._took_s, self._label = precision, took_s, label

    def run(self, images_rgb: UInt8Array, _thresholds: object = None) -> list[Any]:
        time.sleep(self._took_s)
        labels = np.full(images_rgb.shape[1:3], self._label, np.uint8)
        return [DeviceSegmentation(labels, labels)] * len(images_rgb)

    def forward(self, images_rgb: UInt8Array) -> None:
        self.run(images_rgb)


SPEEDS = {INT8: 0.001, BF16: 0.05, FP32: 0.02}


def opening(opened: list[Candidate]) -> Callable[[Candidate], Slow]:
    def open_(candidate: Candidate) -> Slow:
        opened.append(candidate)
        return Slow(candidate.precision, SPEEDS[candidate], list(SPEEDS).index(candidate))

    return open_


def test_the_fastest_is_chosen_and_precision_breaks_a_tie() -> None:
    assert choose({INT8: 10.0, BF16: 20.0, FP32: 30.0}) == INT8
    assert choose({INT8: 10.0, BF16: 10.4, FP32: 10.6}) == BF16
    assert choose({INT8: 10.0, BF16: 9.9, FP32: 10.2}) == FP32
    threads = Candidate('openvino', 'fp32', 4)
    assert choose({FP32: 10.0, threads: 8.0}) == threads


def test_images_are_served_while_it_measures(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_runtime, '_MANY_CORES', 10**6)
    measured, released = threading.Event(), threading.Event()
    compile_ = MeasuredRuntime._compile

    def held(self: MeasuredRuntime, candidate: Candidate, image_rgb: UInt8Array) -> bool:
        measured.set()
        assert released.wait(60)
        return compile_(self, candidate, image_rgb)

    monkeypatch.setattr(MeasuredRuntime, '_compile', held)
    checkpoint, opened = find_checkpoint(str(tiny_checkpoint)), list[Candidate]()
    runtime = MeasuredRuntime([FP32, BF16, INT8], opening(opened), checkpoint, None, aside=True)
    batch = np.zeros((1, 64, 96, 3), np.uint8)
    with caplog.at_level(logging.INFO):
        assert runtime.run(batch)[0].labels[0, 0] == 2  # the first of them, at once
        assert measured.wait(60)
        assert runtime.run(batch)[0].labels[0, 0] == 2
        assert runtime.precision == 'fp32'
        released.set()
        runtime.wait()
    assert runtime.run(batch)[0].labels[0, 0] == 0
    assert runtime.precision == 'int8'
    assert f'runtime auto for {tiny_checkpoint} at 443 x 296: openvino int8 1 ms; openvino' in (
        caplog.text
    )


def test_a_choice_is_remembered(
    tiny_checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_runtime, '_MANY_CORES', 10**6)
    checkpoint = find_checkpoint(str(tiny_checkpoint))
    batch = np.zeros((1, 64, 96, 3), np.uint8)

    def run() -> tuple[list[Candidate], str]:
        opened: list[Candidate] = []
        runtime = MeasuredRuntime(
            [FP32, BF16, INT8], opening(opened), checkpoint, None, aside=True
        )
        runtime.run(batch)
        runtime.wait()
        runtime.run(batch)
        return opened, runtime.precision

    assert run() == ([FP32, BF16, INT8], 'int8')
    assert run() == ([FP32, INT8], 'int8')
    (entry,) = (path for path in (cache / 'choices').iterdir() if not path.suffix)
    entry.write_bytes(entry.read_bytes()[:-3] + b'{}}')  # damaged: measured again
    assert run() == ([FP32, BF16, INT8], 'int8')


def test_two_that_start_at_once_measure_once_and_agree(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_runtime, '_MANY_CORES', 10**6)
    released = threading.Event()
    compile_ = MeasuredRuntime._compile

    def held(self: MeasuredRuntime, candidate: Candidate, image_rgb: UInt8Array) -> bool:
        assert released.wait(60)
        return compile_(self, candidate, image_rgb)

    monkeypatch.setattr(MeasuredRuntime, '_compile', held)
    checkpoint, batch = find_checkpoint(str(tiny_checkpoint)), np.zeros((1, 64, 96, 3), np.uint8)
    opened: list[list[Candidate]] = [[], []]
    runtimes = [
        MeasuredRuntime([FP32, BF16, INT8], opening(each), checkpoint, None, aside=True)
        for each in opened
    ]
    for runtime in runtimes:
        runtime.run(batch)
    released.set()
    for runtime in runtimes:
        runtime.wait()
        assert runtime.run(batch)[0].labels[0, 0] == 0
    assert sorted(opened, key=len) == [[FP32, INT8], [FP32, BF16, INT8]]


def test_what_cannot_run_is_left_out(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_runtime, '_MANY_CORES', 10**6)

    def open_(candidate: Candidate) -> Slow:
        if candidate == INT8:
            raise SettingError('it is Sunday')
        return opening([])(candidate)

    checkpoint = find_checkpoint(str(tiny_checkpoint))
    runtime = MeasuredRuntime([BF16, FP32, INT8], open_, checkpoint, None, aside=True)
    runtime.run(np.zeros((1, 64, 96, 3), np.uint8))
    runtime.wait()
    runtime.run(np.zeros((1, 64, 96, 3), np.uint8))
    assert runtime.precision == 'fp32'
    assert 'skipping openvino int8: it is Sunday' in caplog.text


def test_without_aside_the_first_image_is_run_as_all_others(tiny_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(str(tiny_checkpoint))
    runtime = MeasuredRuntime([FP32, INT8], opening([]), checkpoint, None, aside=False)
    assert runtime.run(np.zeros((1, 64, 96, 3), np.uint8))[0].labels[0, 0] == 0


def test_images_that_cannot_be_run_are_not_measured_on(
    tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = Segmenter(str(tiny_checkpoint), device='cpu', input_size=(8, 8))
    for _ in range(2):
        with pytest.raises(ImageError, match='must be padded'):
            segmenter.segment([np.zeros((2, 60000, 3), np.uint8)])
    assert 'runtime auto' not in caplog.text


def test_a_size_like_one_that_was_measured_is_not_measured(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = find_checkpoint(str(tiny_checkpoint))
    runtime = MeasuredRuntime([FP32, INT8], opening([]), checkpoint, None, aside=True)
    runtime.run(np.zeros((1, 64, 96, 3), np.uint8))
    runtime.wait()
    monkeypatch.setattr(MeasuredRuntime, '_recall', lambda *_: pytest.fail('measured again'))
    runtime.run(np.zeros((1, 60, 100, 3), np.uint8))


def test_auto_is_within_a_tenth_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several tries, since others use this machine as well."""
    checkpoint = find_checkpoint('deeplabv3plus')
    found = candidates('auto', checkpoint, 'cpu', 'auto')
    assert len(found) >= 2
    assert {'int8', 'fp32'} <= {candidate.precision for candidate in found}
    frame = image(256, 512)[None]
    ratios = []
    for attempt in range(5):
        monkeypatch.setenv('XDG_CACHE_HOME', str(cache_root() / str(attempt)))
        auto = Segmenter('deeplabv3plus', device='cpu')
        auto.prepare((256, 512))
        chosen = Candidate(auto.runtime, auto.precision)
        runtimes = {
            c: open_candidate(c, checkpoint=checkpoint, device='cpu', input_size=None)
            for c in found
        }
        best_s = dict.fromkeys(found, float('inf'))
        for _ in range(8):
            for candidate, runtime in runtimes.items():
                started_s = time.perf_counter()
                runtime.run(frame)
                best_s[candidate] = min(best_s[candidate], time.perf_counter() - started_s)
        ratios.append(best_s[chosen] / min(best_s.values()))
        if ratios[-1] <= 1.1:
            return
    pytest.fail(f'auto took {ratios} times as long as the fastest candidate')
