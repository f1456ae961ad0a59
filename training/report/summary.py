# SPDX-License-Identifier: Apache-2.0
"""Summary table of the runs, with the best figure of each column marked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.comparability import Aspect, group, loss_kind
from training.report.records import Record

#: Text for a figure that a run does not have.
ABSENT: Final = 'none'


@dataclass(frozen=True)
class Column:
    """Column of the summary table, one figure of every run.

    Attributes:
        title: title with the unit.
        value: returns the figure of a run; None if the run does not have it.
        text: formats the figure.
        sign: 1 if higher is better, -1 if lower is better, 0 if neither is.
        superlative: label of the best figure.
        aspects: aspects in which the runs must be comparable.
        remark: returns a remark on the figure.
    """

    title: str
    value: Callable[[Record], float | None]
    text: Callable[[float], str]
    sign: int = 0
    superlative: str = ''
    aspects: tuple[Aspect, ...] = ()
    remark: Callable[[Record], str] = lambda _: ''


@dataclass(frozen=True)
class Cell:
    """Cell of the summary table; `mark` is the superlative of a best figure, else empty."""

    text: str
    remark: str = ''
    mark: str = ''


def percent(share: float | None, sign: str = '') -> str:
    """Format a share in percent with one decimal; `sign` is a format option, '+' for a gain."""
    return ABSENT if share is None else f'{100 * share:{sign}.1f}'


def score(value: float) -> str:
    """Format a share or a loss."""
    return f'{value:.4f}'


def rate(value: float) -> str:
    """Format a rate in images per second."""
    return f'{value:.1f}' if value >= 1 else f'{value:.3g}'


def duration(seconds: float) -> str:
    """Format a duration in hours and minutes, in minutes and seconds, or in seconds."""
    if seconds < 59.95:
        return f'{seconds:.1f} s'
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f'{hours} h {minutes_left:02} min' if hours else f'{minutes} min {rest:02} s'


def _at_best(metric: str) -> Callable[[Record], float | None]:
    return lambda record: record.at_best(metric)


def _median(metric: str) -> Callable[[Record], float | None]:
    return lambda record: record.median(metric)


def _interval(record: Record) -> str:
    sample = record.samples.first
    return '' if sample is None else str(sample.interval)


QUALITY: Final = (Aspect.QUALITY,)
COST: Final = (Aspect.COST,)
INFERENCE: Final = (Aspect.INFERENCE,)

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
    Column('mIoU', _at_best('mIoU'), score, 1, 'highest', QUALITY, _interval),
    Column('Dice', _at_best('Dice'), score, 1, 'highest', QUALITY),
    Column('Pixel accuracy', _at_best('pixel_acc'), score, 1, 'highest', QUALITY),
    Column(
        'Validation loss', _at_best('val_loss'), score, -1, 'lowest', (Aspect.LOSS,),
        # The weighting would fill a tall cell; the notes on comparability include it.
        lambda record: loss_kind(record).partition(',')[0],
    ),
    Column('Inference, images/s', _median('imgs_per_sec'), rate, 1, 'fastest', INFERENCE),
    Column('Training, images/s', _median('train_imgs_per_sec'), rate, 1, 'fastest', COST),
    Column(
        'Training time', lambda record: record.total('train_time_sec'), duration, -1, 'shortest',
        (Aspect.COST, Aspect.EPOCHS),
    ),
    Column(
        'Peak memory, MB', lambda record: record.greatest('peak_memory_mb'),
        lambda value: f'{value:.0f}', -1, 'least', COST,
    ),
)  # fmt: skip


def summarize(records: Sequence[Record]) -> list[tuple[Record, list[Cell]]]:
    """Return one row for each run, with a cell for each of COLUMNS."""
    columns = [cells(records, column) for column in COLUMNS]
    return [(record, [column[i] for column in columns]) for i, record in enumerate(records)]


def cells(records: Sequence[Record], column: Column) -> list[Cell]:
    """Return the cells of a column; the best figure among comparable runs is marked."""
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
    records: Sequence[Record], values: Sequence[float | None], run: Record, column: Column
) -> dict[str, float]:
    """Return the figures comparable to those of a run, including its own, by letter."""
    aspects = column.aspects
    return {
        record.letter: value
        for record, value in zip(records, values, strict=True)
        if value is not None and group(record, *aspects) == group(run, *aspects)
    }


def _mark(value: float, peers: Mapping[str, float], column: Column, runs: int) -> str:
    if not column.sign or len(set(peers.values())) < 2:  # no other figure, or all the same
        return ''
    if column.sign * value < max(column.sign * peer for peer in peers.values()):
        return ''
    return column.superlative + (f' of {", ".join(peers)}' if len(peers) < runs else '')


def restricted(records: Sequence[Record]) -> list[str]:
    """Return the titles of the columns in which not all runs are comparable."""
    return [
        column.title
        for column in COLUMNS
        if len({group(record, *column.aspects) for record in records}) > 1
    ]


def outcome(records: Sequence[Record]) -> list[str]:
    """Return a sentence on the result of each run."""
    return [sentence for record in records if (sentence := _result(record))]


def _result(record: Record) -> str:
    value = record.at_best('mIoU')
    if value is None:
        return f'{record.title} has no mIoU.'
    speed = record.median('imgs_per_sec')
    at = f' at {rate(speed)} images per second' if speed is not None else ''
    return f'{record.title} reaches mIoU {score(value)} in epoch {record.best_epoch}{at}.'
