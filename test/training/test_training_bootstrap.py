# SPDX-License-Identifier: Apache-2.0
"""Tests of the counts of images and of the confidence intervals that are made from them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import bootstrap  # type: ignore[import-untyped]

from segmentation_node.errors import ForeignError
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion, iou_of
from training.bootstrap import LEVEL, RESAMPLES, Interval, interval_of, resampled_miou
from training.frame_counts import (
    MAX_FRAMES,
    FrameCounts,
    mean_iou,
    parse_frame_counts,
    write_frame_counts,
)

CATEGORIES = load_scheme('cityscapes8')
#: One image: 3 of 4 pixels of a and 1 of 2 of b are correct, each error is the other class.
IMAGE = [[3, 1], [4, 2], [4, 2]]


def of(counts: Any, *names: str) -> FrameCounts:
    table = np.array(counts, np.int64)
    return FrameCounts.of('abcdefgh'[: table.shape[2]], names or _names(len(table)), table)


def _names(count: int) -> list[str]:
    return [f'{index:05}' for index in range(count)]


def random_frames(frames: int, classes: int = 3, seed: int = 0) -> FrameCounts:
    rng = np.random.default_rng(seed)
    correct = rng.integers(0, 50, (frames, classes))
    truth, predicted = (correct + rng.integers(0, 30, correct.shape) for _ in range(2))
    return of(np.stack([correct, truth, predicted], axis=1))


# Counts


def test_counts_are_those_of_the_score() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.choice([0, 1, 5, 7], (2, 8, 12), p=[0.1, 0.5, 0.3, 0.1]).astype(
        np.uint8
    )
    confusion = Confusion()
    confusion.add(truth, predicted)
    scores = confusion.scores(CATEGORIES)
    iou = dict(zip((c.name for c in scores.scored), iou_of(scores.class_counts()), strict=True))
    assert iou == pytest.approx(scores.class_iou(), nan_ok=True)
    assert mean_iou(scores.class_counts()) == pytest.approx(scores.miou())


def test_miou_of_a_small_table() -> None:
    # a: 3 / (4 + 4 - 3), b: 1 / (2 + 2 - 1)
    assert of([IMAGE]).miou() == pytest.approx((3 / 5 + 1 / 3) / 2)
    # Twice the same image gives the same, an absent class does not count.
    assert of([IMAGE, IMAGE]).miou() == pytest.approx((3 / 5 + 1 / 3) / 2)
    assert of([[[3, 0], [4, 0], [4, 0]]]).miou() == pytest.approx(3 / 5)
    assert np.isnan(of([[[0, 0], [0, 0], [0, 0]]]).miou())


def test_file_gives_back_what_was_written(tmp_path: Path) -> None:
    sets = {'camvid val': random_frames(5), 'streets': random_frames(2, classes=1)}
    assert write_frame_counts(tmp_path / 'deep' / 'counts.json', sets)
    back = parse_frame_counts((tmp_path / 'deep' / 'counts.json').read_bytes())
    assert list(back) == ['camvid val', 'streets']
    for name, frames in sets.items():
        assert back[name].names == frames.names
        assert back[name].classes == frames.classes
        assert back[name].counts.tolist() == frames.counts.tolist()
        assert back[name].images == frames.images


def test_file_is_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = np.sort(rng.integers(0, 2_000_000, (500, 3, 19)), axis=1)
    frames = FrameCounts.of([f'class {i}' for i in range(19)], _names(500), counts)
    write_frame_counts(tmp_path / 'counts.json', {'val': frames})
    assert (tmp_path / 'counts.json').stat().st_size < 250_000


def test_too_many_images_have_no_file(tmp_path: Path) -> None:
    path = tmp_path / 'counts.json'
    assert write_frame_counts(path, {'val': random_frames(2)})
    many = FrameCounts.of('a', _names(MAX_FRAMES + 1), np.ones((MAX_FRAMES + 1, 3, 1), np.int64))
    assert not write_frame_counts(path, {'val': many})
    assert not path.exists()


GOOD = {'classes': ['a', 'b'], 'names': ['1'], 'correct': [[3, 1]], 'truth': [[4, 2]],
        'predicted': [[4, 2]]}  # fmt: skip


@pytest.mark.parametrize(
    'change',
    [
        {'correct': [[3, 5]]},  # more than there are
        {'correct': [[3, -1]]},
        {'correct': [[3.5, 1]]},
        {'correct': [['3', 1]]},
        {'correct': [[True, True]]},
        {'correct': [[3, 1, 1]]},
        {'correct': [[3], [1, 1]]},
        {'truth': [[4, 10**30]]},
        {'truth': [[4, 2**60]]},
        {'names': ['1', '2']},
        {'names': []},
        {'names': 7},
        {'classes': None},
    ],
)
def test_impossible_counts_are_refused(change: dict[str, Any]) -> None:
    assert parse_frame_counts(json.dumps({'sets': {'val': GOOD}}).encode())
    with pytest.raises(ForeignError, match='counts of images'):
        parse_frame_counts(json.dumps({'sets': {'val': {**GOOD, **change}}}).encode())


@pytest.mark.parametrize('content', [b'', b'[', b'[]', b'{}', b'{"sets": [1]}', b'\xff', b'NaN'])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ForeignError):
        parse_frame_counts(content)


# Intervals


def test_interval_of_equal_images_is_a_point() -> None:
    interval = interval_of(resampled_miou(of([IMAGE] * 4)))
    assert interval.low == interval.high == pytest.approx((3 / 5 + 1 / 3) / 2)


def test_interval_of_two_images_is_from_one_to_the_other() -> None:
    """Draws of two images: one of four is the first twice, one of four the second twice."""
    good, bad = [[8], [10], [10]], [[2], [10], [10]]
    values = resampled_miou(of([good, bad]))
    assert values.shape == (RESAMPLES,)
    low, middle, high = 2 / 18, 10 / 30, 8 / 12
    found, counts = np.unique(values.round(9), return_counts=True)
    assert found == pytest.approx([low, middle, high])
    assert counts / RESAMPLES == pytest.approx([0.25, 0.5, 0.25], abs=0.02)
    interval = interval_of(values)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_class_that_a_draw_lacks_does_not_count_in_it() -> None:
    rare = of([[[5, 1], [5, 1], [5, 1]], [[5, 0], [5, 0], [5, 0]]])
    assert set(resampled_miou(rare)) == {1.0}


def test_interval_is_that_of_the_library() -> None:
    frames = random_frames(40, seed=5)

    def statistic(index: Any, axis: int) -> Any:
        return mean_iou(frames.counts[np.moveaxis(index, axis, -1)].sum(axis=-3))

    theirs = bootstrap(
        (np.arange(40),), statistic, n_resamples=4000, method='percentile', vectorized=True,
        confidence_level=LEVEL, batch=500, random_state=np.random.default_rng(7),
    ).confidence_interval  # fmt: skip
    ours = interval_of(resampled_miou(frames))
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.08 * width)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Of 60 sets of 100 images from one population, at least 53 intervals contain its mIoU."""
    population = random_frames(20_000, seed=1)
    covered = 0
    for seed in range(60):
        chosen = np.random.default_rng(seed).choice(20_000, 100, replace=False)
        covered += population.miou() in interval_of(resampled_miou(of(population.counts[chosen])))
    assert 53 <= covered <= 60


def test_one_image_has_no_interval() -> None:
    with pytest.raises(ValueError, match='at least 2'):
        resampled_miou(of([IMAGE]))


PAIRS = st.integers(2, 8).flatmap(
    lambda frames: st.tuples(
        hnp.arrays(np.int64, (2, frames, 2), elements=st.integers(0, 9)),
        hnp.arrays(np.int64, (2, 2, frames, 2), elements=st.integers(0, 9)),
        st.permutations(range(frames)),
    )
)


@given(PAIRS)
@settings(max_examples=25, deadline=None)
def test_interval_of_a_difference_ignores_the_order_of_the_images(given_pair: Any) -> None:
    correct, more, order = given_pair
    pair = [np.stack([c, c + m[0], c + m[1]], axis=1) for c, m in zip(correct, more, strict=True)]
    names = _names(len(order))
    one, other = (resampled_miou(of(counts, *names)) for counts in pair)
    moved, moved_other = (
        resampled_miou(of(counts[order], *(names[i] for i in order))) for counts in pair
    )
    assert np.array_equal(one - other, moved - moved_other, equal_nan=True)


def test_difference_of_a_run_from_itself_is_nothing() -> None:
    frames = random_frames(30)
    difference = resampled_miou(frames) - resampled_miou(frames)
    assert interval_of(difference) == Interval(0, 0)


def test_differences_are_paired() -> None:
    """A run that is a little better on every image is better, though the images vary a lot."""
    rng = np.random.default_rng(2)
    correct = rng.integers(0, 90, (50, 1))
    total = np.full_like(correct, 100)
    worse, better = (
        resampled_miou(of(np.stack([c, total, total], axis=1))) for c in (correct, correct + 2)
    )
    assert interval_of(better - worse).low > 0
    assert interval_of(worse).high > interval_of(better).low


def test_images_are_told_apart_by_name_class_and_truth() -> None:
    base = of([IMAGE, IMAGE], 'one', 'two')
    assert base.images == of([IMAGE, [[2, 1], [4, 2], [3, 2]]], 'one', 'two').images
    assert base.images != of([IMAGE, IMAGE], 'one', 'three').images
    assert base.images != of([IMAGE, [[3, 1], [5, 2], [4, 2]]], 'one', 'two').images
