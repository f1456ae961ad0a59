# SPDX-License-Identifier: Apache-2.0
"""Ids of instances stay with their objects from frame to frame."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.arrays import UInt16Array
from segmentation_node.instances import Instances
from segmentation_node.pipeline import tracking
from segmentation_node.pipeline.tracking import MAX_GAP_NS, MAX_UNSEEN, InstanceTracker

CAR, PERSON = 26, 24
STEP_NS = 100_000_000


def instances(ids: list[list[int]] | UInt16Array, *class_ids: int) -> Instances:
    scores = np.linspace(0.9, 0.6, len(class_ids)).astype(np.float32)
    return Instances(np.array(ids, np.uint16), np.array(class_ids, np.uint8), scores)


class Film:
    """Frames of one camera at 10 Hz, tracked."""

    def __init__(self) -> None:
        self.tracker, self.stamp_ns = InstanceTracker(), 0

    def show(
        self, ids: list[list[int]], *class_ids: int, after_ns: int = STEP_NS, model: str = 'a'
    ) -> list[list[int]]:
        self.stamp_ns += after_ns
        found = self.tracker.track(instances(ids, *class_ids), self.stamp_ns, model)
        return found.ids.tolist()  # type: ignore[no-any-return]


# Literal cases


def test_ids_stay_with_their_objects_if_the_model_numbers_them_anew() -> None:
    film = Film()
    assert film.show([[1, 1, 1, 0, 2, 2]], CAR, CAR) == [[1, 1, 1, 0, 2, 2]]
    assert film.show([[0, 2, 2, 2, 1, 1]], CAR, CAR) == [[0, 1, 1, 1, 2, 2]]


def test_new_objects_have_ids_in_reading_order() -> None:
    assert Film().show([[0, 3, 3], [2, 2, 1]], CAR, CAR, PERSON) == [[0, 1, 1], [2, 2, 3]]


def test_classes_scores_and_boxes_stay_with_their_instances() -> None:
    tracker = InstanceTracker()
    tracker.track(instances([[1, 1, 1, 1, 1]], CAR), 0)
    found = tracker.track(instances([[2, 2, 0, 1, 1]], CAR, PERSON), STEP_NS)
    assert found.ids.tolist() == [[2, 2, 0, 1, 1]]
    assert [(s.id, s.class_id, s.box.x) for s in found.segments] == [(1, CAR, 3), (2, PERSON, 0)]
    assert [s.score for s in found.segments] == pytest.approx([0.9, 0.6])


def test_an_object_of_another_class_is_another_object() -> None:
    film = Film()
    film.show([[1, 1]], CAR)
    assert film.show([[1, 1]], PERSON) == [[2, 2]]
    assert film.show([[1, 1]], CAR) == [[1, 1]]


def test_the_largest_overlap_counts_and_each_object_continues_once() -> None:
    film = Film()
    film.show([[1, 1, 1, 1, 1, 1]], CAR)
    assert film.show([[1, 1, 2, 2, 2, 2]], CAR, CAR) == [[2, 2, 1, 1, 1, 1]]


def test_masks_that_hardly_overlap_are_different_objects() -> None:
    film = Film()
    film.show([[1, 1, 1, 1, 0, 0, 0]], CAR)
    assert film.show([[0, 0, 0, 1, 1, 1, 1]], CAR) == [[0, 0, 0, 2, 2, 2, 2]]


@pytest.mark.parametrize(('unseen', 'expected'), [(MAX_UNSEEN, 1), (MAX_UNSEEN + 1, 2)])
def test_an_object_that_is_unseen_for_a_few_frames(unseen: int, expected: int) -> None:
    film = Film()
    film.show([[1, 1, 0]], CAR)
    for _ in range(unseen):
        assert film.show([[0, 0, 0]]) == [[0, 0, 0]]
    assert film.show([[1, 1, 0]], CAR) == [[expected, expected, 0]]


def test_an_object_that_was_covered_by_another_one() -> None:
    film = Film()
    film.show([[1, 1, 0, 2, 2]], CAR, PERSON)
    assert film.show([[0, 0, 1, 1, 1]], CAR) == [[0, 0, 3, 3, 3]]
    assert film.show([[0, 0, 0, 2, 1]], CAR, PERSON) == [[0, 0, 0, 2, 3]]


def test_an_object_is_where_it_was_last_seen() -> None:
    film = Film()
    film.show([[1, 1, 1, 1, 0, 0, 0]], CAR)
    film.show([[0, 0, 1, 1, 1, 1, 0]], CAR)
    assert film.show([[1, 1, 0, 2, 2, 2, 2]], CAR, CAR) == [[2, 2, 0, 1, 1, 1, 1]]


@pytest.mark.parametrize(
    ('after_ns', 'model', 'columns', 'expected'),
    [
        (0, 'a', 2, 1),
        (MAX_GAP_NS, 'a', 2, 1),
        (MAX_GAP_NS + 1, 'a', 2, 2),
        (-1, 'a', 2, 2),
        (STEP_NS, 'b', 2, 2),
        (STEP_NS, 'a', 3, 2),
    ],
)
def test_a_reset_begins_new_objects_and_reuses_no_id(
    after_ns: int, model: str, columns: int, expected: int
) -> None:
    film = Film()
    film.show([[1, 1]], CAR)
    shown = film.show([[1] * columns], CAR, after_ns=after_ns, model=model)
    assert shown == [[expected] * columns]


def test_instances_without_pixels_are_left_out() -> None:
    found = InstanceTracker().track(instances([[3, 0, 3]], CAR, CAR, PERSON), 0)
    assert found.ids.tolist() == [[1, 0, 1]]
    assert [(s.id, s.class_id) for s in found.segments] == [(1, PERSON)]
    assert InstanceTracker().track(instances([[0, 0]]), 0).segments == ()


def test_ids_begin_again_after_the_largest_and_skip_those_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, 'MAX_ID', 3)
    film = Film()
    assert film.show([[1, 0, 0]], CAR) == [[1, 0, 0]]
    assert film.show([[1, 2, 0]], CAR, CAR) == [[1, 2, 0]]
    for _ in range(MAX_UNSEEN + 1):
        assert film.show([[1, 0, 0]], CAR) == [[1, 0, 0]]
    assert film.show([[1, 0, 2]], CAR, CAR) == [[1, 0, 3]]
    assert film.show([[1, 2, 3]], CAR, CAR, CAR) == [[1, 2, 3]]


def test_a_model_without_instances() -> None:
    assert InstanceTracker().deferred(lambda: None, 0)() is None


# Any frames

NUMBERS = st.lists(st.integers(0, 4), min_size=12, max_size=12)
CLASSES = st.lists(st.sampled_from([CAR, PERSON]), min_size=4, max_size=4)
FRAMES = st.lists(st.tuples(NUMBERS, CLASSES), min_size=1, max_size=10)


def tracked(frames: list[tuple[list[int], list[int]]]) -> list[Instances]:
    tracker = InstanceTracker()
    return [
        tracker.track(instances(np.array(ids, np.uint16).reshape(3, 4), *classes), i * STEP_NS)
        for i, (ids, classes) in enumerate(frames)
    ]


@given(FRAMES)
def test_each_object_of_a_frame_has_one_id_and_one_class(
    frames: list[tuple[list[int], list[int]]],
) -> None:
    class_of: dict[int, int] = {}
    for (ids, classes), found in zip(frames, tracked(frames), strict=True):
        pairs = set(zip(ids, found.ids.ravel().tolist(), strict=True))
        assert len(pairs) == len(set(ids)) == len({new for _, new in pairs})
        assert all((old == 0) == (new == 0) for old, new in pairs)
        for old, new in pairs - {(0, 0)}:
            assert found.class_ids[new - 1] == classes[old - 1]
            assert class_of.setdefault(new, classes[old - 1]) == classes[old - 1]


@given(FRAMES, st.lists(st.permutations(range(4)), min_size=10, max_size=10))
def test_the_order_of_the_instances_does_not_matter(
    frames: list[tuple[list[int], list[int]]], orders: list[list[int]]
) -> None:
    mixed = [
        ([order[n - 1] + 1 if n else 0 for n in ids], [classes[order.index(k)] for k in range(4)])
        for (ids, classes), order in zip(frames, orders, strict=False)
    ]
    for one, other in zip(tracked(frames), tracked(mixed), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)


@given(NUMBERS, CLASSES)
def test_a_frame_that_repeats_keeps_all_ids(ids: list[int], classes: list[int]) -> None:
    first, *rest = tracked([(ids, classes)] * 3)
    for again in rest:
        np.testing.assert_array_equal(again.ids, first.ids)
