# SPDX-License-Identifier: Apache-2.0
"""The runs in one table: what each comes to, and which is the best in what."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.comparability import Topic, group, loss_kind
from training.report.records import Record

#: What stands where a run has no figure.
ABSENT: Final = 'none'


@dataclass(frozen=True)
class Column:
    """One figure of every run.

    Attributes:
        title: with the unit.
        value: None where the run does not have it.
        text: the figure in words.
        sign: 1 where more is better, -1 where less is, 0 where neither is.
        superlative: what the best one is called.
        topics: what runs must have in common for it to be compared.
        remark: what is said beside each figure.
    """

    title: str
    value: Callable[[Record], float | None]
    text: Callable[[float], str]
    sign: int = 0
    superlative: str = ''
    topics: tuple[Topic, ...] = ()
    remark: Callable[[Record], str] = lambda _: ''


@dataclass(frozen=True)
class Cell:
    """A figure of a run as it is shown; `mark` is empty where it is not the best."""

    text: str
    remark: str = ''
    mark: str = ''


def percent(share: float | None, sign: str = '') -> str:
    """A share in per cent with a decimal; `sign` as in a format, '+' for a gain."""
    return ABSENT if share is None else f'{100 * share:{sign}.1f}'


def score(value: float) -> str:
    """A share or a loss."""
    return f'{value:.4f}'


def rate(value: float) -> str:
    """Images per second."""
    return f'{value:.1f}' if value >= 1 else f'{value:.3g}'


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as far as they matter."""
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f'{hours} h {minutes_left:02} min' if hours else f'{minutes} min {rest:02} s'


def _at_best(metric: str) -> Callable[[Record], float | None]:
    return lambda record: record.at_best(metric)


def _median(metric: str) -> Callable[[Record], float | None]:
    return lambda record: record.median(metric)


QUALITY: Final = (Topic.QUALITY,)
COST: Final = (Topic.COST,)

COLUMNS: Final = (
    Column(
        'Parameters, million',
        lambda record: None if record.parameters is None else record.parameters / 1e6,
        lambda value: f'{value:.2f}', -1, 'fewest',
    ),
    Column(
        'Best epoch', lambda record: record.best_epoch, lambda value: f'{value:.0f}',
        remark=lambda record: f'of {record.epochs}',
    ),
    Column('mIoU', _at_best('mIoU'), score, 1, 'highest', QUALITY),
    Column('Dice', _at_best('Dice'), score, 1, 'highest', QUALITY),
    Column('Pixel accuracy', _at_best('pixel_acc'), score, 1, 'highest', QUALITY),
    Column(
        'Validation loss', _at_best('val_loss'), score, -1, 'lowest', (Topic.LOSS,),
        # What is weighted in it would fill a tall cell; the notes on what may be compared tell.
        lambda record: loss_kind(record).partition(',')[0],
    ),
    Column('Inference, images/s', _median('imgs_per_sec'), rate, 1, 'fastest', (Topic.INFERENCE,)),
    Column('Training, images/s', _median('train_imgs_per_sec'), rate, 1, 'fastest', COST),
    Column(
        'Training time', lambda record: record.total('train_time_sec'), duration, -1, 'shortest',
        (Topic.COST, Topic.EPOCHS),
    ),
    Column(
        'Peak memory, MB', lambda record: record.greatest('peak_memory_mb'),
        lambda value: f'{value:.0f}', -1, 'least', COST,
    ),
)  # fmt: skip


def summarize(records: Sequence[Record]) -> list[tuple[Record, list[Cell]]]:
    """One row for each run, with a cell for each of COLUMNS."""
    columns = [cells(records, column) for column in COLUMNS]
    return [(record, [column[i] for column in columns]) for i, record in enumerate(records)]


def cells(records: Sequence[Record], column: Column) -> list[Cell]:
    """The figures of a column; the best among runs that may be compared is marked."""
    values = [column.value(record) for record in records]
    return [
        Cell(ABSENT)
        if value is None
        else Cell(
            column.text(value),
            column.remark(record),
            _mark(value, _peers(records, values, record, column), column, len(records)),
        )
        for record, value in zip(records, values, strict=True)
    ]


def _peers(
    records: Sequence[Record], values: Sequence[float | None], own: Record, column: Column
) -> dict[str, float]:
    """The figures that one run's may be compared with, its own among them, by letter."""
    topics = column.topics
    return {
        record.letter: value
        for record, value in zip(records, values, strict=True)
        if value is not None and group(record, *topics) == group(own, *topics)
    }


def _mark(value: float, peers: Mapping[str, float], column: Column, runs: int) -> str:
    if not column.sign or len(set(peers.values())) < 2:  # alone, or all alike
        return ''
    if column.sign * value < max(column.sign * peer for peer in peers.values()):
        return ''
    return column.superlative + (f' of {", ".join(peers)}' if len(peers) < runs else '')


def restricted(records: Sequence[Record]) -> list[str]:
    """Titles of the columns in which not all runs may be compared."""
    return [
        column.title
        for column in COLUMNS
        if len({group(record, *column.topics) for record in records}) > 1
    ]


def in_brief(records: Sequence[Record]) -> list[str]:
    """The outcome in sentences."""
    return [sentence for record in records if (sentence := _result(record))]


def _result(record: Record) -> str:
    value = record.at_best('mIoU')
    if value is None:
        return f'{record.title} has no mIoU.'
    speed = record.median('imgs_per_sec')
    at = f' at {rate(speed)} images per second' if speed is not None else ''
    return f'{record.title} reaches mIoU {score(value)} in epoch {record.best_epoch}{at}.'
