# SPDX-License-Identifier: Apache-2.0
"""Charts of the report, each with its numbers as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from training.report.drawing import Axis, Drawing, Style, axis_over, spread
from training.report.records import Curve, Record
from training.report.summary import ABSENT, rate, score

WIDTH: Final = 360
HEIGHT: Final = 230
#: Maximum number of epochs in a table; a chart shows all.
TABLE_ROWS: Final = 40
#: Maximum number of markers on a line.
MAX_MARKERS: Final = 14

Text = Callable[[float], str]
Lines = Sequence[tuple[Style, Record, Curve]]


@dataclass(frozen=True)
class Table:
    """Numbers of a chart: a header for each column, and rows that start with their header."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remark: str = ''


@dataclass(frozen=True)
class Chart:
    """Drawing with its numbers."""

    drawing: Drawing
    table: Table


def curve_chart(
    title: str,
    records: Sequence[tuple[int, Record]],
    metric: str,
    text: Text,
    *,
    from_zero: bool,
) -> Chart | None:
    """Draw one metric by epoch, a line for each run; returns None if no run has the metric."""
    lines = [(Style(i), r, r.curves[metric]) for i, r in records if r.curves.get(metric)]
    if not lines:
        return None
    drawing = Drawing(WIDTH, HEIGHT, title, _description(lines, text))
    values = [value for _, _, curve in lines for value in curve.values()]
    epochs = [epoch for _, _, curve in lines for epoch in curve]
    low = min(0.0, *values) if from_zero else min(values)
    y = axis_over(low, max(values), HEIGHT - 34, 12)
    x = axis_over(min(epochs), max(epochs), 50, WIDTH - 26, whole=True)
    _frame(drawing, x, y, 'epoch')
    for style, _, curve in lines:
        _line(drawing, x, y, curve, style)
    _letters(drawing, x, y, lines)
    return Chart(drawing, _by_epoch(lines, text))


def _frame(drawing: Drawing, x: Axis, y: Axis, x_title: str) -> None:
    left, right = x.start, x.end
    for tick in y.ticks:
        drawing.line([(left, y(tick)), (right, y(tick))], 'rule')
        drawing.text((left - 6, y(tick) + 4), y.label(tick), 'tick', 'end')
    for tick in x.ticks:
        drawing.line([(x(tick), y.start), (x(tick), y.start + 4)], 'rule')
        drawing.text((x(tick), y.start + 16), x.label(tick), 'tick', 'middle')
    drawing.line([(left, y.start), (right, y.start)], 'axis')
    drawing.text(((left + right) / 2, y.start + 30), x_title, 'tick', 'middle')


def _line(drawing: Drawing, x: Axis, y: Axis, curve: Curve, style: Style) -> None:
    points = [(x(epoch), y(curve[epoch])) for epoch in sorted(curve)]
    drawing.line(points, f'line c{style.color}', style.dash)
    every = -(-len(points) // MAX_MARKERS)
    # Each run starts at another point, so that markers of equal lines do not hide each other.
    for point in points[style.index % every :: every]:
        drawing.marker(point, style)


def _letters(drawing: Drawing, x: Axis, y: Axis, lines: Lines) -> None:
    """Draw the letter of each run at the end of its line, spread out where lines end together."""
    for last in {max(curve) for _, _, curve in lines}:
        ending = [(style, r, curve[last]) for style, r, curve in lines if max(curve) == last]
        heights = spread([y(value) for _, _, value in ending], 12, 12, HEIGHT - 34)
        for (style, record, _), height in zip(ending, heights, strict=True):
            drawing.text((x(last) + 8, height + 4), record.letter, f'letter c{style.color}')


def _description(lines: Lines, text: Text) -> str:
    sentences = []
    for _, record, curve in lines:
        first, last = min(curve), max(curve)
        low, high = min(curve.values()), max(curve.values())
        sentences.append(
            f'{record.title}: {text(curve[first])} in epoch {first}, {text(curve[last])} '
            f'in epoch {last}, between {text(low)} and {text(high)}.'
        )
    return ' '.join(sentences)


def _by_epoch(lines: Lines, text: Text) -> Table:
    epochs = sorted({epoch for _, _, curve in lines for epoch in curve})
    every = -(-len(epochs) // TABLE_ROWS)
    shown = sorted({*epochs[::every], epochs[-1]})
    return Table(
        ('Epoch', *(record.title for _, record, _ in lines)),
        tuple(
            (
                str(epoch),
                *(text(c[epoch]) if epoch in c else ABSENT for _, _, c in lines),
            )
            for epoch in shown
        ),
        f'Every {every} epochs, and the last.' if every > 1 else '',
    )


def bar_chart(
    title: str, records: Sequence[Record], groups: Mapping[str, Sequence[float | None]]
) -> Chart:
    """Draw shares from 0 to 1 by group, such as IoU by class, with one bar for each run."""
    bar, head = 14, 20
    height = 24 + sum(head + bar * len(values) + 6 for values in groups.values())
    sentences = [f'{name}: {_values(records, values)}.' for name, values in groups.items()]
    drawing = Drawing(WIDTH, height, title, ' '.join(sentences))
    x = axis_over(0, 1, 24, WIDTH - 52)
    for tick in x.ticks:
        drawing.line([(x(tick), 4), (x(tick), height - 20)], 'rule')
        drawing.text((x(tick), height - 6), x.label(tick), 'tick', 'middle')
    top = 4.0
    for name, values in groups.items():
        drawing.text((x.start, top + 14), name, 'name')
        top += head
        for index, value in enumerate(values):
            _bar(drawing, x, (top, bar), records[index].letter, value, Style(index))
            top += bar
        top += 6
    rows = tuple(
        (name, *(ABSENT if v is None else score(v) for v in values))
        for name, values in groups.items()
    )
    return Chart(drawing, Table(('Class', *(r.title for r in records)), rows))


def _bar(
    drawing: Drawing,
    x: Axis,
    place: tuple[float, float],
    letter: str,
    value: float | None,
    style: Style,
) -> None:
    top, height = place
    drawing.text((x.start - 5, top + height - 3), letter, 'letter', 'end')
    if value is not None:
        drawing.rect((x.start, top + 1), x(value) - x.start, height - 2, f'mark c{style.color}')
    text = 'none' if value is None else f'{value:.3f}'
    drawing.text((x(value or 0) + 5, top + height - 3), text, 'tick')


def _values(records: Sequence[Record], values: Sequence[float | None]) -> str:
    return ', '.join(
        f'{record.letter} {"none" if value is None else f"{value:.3f}"}'
        for record, value in zip(records, values, strict=True)
    )


def scatter_chart(title: str, records: Sequence[Record]) -> Chart | None:
    """Draw mIoU over inference speed, a point for each run; returns None if no run has both."""
    points = {
        index: (speed, quality)
        for index, record in enumerate(records)
        if (speed := record.median('imgs_per_sec')) is not None
        and (quality := record.at_best('mIoU')) is not None
    }
    if not points:
        return None
    sentences = [
        f'{records[i].title}: {rate(speed)} images per second, mIoU {score(quality)}.'
        for i, (speed, quality) in points.items()
    ]
    drawing = Drawing(WIDTH, HEIGHT + 30, title, ' '.join(sentences))
    speeds, qualities = zip(*points.values(), strict=True)
    x = axis_over(0, max(speeds) * 1.04, 50, WIDTH - 26)
    y = axis_over(min(qualities), max(qualities), HEIGHT - 4, 22)
    _frame(drawing, x, y, 'inference, images per second')
    drawing.text((8, 12), 'mIoU', 'tick')
    places = [(x(speed), y(quality)) for speed, quality in points.values()]
    for index, place in zip(points, places, strict=True):
        drawing.marker(place, Style(index), 1.5)
    for index, place in zip(points, places, strict=True):
        to_left = any(0 < other[0] - place[0] < 26 and _overlap(place, other) for other in places)
        at, anchor = (place[0] - 9, 'end') if to_left else (place[0] + 9, '')
        name = f'letter c{Style(index).color}'
        drawing.text((at, place[1] + 4), records[index].letter, name, anchor)
    rows = tuple((records[i].title, rate(s), score(q)) for i, (s, q) in points.items())
    return Chart(drawing, Table(('Run', 'Images per second', 'mIoU'), rows))


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Return whether a letter next to one point would overlap the other, by height."""
    return abs(one[1] - other[1]) < 13


def pareto_optimal(records: Sequence[Record]) -> list[Record]:
    """Return the Pareto-optimal runs in speed and mIoU.

    A run is left out if another run is at least as good in both and better in one.
    """
    points = [(r, r.median('imgs_per_sec'), r.at_best('mIoU')) for r in records]
    known = [(r, s, q) for r, s, q in points if s is not None and q is not None]
    return [
        record
        for record, speed, quality in known
        if not any(s >= speed and q >= quality and (s, q) != (speed, quality) for _, s, q in known)
    ]
