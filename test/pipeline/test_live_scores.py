# SPDX-License-Identifier: Apache-2.0
"""Tests of the thread that scores frames: its figures, and what it counts."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline.live_scores import LiveScores, PublishedFrame
from segmentation_node.pipeline.truth import ScoredModel

CITYSCAPES8 = ScoredModel('unet', load_scheme('cityscapes8'))
CAMVID = load_scheme('camvid11').to_json()


def labels_of(*rows: list[int]) -> UInt8Array:
    return np.array(rows, np.uint8)


def frame_of(
    stamp_ns: int, rows: list[list[int]], camera: str = '', **more: Any
) -> PublishedFrame:
    labels = labels_of(*rows)
    image = np.zeros((*labels.shape, 3), np.uint8)
    confidence = np.full(labels.shape, 51, np.uint8)
    return PublishedFrame(camera, stamp_ns, image, labels, lambda: confidence, CITYSCAPES8, **more)


class Bench:
    """Live scores of a camera with truth and one without."""

    def __init__(self) -> None:
        self.scores = LiveScores(4, {'': '/truth/label_mask', 'rear': ''}, lambda _: True)
        self.scores.start()

    def figures(self, camera: str, key: str, expected: Any) -> dict[str, Any]:
        """Wait for a figure of the truth or of the signals."""
        ready = threading.Event()
        for _ in range(round(PATIENCE_S * 100)):
            figures = self.scores.figures()[camera]
            found = (figures['truth'] or {}).get('counts', {}) | figures
            if found[key] == expected:
                return figures
            ready.wait(0.01)
        pytest.fail(f'{key} never becomes {expected}: {figures}')


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.scores.stop()


def test_signals_are_reported_per_frame_and_over_the_window(bench: Bench) -> None:
    for index, distance in enumerate((1.0, 3.0)):
        frame = frame_of(index + 1, [[1, 1]], 'rear', distance=distance, max_distance=2.0)
        bench.scores.add(frame, measured=True)
        found = bench.figures('rear', 'domain_distance', {
            'newest': distance, 'mean': 1.0 + index, 'trend': 2.0 if index else None,
            'frames': index + 1, 'threshold': 2.0,
        })  # fmt: skip
    assert found['confidence']['mean'] == pytest.approx(0.2)
    assert found['consistency'] == {
        'newest': 1.0, 'mean': 1.0, 'trend': None, 'frames': 1, 'resets': 1,
    }  # fmt: skip
    assert (found['truth'], found['model'], found['problem']) == (None, 'unet', '')
    report = bench.scores.take_report('rear')
    assert [each['domain_distance'] for each in report['frames']] == [1.0, 3.0]
    assert report['frames'][1]['stamp'] == {'sec': 0, 'nanosec': 2}
    assert [each['consistency'] for each in report['frames']] == [None, 1.0]
    assert bench.scores.take_report('rear')['frames'] == []


def test_pairs_wait_for_the_label_scheme_of_the_truth(bench: Bench) -> None:
    scores = bench.scores
    scores.add(frame_of(1, [[1, 7]]), measured=False)
    scores.add_truth('', 1, labels_of([3, 8]))
    assert 'no message on /truth/label_info_json' in scores.figures()['']['problem']
    scores.describe_truth('', CAMVID)
    found = bench.figures('', 'scored', 1)
    assert found['problem'] == ''
    assert found['truth']['total']['miou'] == 1
    assert found['truth']['total']['class_iou']['human'] is None
    assert found['truth']['label_scheme'] == 'camvid11'


def test_problems_are_explained_until_a_pair_is_scored(bench: Bench) -> None:
    scores = bench.scores
    scores.describe_truth('', CAMVID)
    scores.refuse_truth('', 'malformed truth: a color image')
    assert bench.figures('', 'truths_unreadable', 1)['problem'] == 'malformed truth: a color image'
    for stamp_ns, ids in ((1, [99, 3]), (2, [3, 8])):
        scores.add(frame_of(stamp_ns, [[1, 7]]), measured=False)
        scores.add_truth('', stamp_ns, labels_of(ids))
    bench.figures('', 'scored', 1)
    assert bench.figures('', 'problem', '')['truth']['counts']['rejected'] == 1


def test_a_frame_that_cannot_be_measured_is_counted(bench: Bench) -> None:
    frame = frame_of(1, [[1]], 'rear')

    def broken() -> UInt8Array:
        raise MemoryError('no memory left')

    unlucky = PublishedFrame('rear', 1, frame.image_rgb, frame.labels, broken, CITYSCAPES8)
    bench.scores.add(unlucky, measured=True)
    bench.figures('rear', 'failed', 1)
    bench.figures('rear', 'problem', 'MemoryError while a frame was measured: no memory left')
    bench.scores.add(frame, measured=True)
    bench.figures('rear', 'problem', '')
    assert bench.scores.failure is None


def test_only_the_newest_frame_waits_to_be_measured(bench: Bench) -> None:
    entered, leave = threading.Event(), threading.Event()

    def held() -> UInt8Array:
        entered.set()
        assert leave.wait(PATIENCE_S)
        return np.zeros((1, 1), np.uint8)

    first = frame_of(1, [[1]], 'rear')
    slow = PublishedFrame('rear', 1, first.image_rgb, first.labels, held, CITYSCAPES8)
    bench.scores.add(slow, measured=True)
    assert entered.wait(PATIENCE_S)
    for stamp_ns in (2, 3, 4):
        bench.scores.add(frame_of(stamp_ns, [[1]], 'rear'), measured=True)
    leave.set()
    bench.figures('rear', 'skipped', 2)
    found = bench.figures('rear', 'consistency', {
        'newest': 1.0, 'mean': 1.0, 'trend': None, 'frames': 1, 'resets': 1,
    })  # fmt: skip
    assert found['confidence']['frames'] == 2
