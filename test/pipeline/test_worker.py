# SPDX-License-Identifier: Apache-2.0
"""Stages overlap where they may, every frame has one fate, and the worker survives failures."""

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from patience import PATIENCE_S
from threads import in_thread

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError
from segmentation_node.images.encodings import decode_image
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline import slots, worker
from segmentation_node.pipeline.frames import FATES, Accounts, LiveFrame
from segmentation_node.pipeline.outputs import OUTPUTS, Output, ShutDown
from segmentation_node.pipeline.worker import Worker
from segmentation_node.segmenter import Prediction


class Gate:
    """Gate in a stage's thread, which records its work and waits while the gate is shut."""

    def __init__(self) -> None:
        self.came: list[Any] = []
        self._changed = threading.Condition()
        self._open = True

    def shut(self) -> None:
        """Make threads wait from now on."""
        self._open = False

    def open(self) -> None:
        """Let all threads pass."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def enter(self, what: Any) -> None:
        """Record an item, then wait for the gate."""
        with self._changed:
            self.came.append(what)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open)

    def wait_for(self, *came: Any) -> None:
        """Return when exactly these items were recorded since the start."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.came) >= len(came), PATIENCE_S)
            assert self.came == list(came)


class Publisher:
    """Publisher of a camera whose label mask has a subscriber."""

    def __init__(self, publish: Callable[..., None]) -> None:
        self.publish = publish

    def wanted(self) -> list[Output]:
        return [OUTPUTS['label_mask']]

    def canvas(self, _topic: str, size_hw: tuple[int, int]) -> UInt8Array:
        return np.empty((*size_hw, 3), np.uint8)


class Bench:
    """A worker whose stages pass through gates.

    All pixels of an image have the number of its frame, and so have its labels.
    """

    def __init__(self) -> None:
        self.accounts = Accounts()
        self.reports: list[str] = []
        self.decoding, self.inferring, self.publishing = Gate(), Gate(), Gate()
        self.publishers = {camera: Publisher(self._publish) for camera in 'ab'}
        segmenter: Any = SimpleNamespace(
            segment=self._segment, scheme=load_scheme('cityscapes8'), offloads=False
        )
        self.worker = Worker(
            segmenter=segmenter,
            overlay_alpha=0.5,
            publishers=self.publishers,
            accounts=self.accounts,
            decode=self._decode,
            latency_ms=lambda _message: 0.0,
            report=self.reports.append,
        )
        self.segmenter: Any = segmenter

    def _decode(self, message: Any) -> Any:
        image_rgb = decode_image(message)
        self.decoding.enter(int(image_rgb[0, 0, 0]))
        return image_rgb

    def _segment(self, images_rgb: Sequence[UInt8Array]) -> Any:
        self.inferring.enter([int(image[0, 0, 0]) for image in images_rgb])
        labels = np.stack([image[..., 0] for image in images_rgb])
        return Prediction(labels, lambda index: labels[index])

    def _publish(self, _wanted: Any, rendered: Any, _header: Any) -> None:
        number = int(rendered.label_mask[0, 0])
        assert (rendered.image_rgb == number).all()
        assert (rendered.confidence == number).all()
        self.publishing.enter(number)

    def put(self, number: int, camera: str = 'a', size: int = 4, encoding: str = 'rgb8') -> None:
        """Let a frame arrive."""
        pixels = np.full((size, 6, 3), number, np.uint8)
        message = SimpleNamespace(
            height=size, width=6, step=18, encoding=encoding, is_bigendian=0,
            data=pixels.tobytes(), header=None,
        )  # fmt: skip
        self.accounts.arrive()
        self.worker.slots.put(LiveFrame(camera, message))

    def fill(self) -> None:
        """Let frame 1 be published, frame 2 be in the network and frame 3 wait."""
        self.publishing.shut()
        self.put(1)
        self.publishing.wait_for(1)
        self.inferring.shut()
        self.put(2)
        self.inferring.wait_for([1], [2])
        self.put(3)

    def fates(self) -> dict[str, int]:
        """Return the number of frames by fate so far, without zeros."""
        counts = self.accounts.snapshot()
        assert counts['received'] == sum(counts[fate] for fate in FATES)
        return {fate: counts[fate] for fate in FATES if counts[fate]}

    def forget(self) -> None:
        """Clear the records of all gates."""
        for gate in (self.decoding, self.inferring, self.publishing):
            gate.came.clear()

    def settled(self) -> dict[str, int]:
        """Return the fates once every frame is settled."""
        in_thread(self.accounts.wait_until_settled).result(PATIENCE_S)
        assert self.worker.failure is None
        return self.fates()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    bench.worker.start()
    yield bench
    for gate in (bench.decoding, bench.inferring, bench.publishing):
        gate.open()
    assert bench.worker.stop(PATIENCE_S)


@pytest.fixture
def offloading(bench: Bench) -> Bench:
    """Bench whose network leaves the CPU free, as the decoder knows."""
    bench.segmenter.offloads = True
    bench.put(0)
    assert bench.settled() == {'published': 1}
    bench.forget()
    return bench


@pytest.fixture
def pair(offloading: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Bench whose cameras a and b are active, so that batches wait for both."""
    monkeypatch.setattr(slots, 'CAMERA_ACTIVE_S', 3600.0)
    monkeypatch.setattr(worker, 'BATCH_WAIT_S', PATIENCE_S)
    for camera in 'ba':
        offloading.put(0, camera)
    assert offloading.settled() == {'published': 3}
    offloading.forget()
    return offloading


def test_the_network_runs_while_masks_are_published(bench: Bench) -> None:
    bench.publishing.shut()
    bench.put(1)
    bench.publishing.wait_for(1)
    bench.put(2)
    bench.inferring.wait_for([1], [2])
    bench.publishing.open()
    assert bench.settled() == {'published': 2}
    bench.publishing.wait_for(1, 2)


def test_the_network_waits_instead_of_letting_masks_pile_up(bench: Bench) -> None:
    bench.publishing.shut()
    bench.put(1)
    bench.publishing.wait_for(1)
    bench.put(2)
    bench.inferring.wait_for([1], [2])
    for number in range(3, 9):
        bench.put(number)
    assert bench.fates() == {'superseded': 5}
    bench.publishing.open()
    assert bench.settled() == {'published': 3, 'superseded': 5}
    bench.publishing.wait_for(1, 2, 8)


def test_on_a_cpu_a_frame_is_decoded_when_the_network_is_free(bench: Bench) -> None:
    bench.inferring.shut()
    bench.put(1)
    bench.inferring.wait_for([1])
    bench.put(2)
    bench.put(3)
    assert bench.fates() == {'superseded': 1}
    assert bench.decoding.came == [1]
    bench.inferring.open()
    assert bench.settled() == {'published': 2, 'superseded': 1}
    bench.decoding.wait_for(1, 3)


def test_beside_a_gpu_the_newest_frames_are_decoded_meanwhile(offloading: Bench) -> None:
    bench = offloading
    bench.inferring.shut()
    bench.put(1)
    bench.inferring.wait_for([1])
    bench.put(2)
    bench.decoding.wait_for(1, 2)
    bench.put(3)
    bench.decoding.wait_for(1, 2, 3)
    bench.inferring.open()
    assert bench.settled() == {'published': 3, 'superseded': 1}
    bench.publishing.wait_for(1, 3)


def test_frames_of_several_cameras_go_together(pair: Bench) -> None:
    pair.put(1, 'a')
    pair.put(2, 'b')
    assert pair.settled() == {'published': 5}
    pair.inferring.wait_for([1, 2])
    pair.publishing.wait_for(1, 2)
    assert pair.worker.timings.batch.percentiles(100) == [2.0]


def test_on_a_cpu_frames_go_one_by_one_and_wait_for_no_other_camera(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, 'CAMERA_ACTIVE_S', 3600.0)
    monkeypatch.setattr(worker, 'BATCH_WAIT_S', 3600.0)
    bench.inferring.shut()
    bench.put(1, 'a')
    bench.inferring.wait_for([1])
    bench.put(2, 'b')
    bench.put(3, 'a')
    bench.inferring.open()
    assert bench.settled() == {'published': 3}
    bench.inferring.wait_for([1], [2], [3])


def test_frames_of_different_sizes_go_one_by_one(pair: Bench) -> None:
    pair.put(1, 'a')
    pair.put(2, 'b', size=5)
    assert pair.settled() == {'published': 5}
    pair.inferring.wait_for([1], [2])


def test_a_malformed_frame_does_no_harm_to_those_of_other_cameras(pair: Bench) -> None:
    pair.put(1, 'a', encoding='rgb9')
    pair.put(2, 'b')
    pair.decoding.wait_for(2)
    pair.put(3, 'a')
    assert pair.settled() == {'published': 5, 'malformed': 1}
    pair.inferring.wait_for([2, 3])
    assert 'rgb9' in pair.reports[0]


def test_a_batch_that_fails_is_counted_frame_by_frame(
    pair: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(_: object) -> None:
        raise RuntimeError('out of memory')

    monkeypatch.setattr(pair.segmenter, 'segment', run_out)
    pair.put(1, 'a')
    pair.put(2, 'b')
    assert pair.settled() == {'published': 3, 'failed': 2}


def test_draining_lets_every_frame_in_work_finish(bench: Bench) -> None:
    bench.fill()
    drained = in_thread(bench.worker.drain)
    bench.publishing.open()
    bench.publishing.wait_for(1)
    assert not drained.done()
    bench.inferring.open()
    drained.result(PATIENCE_S)
    assert bench.fates() == {'published': 2, 'not_wanted': 1}
    bench.put(4)
    assert bench.settled() == {'published': 3, 'not_wanted': 1}


def test_stopping_lets_every_frame_in_work_finish(bench: Bench) -> None:
    bench.fill()
    assert not bench.worker.stop(0.0)
    assert bench.fates() == {'not_wanted': 1}
    bench.inferring.open()
    bench.publishing.open()
    assert bench.worker.stop(PATIENCE_S)
    assert bench.fates() == {'published': 2, 'not_wanted': 1}


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
@pytest.mark.parametrize('stage', ['decode', 'infer', 'publish'])
def test_a_bug_in_any_thread_is_kept_and_blocks_no_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    def broken(*_: object) -> None:
        raise TypeError('a bug')

    places: dict[str, tuple[Any, str]] = {
        'decode': (bench.worker, '_decode'),
        'infer': (bench.segmenter, 'segment'),
        'publish': (bench.publishers['a'], 'publish'),
    }
    target, name = places[stage]
    monkeypatch.setattr(target, name, broken)
    bench.put(1)
    in_thread(bench.accounts.wait_until_settled).result(PATIENCE_S)
    in_thread(bench.worker.drain).result(PATIENCE_S)
    assert bench.worker.stop(PATIENCE_S)
    assert isinstance(bench.worker.failure, TypeError)
    bench.put(2)
    assert bench.fates() == {'not_wanted': 1}


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
def test_a_bug_in_publishing_frees_a_network_that_waits(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        bench.publishing.enter('broken')
        raise TypeError('a bug')

    monkeypatch.setattr(bench.publishers['a'], 'publish', broken)
    bench.publishing.shut()
    bench.put(1)
    bench.publishing.wait_for('broken')
    bench.put(2)
    bench.inferring.wait_for([1], [2])
    bench.publishing.open()
    assert bench.worker.stop(PATIENCE_S)
    assert isinstance(bench.worker.failure, TypeError)
    assert bench.fates() == {'failed': 1}


@pytest.mark.parametrize('method', ['wanted', 'publish'])
def test_frames_in_progress_at_a_shutdown_fail_without_a_report(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def ended(*_: object) -> Any:
        raise ShutDown

    bench.inferring.shut()
    bench.put(1)
    bench.inferring.wait_for([1])
    monkeypatch.setattr(bench.publishers['a'], method, ended)
    bench.put(2)
    bench.inferring.open()
    assert bench.settled() == (
        {'published': 1, 'failed': 1} if method == 'wanted' else {'failed': 2}
    )
    assert bench.reports == []


@pytest.mark.parametrize('error', [RuntimeError('no memory'), MemoryError(), cv2.error('lost')])
@pytest.mark.parametrize('place', ['decode', 'infer'])
def test_errors_of_decoder_and_network_cost_one_frame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def refuse(_: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        if place == 'decode':
            broken.setattr(bench.worker, '_decode', refuse)
        else:
            broken.setattr(bench.segmenter, 'segment', refuse)
        bench.put(1)
        assert bench.settled() == {'failed': 1}
    assert type(error).__name__ in bench.reports[0]
    bench.put(2)
    assert bench.settled() == {'failed': 1, 'published': 1}


def test_a_picture_that_cannot_be_compressed_costs_one_frame(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ImageError('too wide for JPEG')

    with monkeypatch.context() as broken:
        broken.setattr(bench.publishers['a'], 'publish', refuse)
        bench.put(1)
        assert bench.settled() == {'failed': 1}
    assert 'too wide for JPEG' in bench.reports[0]
    bench.put(2)
    assert bench.settled() == {'failed': 1, 'published': 1}
