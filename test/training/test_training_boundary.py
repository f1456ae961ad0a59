# SPDX-License-Identifier: Apache-2.0
"""Tests of boundary F-scores: literal images, and the definition pixel by pixel."""

import math
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmentation_node.labels import load_scheme
from segmentation_node.metrics import UNCOUNTED, scored_classes
from training.boundary import BoundaryCounts, boundary_of

CLASSES = scored_classes(load_scheme('cityscapes8'))
Labels = npt.NDArray[np.int16]


def labels(*rows: list[int]) -> Labels:
    return np.array(rows, np.int16)


def counted(target: Labels, predicted: Labels, tolerance_px: float) -> BoundaryCounts:
    counts = BoundaryCounts(tolerance_px / math.hypot(*target.shape))
    counts.add(target, predicted.astype(np.uint8))
    return counts


def f_scores(target: Labels, predicted: Labels, tolerance_px: float) -> dict[str, float]:
    scores = counted(target, predicted, tolerance_px).f_score(CLASSES)
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def test_boundary_is_where_a_neighbor_differs() -> None:
    inside = labels([1, 1, 1, 1], [1, 1, 1, 2], [1, 1, 1, 1])
    assert (boundary_of(inside) == labels([-1, -1, -1, 1], [-1, -1, 1, 2], [-1, -1, -1, 1])).all()


def test_uncounted_pixels_bound_nothing() -> None:
    assert (boundary_of(labels([1, -1], [1, 2])) == labels([-1, -1], [1, 2])).all()
    assert (boundary_of(labels([1, -1, 2])) == UNCOUNTED).all()


def test_a_boundary_one_pixel_off() -> None:
    target, predicted = labels([1, 1, 1, 2, 2, 2]), labels([1, 1, 2, 2, 2, 2])
    assert f_scores(target, predicted, 0.9) == {'flat': 0, 'construction': 0}
    assert f_scores(target, predicted, 1.0) == {'flat': 1, 'construction': 1}


def test_precision_and_recall_by_hand() -> None:
    target = labels([1, 1, 1, 1, 1, 2])
    predicted = labels([2, 1, 1, 1, 1, 2])
    # Classes 1 and 2 each have 2 predicted and 1 true boundary pixel; one of each is matched.
    assert f_scores(target, predicted, 0) == {
        'flat': pytest.approx(2 / 3),
        'construction': pytest.approx(2 / 3),
    }


def test_another_class_at_the_same_place_is_no_partner() -> None:
    assert f_scores(labels([1, 2]), labels([1, 3]), 1) == {
        'flat': 1, 'construction': 0, 'object': 0,
    }  # fmt: skip


def test_distances_are_euclidean() -> None:
    target = np.full((9, 9), 1, np.int16)
    predicted = target.copy()
    target[1, 1], predicted[4, 5] = 2, 2
    assert f_scores(target, predicted, 4.99)['construction'] == 0
    assert f_scores(target, predicted, 5.0)['construction'] == 1


def test_prediction_near_void_truth_is_not_judged() -> None:
    target = labels([1, 1, 1, 1, 1, 1, -1, -1])
    near = labels([1, 1, 1, 1, 1, 2, 2, 2])
    assert f_scores(target, near, 2) == {}
    far = labels([1, 1, 2, 2, 2, 2, 2, 2])
    assert f_scores(target, far, 2) == {'flat': 0, 'construction': 0}


def test_nothing_in_void_truth_counts() -> None:
    target = np.full((4, 4), UNCOUNTED, np.int16)
    assert f_scores(target, np.arange(16, dtype=np.int16).reshape(4, 4) % 8, 1) == {}


def test_void_predicted_on_a_class_is_a_wrong_boundary() -> None:
    scores = f_scores(labels([1, 1, 1, 1]), labels([1, 1, 0, 0]), 1)
    assert scores == {'flat': 0}


@pytest.mark.parametrize('shape', [(2, 5), (3, 7), (9, 11), (6, 13)])
def test_a_tolerance_of_whole_pixels_is_not_rounded_away(shape: tuple[int, int]) -> None:
    target = np.full(shape, 1, np.int16)
    target[:, -1], predicted = 2, target.copy()
    predicted[:, -2] = 2
    assert set(f_scores(target, predicted, 1).values()) == {1}


def test_tolerance_follows_the_diagonal_and_is_told() -> None:
    counts = BoundaryCounts()
    counts.add(np.ones((360, 480), np.int16), np.ones((360, 480), np.uint8))
    counts.add(np.ones((300, 400), np.int16), np.ones((300, 400), np.uint8))
    assert counts.tolerances_px == {4.5, 3.75}


def slow(target: Labels, predicted: Labels, tolerance_px: float) -> npt.NDArray[np.int64]:
    """Counts by brute force, (4, 256): predicted, matched, true, matched."""
    height, width = target.shape
    places = list(product(range(height), range(width)))
    found = np.where(target == UNCOUNTED, UNCOUNTED, predicted)

    def boundary(image: Labels) -> dict[tuple[int, int], int]:
        bounds = {}
        for y, x in places:
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= ny < height and 0 <= nx < width
                if not inside or UNCOUNTED in (image[y, x], image[ny, nx]):
                    continue
                if image[y, x] != image[ny, nx]:
                    bounds[y, x] = int(image[y, x])
        return bounds

    def near(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return math.hypot(one[0] - other[0], one[1] - other[1]) <= tolerance_px + 1e-9

    void = [place for place in places if target[place] == UNCOUNTED]
    counts = np.zeros((4, 256), np.int64)
    sides = boundary(found), boundary(target)
    for side, partners, row in ((*sides, 0), (*sides[::-1], 2)):
        for place, label in side.items():
            if any(near(place, other) for other in void):
                continue
            counts[row, label] += 1
            met = any(label == c and near(place, other) for other, c in partners.items())
            counts[row + 1, label] += met
    return counts


def images(low: int) -> Any:
    shapes = st.shared(hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), key='shape')
    return shapes.flatmap(lambda s: hnp.arrays(np.int16, s, elements=st.integers(low, 3)))


@settings(max_examples=150)
@given(images(-1), images(0), st.sampled_from([0, 0.5, 1, 1.5, 2, 2.3, 3]))
def test_counts_are_those_of_the_definition(
    target: Labels, predicted: Labels, tolerance_px: float
) -> None:
    fast = counted(target, predicted, tolerance_px)
    got = np.stack([fast.predicted, fast.predicted_matched, fast.truth, fast.truth_matched])
    assert (got == slow(target, predicted, tolerance_px)).all()


@given(images(-1), images(0))
def test_scores_are_shares_and_the_truth_itself_scores_1(
    target: Labels, predicted: Labels
) -> None:
    assert all(0 <= value <= 1 for value in f_scores(target, predicted, 1.5).values())
    same = np.where(target == UNCOUNTED, predicted, target)
    assert set(f_scores(target, same, 1.5).values()) <= {1.0}


@given(images(-1), images(0))
def test_larger_tolerance_matches_at_least_as_much(target: Labels, predicted: Labels) -> None:
    # All pixels are scored at any tolerance.
    target = np.maximum(target, 0)
    strict, lenient = (counted(target, predicted, px) for px in (1, 2))
    assert (strict.predicted == lenient.predicted).all()
    assert (strict.predicted_matched <= lenient.predicted_matched).all()
    assert (strict.truth_matched <= lenient.truth_matched).all()


@given(images(-1), images(0))
def test_frames_add_up(target: Labels, predicted: Labels) -> None:
    once = counted(target, predicted, 1)
    twice = BoundaryCounts(once.tolerance)
    for _ in range(2):
        twice.add(target, predicted.astype(np.uint8))
    assert (twice.truth_matched == 2 * once.truth_matched).all()
    assert (twice.predicted == 2 * once.predicted).all()
