# SPDX-License-Identifier: Apache-2.0
"""Tests of live scores: temporal consistency, trends, matching with truth, and their accounts."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE_S

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion, ConfusionWindow
from segmentation_node.pipeline import truth as truth_module
from segmentation_node.pipeline.consistency import TemporalConsistency
from segmentation_node.pipeline.live_scores import LiveScores, PublishedFrame
from segmentation_node.pipeline.trend import Trend
from segmentation_node.pipeline.truth import (
    ScoredMask,
    ScoredModel,
    TruthMatching,
    TruthScores,
)
from training.scenes.render import Renderer
from training.scenes.street import Street

CITYSCAPES8 = ScoredModel('unet', load_scheme('cityscapes8'))
CAMVID = load_scheme('camvid11').to_json()
SECOND_NS = 10**9


def labels_of(*rows: list[int]) -> UInt8Array:
    return np.array(rows, np.uint8)


def texture(seed: int) -> UInt8Array:
    """Smooth random image, (280, 360, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (35, 45, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


# Temporal consistency. The images have the size of the flow, so that no pixel is mixed.


def test_labels_that_move_with_the_image_are_consistent() -> None:
    image = texture(0)
    labels = (image[..., 0] // 64).astype(np.uint8)
    temporal = TemporalConsistency()
    before, after = (slice(20, 260), slice(20, 340)), (slice(24, 264), slice(26, 346))
    assert temporal.measure(1, image[before], labels[before]) is None
    moved = temporal.measure(2, image[after], labels[after])
    still = TemporalConsistency()
    still.measure(1, image[before], labels[before])
    assert moved is not None
    assert moved > 0.97
    # The same labels compared in place agree less.
    assert (labels[before] == labels[after]).mean() < 0.9


def test_the_share_of_pixels_that_change_their_label_is_missing() -> None:
    image, labels = texture(1)[:240, :320], np.zeros((240, 320), np.uint8)
    temporal = TemporalConsistency()
    temporal.measure(1, image, labels)
    assert temporal.measure(2, image, labels) == 1.0
    changed = labels.copy()
    changed[:60] = 5
    assert temporal.measure(3, image, changed) == pytest.approx(0.75, abs=1e-3)
    assert temporal.measure(4, image, changed) == 1.0


@pytest.mark.parametrize(
    ('stamp_ns', 'image', 'height'),
    [
        (5 * SECOND_NS, texture(2), 240),  # the same image, but late
        (SECOND_NS, texture(2), 240),  # earlier than the frame before
        (2 * SECOND_NS, texture(2), 200),
        (2 * SECOND_NS, 255 - texture(2) // 4, 240),  # another scene
    ],
    ids=['gap', 'backwards', 'size', 'cut'],
)
def test_frames_that_do_not_follow_each_other_are_not_compared(
    stamp_ns: int, image: UInt8Array, height: int
) -> None:
    temporal = TemporalConsistency()
    first = texture(2)[:240, :320]
    temporal.measure(round(1.5 * SECOND_NS), first, first[..., 0])
    other = image[:height, :320]
    assert temporal.measure(stamp_ns, other, other[..., 0]) is None
    assert temporal.resets == 2
    assert temporal.measure(stamp_ns + 1, other, other[..., 0]) == 1.0


@pytest.mark.parametrize('size_hw', [(1, 1), (1, 999), (17, 300), (300, 17), (5, 7)])
def test_images_of_any_shape_are_compared(size_hw: tuple[int, int]) -> None:
    temporal = TemporalConsistency()
    image = np.zeros((*size_hw, 3), np.uint8)
    temporal.measure(1, image, image[..., 0].copy())
    assert temporal.measure(2, image, image[..., 0].copy()) == 1.0


def test_a_street_is_consistent_and_another_street_is_a_cut() -> None:
    renderer = Renderer(256, 128)
    first, second = (renderer.render(Street(4001), time_s) for time_s in (0.0, 0.1))
    other = renderer.render(Street(4002), 0.0)
    temporal = TemporalConsistency()
    shares = [
        temporal.measure(index * SECOND_NS // 10, frame.image_rgb, frame.label_ids)
        for index, frame in enumerate((first, second, other))
    ]
    assert shares[0] is None
    assert shares[1] is not None
    assert shares[1] > 0.9
    assert shares[2] is None


# Trends


def test_a_trend_compares_the_halves_of_the_window() -> None:
    series = Trend(4)
    assert series.summary() == {'newest': None, 'mean': None, 'trend': None, 'frames': 0}
    series.add(9.0)
    assert series.summary()['trend'] is None
    for value in (1.0, 2.0, 5.0, 8.0):
        series.add(value)
    assert series.summary() == {'newest': 8.0, 'mean': 4.0, 'trend': 5.0, 'frames': 4}


# Sliding window of confusion tables

PAIRS = st.lists(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=6), max_size=12
)


@given(frames=PAIRS, size=st.integers(1, 5))
def test_a_window_equals_the_sum_of_its_newest_frames(
    frames: list[list[tuple[int, int]]], size: int
) -> None:
    window = ConfusionWindow(size)
    tables = []
    for pairs in frames:
        table = Confusion()
        table.add(*np.array(pairs, np.uint8).T.reshape(2, 1, -1))
        tables.append(table.counts)
        window.add(table)
        newest = tables[-size:]
        assert len(window) == len(newest)
        np.testing.assert_array_equal(window.confusion.counts, np.sum(newest, axis=0))


# Matching


def mask(*rows: list[int]) -> ScoredMask:
    return ScoredMask(labels_of(*rows), CITYSCAPES8)


@given(order=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_every_frame_is_counted_whatever_the_order(order: list[tuple[bool, int]]) -> None:
    matching = TruthMatching()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truth_module, 'MAX_WAITING', 3)
        for is_truth, stamp_ns in order:
            if is_truth:
                matching.add_truth(stamp_ns, labels_of([stamp_ns]))
            else:
                matching.add_mask(stamp_ns, mask([stamp_ns]))
    counts = matching.counts()
    for side in ('mask', 'truth'):
        other = 'truth' if side == 'mask' else 'mask'
        accounted = counts['matched'] + counts[f'{side}s_without_{other}']
        assert counts[f'{side}s'] == accounted + counts[f'{side}s_waiting']
        assert counts[f'{side}s_waiting'] <= 3
    assert counts['matched'] == counts['dropped'] + len(matching.pairs)
    while (pair := matching.take()) is not None:
        assert pair.truth == pair.mask.labels == pair.stamp_ns != 0


def test_queues_are_limited_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(truth_module, 'MAX_WAITING_BYTES', 10)
    matching = TruthMatching()
    for stamp_ns in (1, 2, 3):
        matching.add_truth(stamp_ns, labels_of([1, 1, 1, 1]))
    assert matching.counts()['truths_waiting'] == 2
    matching.add_mask(1, mask([1, 1, 1, 1]))
    matching.add_mask(3, mask([1, 1, 1, 1]))
    assert matching.counts()['matched'] == 1
    assert matching.counts()['truths_without_mask'] == 1


# camvid11: sky 0, building 1, road 3, tree 5, car 8, unlabelled 11;
# cityscapes8: void 0, flat 1, construction 2, nature 4, sky 5, vehicle 7.
def scored(matching: TruthMatching, scores: TruthScores, description: str = CAMVID) -> list[str]:
    problems = []
    while (pair := matching.take()) is not None:
        problems.append(scores.add(pair, description))
    return problems


def test_figures_by_hand() -> None:
    matching, scores = TruthMatching(), TruthScores(1)
    matching.add_truth(1, labels_of([3, 3, 3, 3], [8, 8, 11, 11]))
    matching.add_mask(1, mask([1, 1, 1, 7], [7, 0, 7, 1]))
    matching.add_mask(2, mask([1, 1, 5, 5]))
    matching.add_truth(2, labels_of([3, 3, 0, 0]))
    assert scored(matching, scores) == ['', '']
    figures = scores.figures()
    assert figures['total']['class_iou']['flat'] == pytest.approx(5 / 6)
    assert figures['total']['class_iou']['vehicle'] == pytest.approx(1 / 3)
    assert figures['total']['pixel_accuracy'] == pytest.approx(8 / 10)
    assert figures['total']['frames'] == 2
    assert figures['window']['miou'] == figures['window']['pixel_accuracy'] == 1
    assert figures['window']['frames'] == 1
    assert scores.truth_scheme == 'camvid11'


@pytest.mark.parametrize(
    ('truth', 'description', 'said'),
    [
        (labels_of([3], [3]), CAMVID, 'is 2 x 1 but its truth is 1 x 2'),
        (labels_of([3, 77]), CAMVID, '77 (1 pixels)'),
        (labels_of([1, 1]), '{}', 'not a description of a label scheme'),
        (labels_of([1, 1]), '[' * 10_000, 'not a description of a label scheme'),
        (labels_of([1, 1]), CAMVID.replace('camvid11', 'moon'), "unknown label scheme 'moon'"),
        (labels_of([1, 1]), CAMVID.replace('car', 'cart'), 'classes differ'),
    ],
)
def test_hostile_truth_is_rejected_and_costs_no_other_frame(
    truth: UInt8Array, description: str, said: str
) -> None:
    matching, scores = TruthMatching(), TruthScores(9)
    matching.add_mask(1, mask([1, 7]))
    matching.add_truth(1, truth)
    [problem] = scored(matching, scores, description)
    assert said in problem
    matching.add_mask(2, mask([1, 7]))
    matching.add_truth(2, labels_of([3, 8]))
    assert scored(matching, scores) == ['']
    assert (scores.scored, scores.rejected) == (1, 1)
    assert scores.figures()['total']['miou'] == 1


def test_truth_that_is_coarser_than_the_masks_is_rejected() -> None:
    model = ScoredModel('unet', load_scheme('cityscapes19'))
    matching, scores = TruthMatching(), TruthScores(9)
    for stamp_ns in (1, 2):
        matching.add_mask(stamp_ns, ScoredMask(labels_of([0]), model))
        matching.add_truth(stamp_ns, labels_of([1]))
    problems = scored(matching, scores, load_scheme('cityscapes8').to_json())
    assert all('no unambiguous counterpart in cityscapes19' in problem for problem in problems)
    assert scores.rejected == 2


def test_another_model_starts_anew() -> None:
    matching, scores = TruthMatching(), TruthScores(9)
    for stamp_ns, model in ((1, CITYSCAPES8), (2, CITYSCAPES8._replace(name='other'))):
        matching.add_mask(stamp_ns, ScoredMask(labels_of([1, stamp_ns]), model))
        matching.add_truth(stamp_ns, labels_of([3, 3]))
    scored(matching, scores)
    assert scores.figures()['total']['frames'] == 1
    assert scores.figures()['total']['pixel_accuracy'] == 0.5


# The thread


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


def test_a_scheme_that_is_not_installed_is_known_if_the_masks_have_it(other_scheme: Path) -> None:
    scheme = load_scheme(other_scheme)
    matching, scores = TruthMatching(), TruthScores(9)
    matching.add_mask(1, ScoredMask(labels_of([20]), ScoredModel('unet', scheme)))
    matching.add_truth(1, labels_of([20]))
    assert scored(matching, scores, scheme.to_json()) == ['']
