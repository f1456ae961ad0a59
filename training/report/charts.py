# SPDX-License-Identifier: Apache-2.0
"""Charts of the report, each with its numbers as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from segmentation_node import plotting
from segmentation_node.plotting import Curve, Series, draw_curve, new_figure, set_ticks, spread
from training.report.drawing import Drawing
from training.report.records import Record
from training.report.summary import ABSENT, rate, score

WIDTH: Final = 360
HEIGHT: Final = 230
#: Maximum number of epochs in a table; a chart shows all.
TABLE_ROWS: Final = 40
#: Height of a bar.
BAR: Final = 14
#: Distance of letters at the ends of lines, as a share of the height of a chart.
LETTER: Final = 0.07
Text = Callable[[float], str]
Lines = Sequence[tuple[Series, Record, Curve]]


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
    lines = [(Series(i), r, r.curves[metric]) for i, r in records if r.curves.get(metric)]
    if not lines:
        return None
    with new_figure(WIDTH, HEIGHT) as figure:
        axes = figure.subplots()
        for series, _, curve in lines:
            draw_curve(axes, curve.items(), series)
        if from_zero:
            axes.set_ylim(bottom=min(0, axes.dataLim.ymin))
        set_ticks(axes.xaxis, whole=True)
        set_ticks(axes.yaxis)
        axes.set_xlabel('epoch')
        _letters(axes, lines)
        drawing = Drawing(figure, title, _description(lines, text))
    return Chart(drawing, _by_epoch(lines, text))


def _letters(axes: Axes, lines: Lines) -> None:
    """Write the letter of each run at the end of its line, spread out where lines end together."""
    low, high = axes.get_ylim()
    for last in {max(curve) for _, _, curve in lines}:
        ending = [(series, r, curve[last]) for series, r, curve in lines if max(curve) == last]
        heights = spread([(value - low) / (high - low) for _, _, value in ending], LETTER, 0, 1)
        for (series, record, _), height in zip(ending, heights, strict=True):
            axes.annotate(
                record.letter, (last, height), (8, 0), axes.get_xaxis_transform(),
                'offset points', color=series.color, va='center', weight='bold', gid='letter',
            )  # fmt: skip


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
    sentences = [f'{name}: {_values(records, values)}.' for name, values in groups.items()]
    tops = np.arange(len(groups)) * (len(records) + 2)
    with new_figure(WIDTH, 24 + BAR * (len(records) + 2) * len(groups)) as figure:
        axes = figure.subplots()
        axes.grid(visible=False, axis='y')
        axes.grid(visible=True, axis='x')
        axes.set_xlim(0, 1)
        axes.set_ylim(tops[-1] + len(records) + 1, -1)
        for top, name in zip(tops, groups, strict=True):
            axes.text(0, float(top), name, va='center', weight='bold', gid='name')
        for index, values in enumerate(zip(*groups.values(), strict=True)):
            shares = [value or 0 for value in values]
            bars = axes.barh(tops + index + 1, shares, color=Series(index).color)
            axes.bar_label(bars, list(map(_share, values)), padding=4, color=plotting.QUIET)
        letters = [record.letter for record in records]
        axes.set_yticks(
            np.add.outer(tops + 1, np.arange(len(records))).ravel(), letters * len(groups),
            weight='bold', color=plotting.INK,
        )  # fmt: skip
        drawing = Drawing(figure, title, ' '.join(sentences))
    rows = tuple(
        (name, *(ABSENT if v is None else score(v) for v in values))
        for name, values in groups.items()
    )
    return Chart(drawing, Table(('Class', *(r.title for r in records)), rows))


def _share(value: float | None) -> str:
    return 'none' if value is None else f'{value:.3f}'


def _values(records: Sequence[Record], values: Sequence[float | None]) -> str:
    return ', '.join(
        f'{record.letter} {_share(value)}' for record, value in zip(records, values, strict=True)
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
    with new_figure(WIDTH, HEIGHT + 30) as figure:
        axes = figure.subplots()
        for index, point in points.items():
            series = Series(index)
            axes.plot(*point, series.marker, color=series.color, markersize=9)
        axes.set_xlim(0, 1.06 * max(speed for speed, _ in points.values()))
        axes.margins(y=0.1)
        for axis in (axes.xaxis, axes.yaxis):
            set_ticks(axis)
        axes.set(xlabel='inference, images per second', ylabel='mIoU')
        _name_points(axes, records, points)
        drawing = Drawing(figure, title, ' '.join(sentences))
    rows = tuple((records[i].title, rate(s), score(q)) for i, (s, q) in points.items())
    return Chart(drawing, Table(('Run', 'Images per second', 'mIoU'), rows))


def _name_points(
    axes: Axes, records: Sequence[Record], points: Mapping[int, tuple[float, float]]
) -> None:
    """Write the letter of each run at the right of its point, or at the left of a neighbor."""
    places = axes.transLimits.transform(list(points.values()))  # (points, 2), shares of the axes
    for index, place in zip(points, places, strict=True):
        right, up = (places - place).T
        crowded = ((right > 0) & (right < 0.09) & (abs(up) < 0.07)).any()
        axes.annotate(
            records[index].letter, points[index], (-9 if crowded else 9, 0),
            textcoords='offset points', ha='right' if crowded else 'left', va='center',
            color=Series(index).color, weight='bold', gid='letter',
        )  # fmt: skip


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
