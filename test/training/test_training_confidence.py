# SPDX-License-Identifier: Apache-2.0
"""Tests of the report's conclusion, its intervals, and repeated trainings."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.frame_counts import FRAME_COUNTS_FILE, FrameCounts, write_frame_counts
from training.report.augmentation import pairs
from training.report.conclusion import conclusion
from training.report.confidence import (
    difference_table,
    differences,
    footnotes,
    repeats_table,
    score_interval,
    scored,
)
from training.report.records import FolderArtifacts, Record
from training.report.repeats import repeats
from training.report.summary import COLUMNS, cells

#: Correct pixels in each of 40 images with 100 pixels.
STEADY = [80] * 40
BETTER = [84] * 40
#: Much better in one half of the images, and worse in the other.
MIXED = [100, 62] * 20

Make = Callable[..., Record]


def frames_of(correct: Sequence[int], *, first: int = 0) -> FrameCounts:
    """Counts of images with one class, which covers 100 pixels and is predicted on 100."""
    counts = [[[c], [100], [100]] for c in correct]
    names = [f'{first + i:03}' for i in range(len(correct))]
    return FrameCounts.of(['road'], names, np.array(counts, np.int64))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a function that makes a run with the counts of its images."""
    made: list[Record] = []

    def run(
        correct: Sequence[int],
        speed: float | None = 10.0,
        *,
        counts: bool = True,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        first: int = 0,
    ) -> Record:
        letter = chr(ord('A') + len(made))
        frames = frames_of(correct, first=first)
        if counts:
            write_frame_counts(tmp_path / letter / FRAME_COUNTS_FILE, {'streets': frames})
        curves = {'mIoU': {1: frames.miou() - 0.1, 2: frames.miou()}}
        if speed is not None:
            curves['imgs_per_sec'] = {1: speed, 2: speed}
        fields = {'family': 'unet', 'seed': 0, 'learning_rate': len(made), 'precision': 'fp32'}
        made.append(
            Record(
                letter, f'run{letter}', letter, 'study', 'FINISHED',
                datetime.fromtimestamp(0, timezone.utc),
                {k: str(v) for k, v in {**fields, **(params or {})}.items()},
                {'val_fingerprint': 'aaaa', 'machine': 'a machine', **(tags or {})},
                curves, FolderArtifacts(tmp_path / letter),
            )
        )  # fmt: skip
        return made[-1]

    return run


# Conclusion


def test_clear_winner_is_told_with_its_lead(make: Make) -> None:
    # 80 correct pixels of 120 in either, 84 of 116
    [quality, cost, doubts] = conclusion([make(STEADY, 20), make(BETTER, 10)])
    assert quality == (
        'B (runB) is the best of 2 models: mIoU 72.4 % (95 % interval 72.4 to 72.4), 5.75 points '
        'above A (runA), the second (95 % interval of the difference +5.75 to +5.75).'
    )
    assert cost == (
        'It segments 10.0 images per second; A (runA), the fastest, segments 20.0 images per '
        'second.'
    )
    assert doubts == (
        'Uncertain: the intervals cover only the choice of the 40 validation images; every model '
        'was trained only once, so chance in training is not covered; the validation images also '
        'chose the best epoch, which favors every model.'
    )


def test_tie_is_called_a_tie(make: Make) -> None:
    quality, cost, _ = conclusion([make(STEADY, 20), make(MIXED, 10)])
    assert quality.startswith(
        'There is no single best model among 2: the data cannot tell B (runB) and A (runA) apart '
        '(mIoU 68.1 and 66.7 %), because the 95 % interval of their difference of 1.40 points, '
    )
    assert quality.endswith(', contains 0.')
    assert 'best of' not in quality
    assert cost == (
        'A (runA) costs least among these: it segments 20.0 images per second, compared with '
        '10.0 images per second by B (runB).'
    )


def test_model_behind_a_tie_is_told_apart(make: Make) -> None:
    quality, *_ = conclusion([make(STEADY), make(MIXED), make([40] * 40)])
    assert 'cannot tell B (runB) and A (runA) apart (mIoU 68.1 and 66.7 %)' in quality
    assert '; C (runC) is 43.07 points behind (95 % interval +' in quality


def test_several_ties_are_told_together(make: Make) -> None:
    quality, cost, _ = conclusion([make(MIXED), make(MIXED[::-1]), make(STEADY)])
    assert 'among 3: the data cannot tell A (runA), B (runB) and C (runC) apart' in quality
    assert 'because the 95 % intervals of their differences from the first contain 0.' in quality
    assert cost.startswith('Their costs are about the same: 10.0 images per second by A (runA)')


def test_without_counts_nothing_is_said_about_chance(make: Make) -> None:
    quality, _, doubts = conclusion([make(STEADY, counts=False), make(BETTER)])
    assert quality == (
        'B (runB) has the highest score of 2 models: mIoU 72.4 % (95 % interval 72.4 to 72.4), '
        '5.75 points above A (runA); the data do not say whether this is more than chance.'
    )
    assert 'runs without counts of each image have no interval' in doubts


def test_runs_on_other_images_have_no_interval_of_their_difference(make: Make) -> None:
    quality, *_ = conclusion([make(STEADY), make(BETTER, first=1)])
    assert 'the data do not say' in quality


def test_only_model_is_told_alone(make: Make) -> None:
    quality, cost, doubts = conclusion([make(STEADY, None)])
    assert quality == 'A (runA) is the only model here: mIoU 66.7 % (95 % interval 66.7 to 66.7).'
    assert cost == 'The cost is unknown, because no run has a recorded speed.'
    assert 'the model was trained only once' in doubts


def test_speeds_of_several_machines_are_not_compared(make: Make) -> None:
    _, cost, _ = conclusion([make(STEADY), make(BETTER, tags={'machine': 'another'})])
    assert cost.startswith(
        'B (runB) segments 10.0 images per second, but costs cannot be compared'
    )


def test_fastest_model_is_told(make: Make) -> None:
    _, cost, _ = conclusion([make(STEADY, 5), make(BETTER, 10)])
    assert cost == 'It segments 10.0 images per second, the fastest of 2.'


def test_runs_that_are_not_comparable_are_left_out(make: Make) -> None:
    other = make([95] * 40, tags={'val_fingerprint': 'bbbb'})
    quality, _, doubts = conclusion([other, make(STEADY), make(BETTER)])
    assert quality.startswith('C (runC) is the best of 2 models')
    assert doubts.endswith('left out, because their scores are not comparable with these: A.')


def test_few_images_are_told(make: Make) -> None:
    few = make(STEADY[:8])
    assert 'the 8 validation images, which are few' in conclusion([few])[2]
    assert footnotes([few]) == [
        'The intervals of A (runA) are from fewer than 30 images and therefore too narrow.'
    ]


def test_run_without_a_score_concludes_nothing(make: Make) -> None:
    record = make(STEADY)
    assert conclusion([Record(**{**vars(record), 'curves': {}})]) == []


# Repeats


def seeds(make: Make, *correct: Sequence[int], rate: int = 1) -> list[Record]:
    return [
        make(own, params={'seed': seed, 'learning_rate': rate}) for seed, own in enumerate(correct)
    ]


def test_repeats_are_runs_that_differ_in_their_seed_alone(make: Make) -> None:
    first = seeds(make, STEADY, BETTER)
    other = make(STEADY, params={'learning_rate': 2, 'seed': 1})
    again = make(STEADY, params={'learning_rate': 1, 'seed': 1})  # the same seed once more
    harmless = make(STEADY, params={'learning_rate': 1, 'seed': 2, 'workers': 3, 'new': None})
    letters = [found.letters for found in repeats([*first, other, again, harmless])]
    assert letters == ['A, B, E', 'C', 'D']


def test_mean_and_spread_of_repeats_are_told(make: Make) -> None:
    table = repeats_table(repeats([*seeds(make, STEADY, BETTER), make(STEADY)]))
    assert table is not None
    # 80 / 120 and 84 / 116
    assert table.rows == (
        ('A, B (runA)', '0, 1', '0.6954', '0.0406', '0.6667 to 0.7241', '0.6954 to 0.6954'),
    )
    assert repeats_table(repeats([make(STEADY)])) is None


def test_models_are_compared_by_the_mean_of_their_seeds(make: Make) -> None:
    runs = [*seeds(make, STEADY, STEADY, rate=1), *seeds(make, BETTER, BETTER, rate=2)]
    quality, _, doubts = conclusion(runs)
    assert quality.startswith('C (runC) and 1 more seed is the best of 2 models: mIoU 72.4 %')
    assert 'trainings that differ only in the seed differ by up to 0.0 points' in doubts
    assert 'trained only once' not in doubts


def test_repeats_that_overlap_are_a_tie(make: Make) -> None:
    """Every image agrees that the mean is better, but the seeds do not."""
    runs = [*seeds(make, [70] * 40, [82] * 40, rate=1), *seeds(make, [74] * 40, [83] * 40, rate=2)]
    quality, _, doubts = conclusion(runs)
    assert 'their repeated trainings overlap' in quality
    assert 'differ by up to 15.6 points' in doubts


def test_single_run_within_the_spread_of_another_is_a_tie(make: Make) -> None:
    quality, *_ = conclusion([make([81] * 40), *seeds(make, [70] * 40, [82] * 40)])
    assert quality == (
        'There is no single best model among 2: the data cannot tell A (runA) and B (runB) and 1 '
        'more seed apart (mIoU 68.1 and 61.7 %), because the scores of their repeated trainings '
        'overlap.'
    )


def test_some_models_trained_once_are_told(make: Make) -> None:
    doubts = conclusion([*seeds(make, STEADY, STEADY), make(BETTER)])[2]
    assert '1 of 2 models were trained only once' in doubts


# Intervals


def test_differences_have_a_verdict(make: Make) -> None:
    table = difference_table([scored(r) for r in (make(STEADY), make(MIXED), make(BETTER))])
    assert table is not None
    assert [(row[0], row[1], row[2], row[4]) for row in table.rows] == [
        ('C (runC)', 'A (runA)', '+5.75', 'better'),
        ('C (runC)', 'B (runB)', '+4.35', 'cannot be told apart'),
        ('B (runB)', 'A (runA)', '+1.40', 'cannot be told apart'),
    ]


def test_only_runs_on_the_same_images_have_a_difference(make: Make) -> None:
    runs = [make(STEADY), make(BETTER, first=1), make(BETTER, counts=False)]
    assert differences(list(map(scored, runs))) == []
    assert difference_table(list(map(scored, runs))) is None


def test_interval_stands_beside_the_score(make: Make) -> None:
    column = next(column for column in COLUMNS if column.title == 'mIoU')
    [known, unknown] = cells([make(STEADY), make(BETTER, counts=False)], column)
    assert (known.text, known.remark) == ('0.6667', '0.6667 to 0.6667')
    assert unknown.remark == ''


def test_gain_of_augmentation_has_an_interval(make: Make) -> None:
    runs = [make(STEADY, params={'augment': False}), make(BETTER, params={'augment': True})]
    miou, dice, _ = pairs(runs)[0].changes
    assert miou.interval is not None
    assert miou.interval.low == pytest.approx(84 / 116 - 80 / 120)
    assert dice.interval is None


def test_missing_and_unfit_counts_are_told(make: Make, tmp_path: Path) -> None:
    missing, cut, other, single = make(STEADY, counts=False), *(make(STEADY) for _ in range(3))
    (tmp_path / 'B' / FRAME_COUNTS_FILE).write_text('{')
    write_frame_counts(tmp_path / 'C' / FRAME_COUNTS_FILE, {'streets': frames_of(BETTER)})
    write_frame_counts(tmp_path / 'D' / FRAME_COUNTS_FILE, {'streets': frames_of(STEADY[:1])})
    notes = footnotes([missing, cut, other, single])
    assert [note.partition(':')[0] for note in notes] == [
        f'No interval for {letter} (run{letter})' for letter in 'ABCD'
    ]
    for note, reason in zip(
        notes,
        ('counts of each image are missing', 'cannot be read: it is not valid JSON',
         'belongs to other figures: its mIoU is 0.7241', 'has fewer than 2 images'),
        strict=True,
    ):  # fmt: skip
        assert reason in note
    assert score_interval([missing]) is None
