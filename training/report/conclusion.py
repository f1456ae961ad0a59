# SPDX-License-Identifier: Apache-2.0
"""Conclusion of the report in three sentences: the best model, its cost, what is uncertain."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from training.bootstrap import Interval
from training.report.comparability import Aspect, group
from training.report.confidence import (
    FEW_FRAMES,
    difference_interval,
    points_interval,
    score_interval,
)
from training.report.records import Record
from training.report.repeats import Repeats, repeats
from training.report.summary import duration, percent, rate

#: Speeds that differ by less than this share are called the same.
SAME_SPEED: Final = 0.05


@dataclass(frozen=True)
class Rival:
    """A model behind the leader by `lead`; `interval` is that of `lead`, None if unknown.

    `overlaps` tells that one or both were trained repeatedly and their scores overlap.
    """

    model: Repeats
    lead: float
    interval: Interval | None
    overlaps: bool

    @property
    def is_tie(self) -> bool | None:
        """True if the data cannot tell it from the leader; None if they do not say."""
        if self.overlaps:
            return True
        return None if self.interval is None else 0 in self.interval


@dataclass(frozen=True)
class Ranking:
    """Comparable models: the one with the highest mean mIoU, and the others in order."""

    leader: Repeats
    rivals: tuple[Rival, ...]

    @property
    def models(self) -> list[Repeats]:
        """All models in order."""
        return [self.leader, *(rival.model for rival in self.rivals)]

    @property
    def ties(self) -> list[Rival]:
        """Rivals that the data cannot tell from the leader."""
        return [rival for rival in self.rivals if rival.is_tie]

    @property
    def first(self) -> list[Repeats]:
        """Leader and its ties."""
        return [self.leader, *(rival.model for rival in self.ties)]


def conclusion(records: Sequence[Record]) -> list[str]:
    """Return three sentences on the runs; none if no run has an mIoU.

    If not all scores are comparable, they are about the largest group of comparable models.
    """
    models = repeats(records)
    if not models:
        return []
    kinds = [group(model.records[0], Aspect.QUALITY) for model in models]
    [(most, _)] = Counter(kinds).most_common(1)
    ranking = rank([model for model, kind in zip(models, kinds, strict=True) if kind == most])
    left_out = [model for model, kind in zip(models, kinds, strict=True) if kind != most]
    return [_quality(ranking), _cost(ranking), _doubts(ranking, left_out)]


def rank(models: Sequence[Repeats]) -> Ranking:
    """Order comparable models by their mean mIoU."""
    leader, *others = sorted(models, key=lambda model: -model.miou)
    return Ranking(leader, tuple(_rival(leader, other) for other in others))


def _rival(leader: Repeats, other: Repeats) -> Rival:
    return Rival(
        other,
        leader.miou - other.miou,
        difference_interval(leader.records, other.records),
        max(len(leader.records), len(other.records)) > 1 and max(other.mious) >= min(leader.mious),
    )


def _quality(ranking: Ranking) -> str:
    leader, count = ranking.leader, len(ranking.models)
    reached = f'mIoU {percent(leader.miou)} %{_own_interval(leader)}'
    if not ranking.rivals:
        return f'{leader.title} is the only model here: {reached}.'
    if ranking.ties:
        return _tie(ranking)
    second = ranking.rivals[0]
    lead = f'{100 * second.lead:.2f} points above {second.model.title}'
    if second.interval is None:
        return (
            f'{leader.title} has the highest score of {count} models: {reached}, {lead}; the data '
            f'do not say whether this is more than chance.'
        )
    return (
        f'{leader.title} is the best of {count} models: {reached}, {lead}, the second (95 % '
        f'interval of the difference {points_interval(second.interval)}).'
    )


def _own_interval(model: Repeats) -> str:
    interval = score_interval(model.records)
    if interval is None:
        return ''
    return f' (95 % interval {percent(interval.low)} to {percent(interval.high)})'


def _tie(ranking: Ranking) -> str:
    names = _listed([model.title for model in ranking.first])
    scores = _listed([percent(model.miou) for model in ranking.first])
    rest = [rival for rival in ranking.rivals if not rival.is_tie]
    behind = ''
    if rest:
        of = f' (95 % interval {points_interval(rest[0].interval)})' if rest[0].interval else ''
        behind = f'; {rest[0].model.title} is {100 * rest[0].lead:.2f} points behind{of}'
    return (
        f'There is no single best model among {len(ranking.models)}: the data cannot tell {names} '
        f'apart (mIoU {scores} %), because {_reason(ranking.ties)}{behind}.'
    )


def _reason(ties: Sequence[Rival]) -> str:
    within = [r.interval for r in ties if r.interval is not None and 0 in r.interval]
    if not within:
        return 'the scores of their repeated trainings overlap'
    if len(within) < len(ties):
        return 'their differences are within their 95 % intervals or between repeated trainings'
    if len(within) == 1:
        return (
            f'the 95 % interval of their difference of {100 * ties[0].lead:.2f} points, '
            f'{points_interval(within[0])}, contains 0'
        )
    return 'the 95 % intervals of their differences from the first contain 0'


def _cost(ranking: Ranking) -> str:
    speeds = {model.letters: _speed(model) for model in ranking.models}
    known = [model for model in ranking.models if speeds[model.letters] is not None]
    if not known:
        return 'The cost is unknown, because no run has a recorded speed.'
    inference = {group(r, Aspect.INFERENCE) for model in known for r in model.records}
    if len(known) < len(ranking.models) or len(inference) > 1:
        own = _rate(ranking.leader) if ranking.leader in known else 'an unknown number of images'
        return (
            f'{ranking.leader.title} segments {own}{_size(ranking.leader)}, but costs cannot be '
            f'compared, because not all speeds are from the same machine, precision and images.'
        )
    fast = sorted(ranking.first, key=lambda model: -(speeds[model.letters] or 0))
    if len(fast) > 1:
        return f'{_cheapest(fast)}{_training(fast[0])}.'
    fastest = max(known, key=lambda model: speeds[model.letters] or 0)
    own = f'It segments {_rate(ranking.leader)}{_size(ranking.leader)}'
    if fastest is ranking.leader:
        than = f', the fastest of {len(known)}' if len(known) > 1 else ''
    else:
        than = f'; {fastest.title}, the fastest, segments {_rate(fastest)}{_size(fastest)}'
    return f'{own}{than}{_training(ranking.leader)}.'


def _cheapest(fast: Sequence[Repeats]) -> str:
    """Name the cheapest of several models, ordered by speed."""
    first, second = (_speed(model) or 0.0 for model in fast[:2])
    rates = [f'{_rate(model)} by {model.title}' for model in fast]
    if first <= second * (1 + SAME_SPEED):
        return f'Their costs are about the same: {_listed(rates)}'
    return (
        f'{fast[0].title} costs least among these: it segments {_rate(fast[0])}{_size(fast[0])}, '
        f'compared with {_listed(rates[1:])}'
    )


def _speed(model: Repeats) -> float | None:
    speeds = [v for r in model.records if (v := r.median('imgs_per_sec')) is not None]
    return median(speeds) if speeds else None


def _rate(model: Repeats) -> str:
    return f'{rate(_speed(model) or 0)} images per second'


def _size(model: Repeats) -> str:
    weights = model.records[0].parameters
    return '' if weights is None else f' with {weights / 1e6:.1f} million parameters'


def _training(model: Repeats) -> str:
    seconds = model.records[0].total('train_time_sec')
    if seconds is None:
        return ''
    return f'; the training of {model.records[0].title} took {duration(seconds)}'


def _doubts(ranking: Ranking, left_out: Sequence[Repeats]) -> str:
    return f'Uncertain: {"; ".join(_each_doubt(ranking, left_out))}.'


def _each_doubt(ranking: Ranking, left_out: Sequence[Repeats]) -> Iterator[str]:
    samples = [r.samples.first for model in ranking.models for r in model.records]
    frames = {sample.frames for sample in samples if sample is not None}
    if frames:
        few = ', which are few' if min(frames) < FEW_FRAMES else ''
        yield f'the intervals cover only the choice of the {min(frames)} validation images{few}'
    if None in samples:
        yield 'runs without counts of each image have no interval'
    yield _chance(ranking.models)
    yield 'the validation images also chose the best epoch, which favors every model'
    if left_out:
        letters = ', '.join(model.letters for model in left_out)
        yield f'left out, because their scores are not comparable with these: {letters}'


def _chance(models: Sequence[Repeats]) -> str:
    repeated = [model for model in models if len(model.records) > 1]
    if not repeated:
        who = 'the model was' if len(models) == 1 else 'every model was'
        return f'{who} trained only once, so chance in training is not covered'
    most = max(max(model.mious) - min(model.mious) for model in repeated)
    text = f'trainings that differ only in the seed differ by up to {100 * most:.1f} points'
    once = len(models) - len(repeated)
    return f'{text}, and {once} of {len(models)} models were trained only once' if once else text


def _listed(parts: Sequence[str]) -> str:
    return ' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))
