# SPDX-License-Identifier: Apache-2.0
"""What may go wrong with a frame goes into the accounts; the worker lives on."""

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from ros_process import DOMAIN_ID, PATIENCE_S, image_message  # isort: skip

import rclpy

from segmentation_node.codec import decode_image
from segmentation_node.errors import ImageError
from segmentation_node.frames import Accounts, Frame
from segmentation_node.labels import load_scheme
from segmentation_node.ros.outputs import CameraOutputs
from segmentation_node.ros.worker import Worker

FRAME = image_message(np.zeros((4, 6, 3), np.uint8))


def segment(_images_rgb: Any) -> Any:
    return SimpleNamespace(labels=np.zeros((1, 4, 6), np.uint8), confidence=np.zeros((1, 4, 6)))


class Bench:
    """A worker whose segmenter takes no time, with the publishers of a real node."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        self.context.init(domain_id=DOMAIN_ID)
        self.node = rclpy.create_node('bench', context=self.context)
        self.outputs = CameraOutputs(self.node, '')
        self.accounts = Accounts()
        self.reports: list[str] = []
        decode: Any = decode_image
        segmenter: Any = SimpleNamespace(segment=segment, scheme=load_scheme('cityscapes8'))
        self.worker = Worker(
            segmenter=segmenter,
            overlay_alpha=0.5,
            outputs={'': self.outputs},
            accounts=self.accounts,
            decode=decode,
            latency_ms=lambda _message: 0.0,
            report=self.reports.append,
            is_up=self.context.ok,
        )
        self.worker.start()

    def fate(self) -> str:
        """Hand over a frame and wait for its fate."""
        before = self.accounts.snapshot()
        self.accounts.arrive()
        self.worker.slots.put(Frame('', FRAME))
        deadline_s = time.monotonic() + PATIENCE_S
        while (after := self.accounts.snapshot())['received'] == before['received']:
            assert self.worker.failure is None
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return next(fate for fate in after if fate != 'received' and after[fate] > before[fate])


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    assert bench.worker.stop(PATIENCE_S)
    bench.context.try_shutdown()


def test_a_frame_that_waited_when_ros_went_down_is_lost_in_peace(bench: Bench) -> None:
    bench.context.shutdown()
    assert bench.fate() == 'failed'


@pytest.mark.parametrize('error', [RuntimeError('no memory'), MemoryError(), cv2.error('lost')])
def test_what_a_decoder_raises_costs_its_frame_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(bench.outputs, 'wanted', lambda: ['label_mask'])
    monkeypatch.setattr(bench.outputs, 'publish', lambda *_: None)

    def refuse(_message: object) -> None:
        raise error

    with monkeypatch.context() as broken:
        broken.setattr(bench.worker, '_decode', refuse)
        assert bench.fate() == 'failed'
    assert type(error).__name__ in bench.reports[0]
    assert bench.fate() == 'published'


def test_a_picture_that_cannot_be_compressed_costs_its_frame_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ImageError('too wide for JPEG')

    monkeypatch.setattr(bench.outputs, 'wanted', lambda: ['overlay/compressed'])
    monkeypatch.setattr(bench.outputs, 'publish', refuse)
    assert bench.fate() == 'failed'
    assert 'too wide for JPEG' in bench.reports[0]
    monkeypatch.setattr(bench.outputs, 'publish', lambda *_: None)
    assert bench.fate() == 'published'
