# SPDX-License-Identifier: Apache-2.0
"""Results of a search: a table, a picture, and the best experiment as a file."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from optuna.trial import FrozenTrial, TrialState

from segmentation_node.atomic import replacing
from segmentation_node.plotting import COLORS, new_figure, to_png
from training.config import Experiment, save_experiment
from training.search_space import Choices, Range, Space

#: Files in the folder of a search.
SPACE_FILE: Final = 'search.yaml'
BEST_FILE: Final = 'best.yaml'
TABLE_FILE: Final = 'trials.csv'
PICTURE_FILE: Final = 'trials.png'
#: Columns of the table before and after those of the fields.
HEAD: Final = ('trial', 'state', 'mIoU')
TAIL: Final = ('seconds', 'mlflow_run', 'error')
#: Maximum number of trials in a table that is read.
MAX_TRIALS: Final = 10_000

STATES: Final = {
    TrialState.COMPLETE: 'finished',
    TrialState.PRUNED: 'pruned',
    TrialState.FAIL: 'failed',
    TrialState.RUNNING: 'open',
    TrialState.WAITING: 'open',
}
#: Marker and color by state; the markers distinguish the states without color.
MARKS: Final = {'finished': ('o', COLORS['blue']), 'pruned': ('X', COLORS['vermilion'])}


@dataclass(frozen=True)
class Row:
    """One trial; `values` are its fields, `miou` is None if it has no score.

    `seconds` is the time from its first start to its end, including interruptions.
    """

    number: int
    state: str
    miou: float | None
    values: dict[str, Any]
    seconds: float | None
    run_id: str
    error: str


def row_of(trial: FrozenTrial, space: Space) -> Row:
    """Convert Optuna's record of a trial."""
    duration = trial.duration
    return Row(
        trial.number,
        STATES[trial.state],
        trial.value if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        {name: space[name].value_of(value) for name, value in trial.params.items()},
        None if duration is None else duration.total_seconds(),
        trial.user_attrs.get('run_id', ''),
        trial.user_attrs.get('error', ''),
    )


def best_of(rows: Sequence[Row]) -> Row | None:
    """Return the finished trial with the highest mIoU, the earliest of equal ones."""
    finished = [row for row in rows if row.state == 'finished' and row.miou is not None]
    return max(finished, key=lambda row: (row.miou, -row.number), default=None)


def write_best(path: Path, experiment: Experiment, best: Row, rows: Sequence[Row]) -> None:
    """Write the best experiment as an input file of `training.train`."""
    ended = sum(row.state != 'open' for row in rows)
    head = f'# Best of {ended} trials: trial {best.number}, mIoU {best.miou:.4f}\n'
    with replacing(path) as aside:
        save_experiment(experiment, aside)
        aside.write_text(head + aside.read_text(encoding='utf-8'), encoding='utf-8')


def write_table(path: Path, rows: Sequence[Row], space: Space) -> None:
    """Write all trials as comma-separated values."""
    with replacing(path) as aside, aside.open('w', encoding='utf-8', newline='') as stream:
        writer = csv.writer(stream)
        writer.writerow([*HEAD, *space, *TAIL])
        for row in rows:
            values = [row.values.get(name, '') for name in space]
            seconds = '' if row.seconds is None else round(row.seconds, 1)
            miou = '' if row.miou is None else row.miou
            writer.writerow([row.number, row.state, miou, *values, seconds, row.run_id, row.error])


def read_table(content: bytes) -> list[Row]:
    """Read a table of `write_table`; values are numbers where they look like numbers.

    Raises:
        ValueError: it is another file, or has more than MAX_TRIALS rows.
    """
    try:
        lines = list(csv.reader(io.StringIO(content.decode(), newline='')))
    except csv.Error as error:
        raise ValueError(f'it is not a table ({error})') from error
    head, rows = (lines[0] if lines else []), lines[1:]
    fields = head[len(HEAD) : -len(TAIL)]
    if head != [*HEAD, *fields, *TAIL] or any(len(row) != len(head) for row in rows):
        raise ValueError('it is not a table of trials')
    if len(rows) > MAX_TRIALS:
        raise ValueError(f'it has more than {MAX_TRIALS} trials, the maximum')
    return [_parsed(row, fields) for row in rows]


def _parsed(row: Sequence[str], fields: Sequence[str]) -> Row:
    number, state, miou, *values, seconds, run_id, error = row
    given = {name: _number(text) for name, text in zip(fields, values, strict=True) if text}
    return Row(
        int(number), state, float(miou) if miou else None, given,
        float(seconds) if seconds else None, run_id, error,
    )  # fmt: skip


def _number(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def table(rows: Sequence[Row], fields: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a table for a terminal, the best trial first."""
    lines = cells(rows, fields)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield '  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def cells(rows: Sequence[Row], fields: Sequence[str]) -> list[list[str]]:
    """Return the cells of a table with a header, the best trial first."""
    order = sorted(rows, key=lambda row: (row.miou is None, -(row.miou or 0), row.number))
    lines = [['trial', 'mIoU', *fields, 'state', 'time']]
    for row in order:
        miou = '' if row.miou is None else f'{row.miou:.4f}'
        values = [format_value(row.values.get(name, '')) for name in fields]
        time = '' if row.seconds is None else f'{row.seconds:.0f} s'
        lines.append([str(row.number), miou, *values, row.state, time])
    return lines


def format_values(values: dict[str, Any]) -> str:
    """Format fields and values on one line."""
    return ', '.join(f'{name} {format_value(value)}' for name, value in values.items())


def format_value(value: Any) -> str:
    """Format the value of a field; numbers with a fraction have three digits."""
    return f'{value:.3g}' if isinstance(value, float) else str(value)


def write_picture(path: Path, rows: Sequence[Row], space: Space) -> None:
    """Write a PNG with one plot per field, its values against mIoU."""
    best = best_of(rows)
    with new_figure(270 * len(space), 290) as figure:
        panels = figure.subplots(1, len(space), sharey=True, squeeze=False)[0]
        for axes, (name, dimension) in zip(panels, space.items(), strict=True):
            _scatter(axes, name, dimension, rows, best)
        panels[0].set_ylabel('mIoU')
        if any(row.miou is not None for row in rows):
            panels[0].legend(handlelength=1)
        failed = [str(row.number) for row in rows if row.state == 'failed']
        if failed:
            figure.suptitle(f'failed, without a score: trial {", ".join(failed)}', size=11)
        picture = to_png(figure, 1.25)
    with replacing(path) as aside:
        aside.write_bytes(picture)


def _scatter(
    axis: Axes, name: str, dimension: Choices | Range, rows: Sequence[Row], best: Row | None
) -> None:
    for state, (marker, color) in MARKS.items():
        scored = [r for r in rows if r.state == state and r.miou is not None]
        if not scored:
            continue
        places = [_place(dimension, row.values[name]) for row in scored]
        mious = np.array([row.miou for row in scored], float)
        axis.plot(places, mious, marker, color=color, label=state, linestyle='none')
        for place, miou, row in zip(places, mious, scored, strict=True):
            axis.annotate(
                str(row.number), (place, miou), textcoords='offset points', xytext=(5, 4),
                fontsize=8,
            )  # fmt: skip
    if best is not None:
        place = _place(dimension, best.values[name])
        axis.plot(
            [place], np.array([best.miou], float), 'o', color='black', markersize=13,
            fillstyle='none', label='best', linestyle='none',
        )  # fmt: skip
    axis.set_xlabel(name)
    axis.margins(y=0.12)
    if isinstance(dimension, Range):
        if dimension.log:
            axis.set_xscale('log')
            ticks = np.geomspace(dimension.low, dimension.high, 3)
            axis.set_xticks(ticks, [f'{tick:.2g}' for tick in ticks])
            axis.minorticks_off()
        axis.set_xlim(*_padded(dimension))
    else:
        labels = [str(value) for value in dimension.values]
        axis.set_xticks(np.arange(len(labels)), labels)
        axis.set_xlim(-0.5, len(labels) - 0.5)


def _place(dimension: Choices | Range, value: Any) -> float:
    return dimension.values.index(value) if isinstance(dimension, Choices) else float(value)


def _padded(dimension: Range) -> tuple[float, float]:
    """Return axis limits slightly wider than the range, so that no marker is cut off."""
    if dimension.log:
        margin = (dimension.high / dimension.low) ** 0.05
        return dimension.low / margin, dimension.high * margin
    margin = 0.05 * (dimension.high - dimension.low)
    return dimension.low - margin, dimension.high + margin
