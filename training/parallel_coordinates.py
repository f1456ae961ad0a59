# SPDX-License-Identifier: Apache-2.0
"""Parallel coordinates of a search: one axis per field, one line per trial, ending at its mIoU."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from segmentation_node.atomic import replacing
from segmentation_node.plotting import new_figure, spread, to_png
from training.search_results import Row, best_of
from training.search_space import Choices, Range, Space

PARALLEL_FILE: Final = 'parallel.png'
#: Distance of the axes and height of the picture, and pixels of the picture per pixel of these.
AXIS_WIDTH, HEIGHT, SCALE = 137, 302, 1.5
#: Colors of the scores, low to high; legible on white and with color vision deficiency.
COLORS: Final = 'viridis_r'
AXIS: Final = '0.45'
#: Distance of labels at the ends of lines, as a share of the height.
GAP: Final = 0.05


class FieldAxis(NamedTuple):
    """Axis of a field: its title, and its ticks as heights in [0, 1] with their labels."""

    title: str
    ticks: tuple[tuple[float, str], ...]


def write_parallel(path: Path, rows: Sequence[Row], space: Space) -> None:
    """Write a PNG with a line for each trial that has a score; the best one is the thickest."""
    mious = [row.miou for row in rows if row.miou is not None]
    scales = [*(_scale(name, d) for name, d in space.items()), _score_scale(mious)]
    with new_figure(AXIS_WIDTH * (len(scales) + 0.5), HEIGHT) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        for x, scale in enumerate(scales):
            _draw_scale(axes, x, scale)
        _draw_lines(axes, rows, space, mious)
        axes.set_xlim(-0.45, len(space) + 0.5)
        axes.set_ylim(-0.06, 1.16)
        with replacing(path) as aside:
            aside.write_bytes(to_png(figure, SCALE))


def _draw_scale(axes: Axes, x: int, scale: FieldAxis) -> None:
    axes.plot([x, x], [-0.03, 1.03], color=AXIS, linewidth=1, zorder=1)
    axes.text(x, 1.09, scale.title, ha='center', fontsize=10, fontweight='bold')
    for height, label in scale.ticks:
        axes.plot([x - 0.02, x], [height] * 2, color=AXIS, linewidth=1)
        axes.text(
            x - 0.04, height, label, ha='right', va='center', fontsize=9, zorder=4,
            bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.7, 'pad': 0.5},
        )  # fmt: skip


def _draw_lines(axes: Axes, rows: Sequence[Row], space: Space, mious: Sequence[float]) -> None:
    scored = sorted((r for r in rows if r.miou is not None), key=lambda row: row.miou or 0)
    lines = [_heights(row, space, mious) for row in scored]
    best, colors = best_of(rows), mpl.colormaps[COLORS]
    ends = spread([line[-1] for line in lines], GAP, 0, 1)
    for row, line, end in zip(scored, lines, ends, strict=True):
        is_best = row == best
        axes.plot(
            range(len(line)), line, color=colors(0.1 + 0.9 * line[-1]),
            linewidth=4 if is_best else 1.8, linestyle='-' if row.state == 'finished' else ':',
            solid_joinstyle='round', zorder=3 if is_best else 2,
        )  # fmt: skip
        axes.text(
            len(space) + 0.06, end, f'trial {row.number}' + (', best' if is_best else ''),
            va='center', fontsize=9, fontweight='bold' if is_best else 'normal',
        )  # fmt: skip


def _scale(name: str, dimension: Choices | Range) -> FieldAxis:
    if isinstance(dimension, Choices):
        values: Sequence[Any] = dimension.values
    elif dimension.log:
        values = np.geomspace(dimension.low, dimension.high, 3).tolist()
    else:
        values = np.linspace(dimension.low, dimension.high, 3).tolist()
    labels = [f'{value:.2g}' if isinstance(value, float) else str(value) for value in values]
    heights = [_height(dimension, value) for value in values]
    title = name.rpartition('.')[2].replace('_', ' ')
    return FieldAxis(title, tuple(zip(heights, labels, strict=True)))


def _height(dimension: Choices | Range, value: Any) -> float:
    """Return the place of a value on its axis, in [0, 1]."""
    if isinstance(dimension, Choices):
        return _share(dimension.values.index(value), 0, len(dimension.values) - 1)
    if dimension.log:
        return _share(math.log(value), math.log(dimension.low), math.log(dimension.high))
    return _share(value, dimension.low, dimension.high)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _score_scale(mious: Sequence[float]) -> FieldAxis:
    if not mious:
        return FieldAxis('mIoU', ())
    low, high = min(mious), max(mious)
    values = sorted({low, (low + high) / 2, high})
    return FieldAxis('mIoU', tuple((_share(v, low, high), f'{v:.3f}') for v in values))


def _heights(row: Row, space: Space, mious: Sequence[float]) -> list[float]:
    fields = [_height(dimension, row.values[name]) for name, dimension in space.items()]
    return [*fields, _share(row.miou or 0, min(mious), max(mious))]
