# SPDX-License-Identifier: Apache-2.0
"""Tests of masks and truth: matched by stamp, scored, and all counted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline import truth as truth_module
from segmentation_node.pipeline.truth import ScoredMask, ScoredModel, TruthMatching, TruthScores

CITYSCAPES8 = ScoredModel('unet', load_scheme('cityscapes8'))
CAMVID = load_scheme('camvid11').to_json()


def labels_of(*rows: list[int]) -> UInt8Array:
    return np.array(rows, np.uint8)


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


def test_a_scheme_that_is_not_installed_is_known_if_the_masks_have_it(other_scheme: Path) -> None:
    scheme = load_scheme(other_scheme)
    matching, scores = TruthMatching(), TruthScores(9)
    matching.add_mask(1, ScoredMask(labels_of([20]), ScoredModel('unet', scheme)))
    matching.add_truth(1, labels_of([20]))
    assert scored(matching, scores, scheme.to_json()) == ['']
