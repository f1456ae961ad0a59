# SPDX-License-Identifier: Apache-2.0
"""Scores: literal 2 x 2 images, and Cityscapes' own evaluation as the reference."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import (  # type: ignore[import-untyped]
    args as official_args,
)
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import (
    generateMatrix,
    getIouScoreForCategory,
    getIouScoreForLabel,
    getScoreAverage,
)
from cityscapesscripts.helpers.labels import (  # type: ignore[import-untyped]
    category2labels,
    id2label,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import UNCOUNTED, Confusion, ConfusionWindow

Image = UInt8Array

CATEGORIES = load_scheme('cityscapes8')
TRAIN_IDS = load_scheme('cityscapes19')
LABEL_IDS = load_scheme('cityscapes34')


def image(*rows: list[int]) -> Image:
    return np.array(rows, np.uint8)


def confusion(truth: Image, predicted: Image) -> Confusion:
    counted = Confusion()
    counted.add(truth, predicted)
    return counted


def test_two_classes_by_hand() -> None:
    scores = confusion(image([1, 1], [2, 2]), image([1, 2], [2, 2])).scores(CATEGORIES)
    iou = scores.class_iou()
    assert iou['flat'] == 1 / 2
    assert iou['construction'] == 2 / 3
    assert np.isnan([iou[n] for n in ('object', 'nature', 'sky', 'human', 'vehicle')]).all()
    assert scores.miou() == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert scores.pixel_accuracy() == 3 / 4


def test_dice_by_hand() -> None:
    scores = confusion(image([1, 1], [2, 2]), image([1, 2], [2, 2])).scores(CATEGORIES)
    dice = scores.class_dice()
    assert dice['flat'] == pytest.approx(2 * 1 / (2 + 1))
    assert dice['construction'] == pytest.approx(2 * 2 / (2 + 3))
    assert np.isnan(dice['sky'])
    assert scores.mean_dice() == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_confusion_within_a_category_is_none() -> None:
    # Road 0 and sidewalk 1 are flat; car 13 and bus 15 are vehicles.
    scores = confusion(image([0, 1], [13, 13]), image([1, 1], [15, 0])).scores(TRAIN_IDS)
    assert scores.class_iou()['sidewalk'] == 1 / 2
    assert scores.category_iou()['flat'] == 2 / 3
    assert scores.category_iou()['vehicle'] == 1 / 2
    assert scores.category_miou() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert list(scores.category_iou()) == [
        'flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle',
    ]  # fmt: skip


def test_categories_with_void() -> None:
    scores = confusion(image([0, 0], [1, 1]), image([1, 0], [1, 1])).scores(CATEGORIES)
    assert scores.category_miou() == 1
    assert scores.category_iou_with_void()['void'] == 1 / 2
    assert scores.category_miou_with_void() == pytest.approx((1 / 2 + 2 / 3) / 2)
    unlearned = confusion(image([255, 0]), image([0, 0])).scores(TRAIN_IDS)
    assert 'void' not in unlearned.category_iou_with_void()
    assert unlearned.category_miou_with_void() == 1


def test_a_target_counts_where_it_is_not_uncounted() -> None:
    counted = Confusion()
    counted.add_target(np.array([[UNCOUNTED, 1], [255, 0]], np.int16), image([7, 2], [3, 0]))
    assert {(int(t), int(p)) for t, p in np.argwhere(counted.counts)} == {(1, 2), (255, 3), (0, 0)}
    with pytest.raises(ValueError, match=r'target has shape \(1, 2\), prediction \(2, 1\)'):
        counted.add_target(np.zeros((1, 2), np.int16), image([1], [1]))


def test_void_predicted_on_a_valid_pixel_is_a_miss() -> None:
    scores = confusion(image([1, 1], [1, 1]), image([1, 1], [1, 0])).scores(CATEGORIES)
    assert scores.class_iou()['flat'] == 3 / 4
    assert scores.pixel_accuracy() == 3 / 4


def test_id_of_no_class_predicted_on_a_valid_pixel_is_a_miss() -> None:
    scores = confusion(image([1, 1], [1, 1]), image([1, 1], [1, 99])).scores(CATEGORIES)
    assert scores.class_iou()['flat'] == 3 / 4


def test_truth_that_is_void_does_not_count() -> None:
    scores = confusion(image([0, 0], [1, 1]), image([1, 0], [1, 1])).scores(CATEGORIES)
    assert scores.class_iou()['flat'] == 1.0
    assert scores.pixel_accuracy() == 1.0


def test_with_void_the_same_pixels_count() -> None:
    scores = confusion(image([0, 0], [1, 1]), image([1, 0], [1, 1])).scores(CATEGORIES)
    assert scores.miou_with_void() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_void_that_is_not_learned_is_no_class_with_void_either() -> None:
    scores = confusion(image([255, 0]), image([0, 0])).scores(TRAIN_IDS)
    assert scores.miou_with_void() == scores.miou() == 1.0


def test_ignored_truth_does_not_count_and_the_table_is_left_alone() -> None:
    counted = confusion(image([1, 1], [2, 2]), image([1, 2], [2, 2]))
    scores = counted.scores(CATEGORIES, ignored_truth=(1,))
    assert scores.class_iou()['construction'] == 1.0
    assert np.isnan(scores.class_iou()['flat'])
    assert counted.scores(CATEGORIES).class_iou()['flat'] == 1 / 2


def test_nothing_counted_gives_nan_and_no_warning() -> None:
    scores = Confusion().scores(CATEGORIES)
    assert np.isnan([scores.miou(), scores.miou_with_void(), scores.pixel_accuracy()]).all()


def test_truth_of_another_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match=r'2 truth pixels have ids that are not .* cityscapes8'):
        confusion(image([33, 33, 1]), image([1, 1, 1])).scores(CATEGORIES)


def test_stray_ids_may_be_ignored_explicitly() -> None:
    counted = confusion(image([33, 1]), image([1, 1]))
    assert counted.scores(CATEGORIES, ignored_truth=(33,)).miou() == 1.0


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r'truth has shape \(1, 2\), prediction \(2, 1\)'):
        confusion(image([1, 1]), image([1], [1]))


@pytest.mark.parametrize('dtype', [np.int64, np.int32, np.float32, np.bool_])
def test_only_uint8_is_counted(dtype: Any) -> None:
    with pytest.raises(ValueError, match='expected uint8'):
        Confusion().add(image([1]).astype(dtype), image([1]))
    with pytest.raises(ValueError, match='expected uint8'):
        Confusion().add(image([1]), image([1]).astype(dtype))


def test_ids_up_to_255_keep_their_place() -> None:
    counts = confusion(image([255, 0], [255, 7]), image([0, 255], [255, 8])).counts
    assert {(int(t), int(p)) for t, p in np.argwhere(counts)} == {
        (255, 0), (0, 255), (255, 255), (7, 8),
    }  # fmt: skip
    assert counts.sum() == 4


# Cityscapes' own evaluation.


def official_matrix(truth: Image, predicted: Image) -> npt.NDArray[np.int64]:
    matrix = generateMatrix(official_args)
    pairs, counts = np.unique(
        np.stack([truth.ravel(), predicted.ravel()]), axis=1, return_counts=True
    )
    matrix[pairs[0], pairs[1]] = counts.astype(np.ulonglong)
    return np.asarray(matrix)


def random_pair(seed: int) -> tuple[Image, Image]:
    """Label images with every labelId in the truth, three quarters of it predicted rightly."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 34, (120, 90), np.uint8)
    noise = rng.integers(0, 34, truth.shape, np.uint8)
    return truth, np.where(rng.random(truth.shape) < 0.75, truth, noise)


@pytest.mark.parametrize('seed', range(3))
def test_class_scores_equal_the_official_ones(seed: int) -> None:
    truth, predicted = random_pair(seed)
    matrix = official_matrix(truth, predicted)
    iou = confusion(truth, predicted).scores(LABEL_IDS).class_iou()
    assert len(iou) == 19
    by_name = {label.name: label.id for label in id2label.values()}
    for name, value in iou.items():
        reference = getIouScoreForLabel(by_name[name], matrix, official_args)
        assert value == pytest.approx(reference, abs=1e-9)
    average = getScoreAverage(
        {n: getIouScoreForLabel(by_name[n], matrix, official_args) for n in iou},
        official_args,
    )
    assert confusion(truth, predicted).scores(LABEL_IDS).miou() == pytest.approx(average, abs=1e-9)


@pytest.mark.parametrize('seed', range(3))
def test_train_ids_score_as_the_label_ids_they_stand_for(seed: int) -> None:
    truth, predicted = random_pair(seed)
    to_train = LABEL_IDS.mapping_to(TRAIN_IDS)
    scores = confusion(to_train[truth], to_train[predicted]).scores(TRAIN_IDS)
    reference = confusion(truth, predicted).scores(LABEL_IDS)
    assert scores.class_iou() == pytest.approx(reference.class_iou(), abs=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_category_scores_equal_the_official_ones(seed: int) -> None:
    truth, predicted = random_pair(seed)
    unscored = [c.id for c in LABEL_IDS.classes if not c.scored]
    # A category is predicted as any label of its own that counts in the evaluation.
    predicted = np.where(np.isin(predicted, unscored), truth % 7 + 11, predicted)
    predicted = np.where(np.isin(predicted, unscored), np.uint8(11), predicted)
    matrix = official_matrix(truth, predicted)
    to_category = LABEL_IDS.mapping_to(CATEGORIES)
    to_category_of_truth = to_category.copy()
    to_category_of_truth[unscored] = CATEGORIES.void_id
    scores = confusion(to_category_of_truth[truth], to_category[predicted]).scores(CATEGORIES)
    iou = scores.class_iou()
    assert set(iou) == set(category2labels) - {'void'}
    for name, value in iou.items():
        reference = getIouScoreForCategory(name, matrix, official_args)
        assert value == pytest.approx(reference, abs=1e-9)


# Properties.

few = settings(max_examples=25)

pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6).flatmap(
    lambda shape: st.tuples(
        *[hnp.arrays(np.uint8, shape, elements=st.integers(0, 7)) for _ in range(2)]
    )
)


@few
@given(pairs)
def test_iou_lies_between_0_and_1(pair: tuple[Image, Image]) -> None:
    scores = confusion(*pair).scores(CATEGORIES)
    for value in [*scores.class_iou().values(), scores.miou(), scores.miou_with_void()]:
        assert np.isnan(value) or 0 <= value <= 1


@few
@given(pairs)
def test_dice_is_twice_what_both_have_over_what_each_has(pair: tuple[Image, Image]) -> None:
    truth, predicted = pair
    predicted = np.where(truth == 0, 0, predicted)  # void truth does not count
    dice = confusion(truth, predicted).scores(CATEGORIES).class_dice()
    for c in CATEGORIES.classes[1:]:
        one, other = truth == c.id, predicted == c.id
        size = int(one.sum() + other.sum())
        expected = 2 * int((one & other).sum()) / size if size else float('nan')
        assert dice[c.name] == pytest.approx(expected, nan_ok=True)


@few
@given(pairs)
def test_categories_of_one_class_each_are_the_classes(pair: tuple[Image, Image]) -> None:
    scores = confusion(*pair).scores(CATEGORIES)
    assert scores.category_iou() == pytest.approx(scores.class_iou(), nan_ok=True)
    assert scores.category_miou() == pytest.approx(scores.miou(), nan_ok=True)
    assert scores.category_miou_with_void() == pytest.approx(scores.miou_with_void())


@few
@given(pairs)
def test_the_truth_itself_scores_1(pair: tuple[Image, Image]) -> None:
    truth, _ = pair
    scores = confusion(truth, truth).scores(CATEGORIES)
    assert scores.miou_with_void() == 1.0
    assert scores.miou() == 1.0 or (truth == 0).all()


@few
@given(pairs, st.randoms())
def test_the_order_of_pixels_does_not_matter(pair: tuple[Image, Image], random: Any) -> None:
    order = list(range(pair[0].size))
    random.shuffle(order)
    shuffled = confusion(pair[0].ravel()[order], pair[1].ravel()[order])
    assert (shuffled.counts == confusion(*pair).counts).all()


@few
@given(pairs, st.integers(0, 6))
def test_adding_in_parts_is_adding_at_once(pair: tuple[Image, Image], cut: int) -> None:
    parts = Confusion()
    parts.add(pair[0][:cut], pair[1][:cut])
    parts.add(pair[0][cut:], pair[1][cut:])
    assert (parts.counts == confusion(*pair).counts).all()


@few
@given(pairs, st.permutations(range(1, 8)))
def test_renaming_the_classes_renames_the_scores(
    pair: tuple[Image, Image], order: list[int]
) -> None:
    lut = np.array([0, *order], np.uint8)
    before = confusion(*pair).scores(CATEGORIES)
    after = confusion(lut[pair[0]], lut[pair[1]]).scores(CATEGORIES)
    names = {c.id: c.name for c in CATEGORIES.classes}
    for old in range(1, 8):
        new = names[int(lut[old])]
        assert after.class_iou()[new] == pytest.approx(before.class_iou()[names[old]], nan_ok=True)
    assert after.miou() == pytest.approx(before.miou(), nan_ok=True)


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
