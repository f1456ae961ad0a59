# SPDX-License-Identifier: Apache-2.0
"""Tests of batching: composition, order, and independence of a result from its batch."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')

from web_service import blocks

from segmentation_node.errors import CheckpointError, ImageError
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Prediction, Segmenter
from segmentation_node.web import model_cache
from segmentation_node.web.batching import Batcher
from segmentation_node.web.capacity import Capacity
from segmentation_node.web.problems import ProblemError
from segmentation_node.web.service_settings import ServiceSettings


class StubSegmenter:
    """Labels every pixel with its red value; waits for `leave`, and records its batches."""

    #: Whether batching leaves labels unchanged.
    exact = True
    runtime = 'torch'

    def __init__(self, model: str, **_settings: Any) -> None:
        if model == 'broken':
            raise CheckpointError('no such file /secret/place')
        self.scheme = load_scheme('cityscapes8')
        self.leave.wait(PATIENCE_S)

    leave = threading.Event()
    batches: list[list[int]] = []  # noqa: RUF012 (reset by the fixture)

    def segment(self, images_rgb: Sequence[Any]) -> Prediction:
        batch = np.stack(images_rgb)
        if batch.shape[1:3] != model_cache.TRIAL_HW:
            self.batches.append([int(image[0, 0, 0]) for image in images_rgb])
        if batch[0, 0, 0, 1] == 13:
            raise ImageError('unlucky')
        company = 0 if self.exact else len(batch)
        labels = (batch[..., 0] + company).astype(np.uint8)
        return Prediction(labels, lambda index: labels[index])


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[StubSegmenter]]:
    monkeypatch.setattr(model_cache, 'Segmenter', StubSegmenter)
    StubSegmenter.leave, StubSegmenter.batches, StubSegmenter.exact = threading.Event(), [], True
    yield StubSegmenter
    StubSegmenter.leave.set()


def batcher(**settings: Any) -> Batcher:
    models = {'one': 'one', 'other': 'other', 'broken': 'broken'}
    return Batcher(ServiceSettings(models, **settings), lambda _model, _images: None)


def red(value: int, height: int = 8, green: int = 0) -> Any:
    return np.full((height, 8, 3), (value, green, 0), np.uint8)


def test_images_that_wait_for_a_model_run_in_order_in_batches(stub: type[StubSegmenter]) -> None:
    runs = batcher(max_batch=3)
    answers = [runs.submit('one', red(value)) for value in range(5)]
    stub.leave.set()
    found = [answer.result(PATIENCE_S) for answer in answers]
    assert [int(f.labels[0, 0]) for f in found] == [0, 1, 2, 3, 4]
    assert [f.batch for f in found] == [3, 3, 3, 2, 2]
    assert stub.batches == [[0, 1, 2], [3, 4]]
    runs.close()


def test_only_images_of_a_model_and_a_size_go_together(stub: type[StubSegmenter]) -> None:
    runs = batcher()
    wanted = [('one', 8), ('one', 16), ('one', 8), ('other', 8), ('one', 16)]
    answers = [runs.submit(m, red(i, height)) for i, (m, height) in enumerate(wanted)]
    stub.leave.set()
    assert [a.result(PATIENCE_S).labels.shape[0] for a in answers] == [8, 16, 8, 8, 16]
    assert stub.batches == [[0, 2], [1, 4], [3]]
    runs.close()


def test_a_batch_is_bounded_by_its_pixels(stub: type[StubSegmenter]) -> None:
    runs = batcher(max_batch_pixels=2 * 8 * 8)
    answers = [runs.submit('one', red(value)) for value in range(3)]
    answers.append(runs.submit('one', red(9, height=800)))
    stub.leave.set()
    assert [answer.result(PATIENCE_S).batch for answer in answers] == [2, 2, 1, 1]
    runs.close()


@pytest.mark.parametrize(('exact', 'batches'), [(True, [[0], [1]]), (False, [[0, 1]])])
def test_images_run_alone_if_batching_changes_their_labels(
    stub: type[StubSegmenter], exact: bool, batches: list[list[int]]
) -> None:
    stub.exact = False
    runs = batcher(exact=exact)
    answers = [runs.submit('one', red(value)) for value in (0, 1)]
    stub.leave.set()
    for answer in answers:
        answer.result(PATIENCE_S)
    assert stub.batches == batches
    runs.close()


def test_a_failed_model_is_reported_and_tried_again(
    stub: type[StubSegmenter], caplog: pytest.LogCaptureFixture
) -> None:
    stub.leave.set()
    runs = batcher()
    for _ in range(2):
        with pytest.raises(CheckpointError, match='no such file'):
            runs.submit('broken', red(1)).result(PATIENCE_S)
    assert len(caplog.records) == 2
    assert runs.submit('one', red(1)).result(PATIENCE_S).labels[0, 0] == 1
    runs.close()


def test_a_failed_image_does_not_affect_others(stub: type[StubSegmenter]) -> None:
    stub.leave.set()
    runs = batcher()
    with pytest.raises(ImageError, match='unlucky'):
        runs.submit('one', red(1, green=13)).result(PATIENCE_S)
    assert runs.submit('one', red(2)).result(PATIENCE_S).labels[0, 0] == 2
    assert runs.alive
    runs.close()
    assert not runs.alive


def test_canceled_images_are_not_run(stub: type[StubSegmenter]) -> None:
    runs = batcher()
    first, second = runs.submit('one', red(1)), runs.submit('one', red(2))
    assert first.cancel()
    stub.leave.set()
    assert second.result(PATIENCE_S).batch == 1
    assert stub.batches == [[2]]
    runs.close()


@pytest.mark.parametrize('runtime', ['auto', 'torch'])
def test_labels_of_a_batch_are_those_of_its_images_alone(
    tiny_checkpoint: Path, tiny_mask2former: Path, runtime: str
) -> None:
    models = {'smp': str(tiny_checkpoint), 'mask2former': str(tiny_mask2former)}
    settings = ServiceSettings(models, runtime=runtime, device='cpu')
    runs = Batcher(settings, lambda _model, _images: None)
    images = [blocks(seed=seed) for seed in range(6)]
    for name, folder in models.items():
        answers = [runs.submit(name, image) for image in images]
        alone = Segmenter(folder, runtime=runtime, device='cpu')
        for image, answer in zip(images, answers, strict=True):
            expected = alone.segment([image])
            found = answer.result(PATIENCE_S)
            assert np.array_equal(found.labels, expected.labels[0])
            assert np.array_equal(found.confidence(), expected.confidence[0])
    runs.close()


def test_capacity_is_bounded_by_images_and_by_pixels() -> None:
    capacity = Capacity(max_images=3, max_pixels=100, seconds_per_image=lambda: 2.5)
    with capacity.reserve(2, 60):
        for images, pixels in ((2, 2), (1, 41)):
            with pytest.raises(ProblemError, match='try again in 5 s') as busy:
                capacity.reserve(images, pixels).__enter__()
            assert busy.value.headers == {'Retry-After': '5'}
        with capacity.reserve(1, 40):
            assert (capacity.images, capacity.pixels) == (3, 100)
    assert (capacity.images, capacity.pixels) == (0, 0)


def test_requests_beyond_the_total_capacity_are_not_retried() -> None:
    capacity = Capacity(max_images=3, max_pixels=100, seconds_per_image=lambda: 0)
    for images, pixels in ((4, 4), (1, 101)):
        with pytest.raises(ProblemError) as problem:
            capacity.reserve(images, pixels).__enter__()
        assert problem.value.kind == 'too-many-pixels'
