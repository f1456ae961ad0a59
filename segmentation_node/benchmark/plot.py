# SPDX-License-Identifier: Apache-2.0
"""Charts of a run: age of images when their masks arrive, and throughput."""

import math
from typing import Final

from matplotlib.axes import Axes

from segmentation_node import plotting
from segmentation_node.benchmark.figures import Figures
from segmentation_node.benchmark.measurements import Key, Stream
from segmentation_node.benchmark.timing import three_digits
from segmentation_node.benchmark.variants import COMMON
from segmentation_node.plotting import Series

#: Width of the picture, and heights of a row of charts, a bar and the line on top.
WIDTH, ROW_HEIGHT, BAR_HEIGHT, HEAD_HEIGHT = 1312, 270, 24, 50
#: Bars for which a chart has room, so that few ones are not thick.
FEWEST_BARS: Final = 8
#: Pixels of the picture per pixel of these sizes.
SCALE: Final = 1.25
OURS: Final = Series(0)
BASELINE: Final = Series(1)
OTHERS_COLOR: Final = '#8cb4d7'


def draw_plot(figures: Figures) -> bytes:
    """Draw one row of charts per model and size; returns a PNG."""
    counts = [len(figures.keys(*group)) for group in figures.groups]
    heights = [max(ROW_HEIGHT, 60 + BAR_HEIGHT * count) for count in counts]
    with plotting.new_figure(WIDTH, HEAD_HEIGHT + sum(heights), margin=12) as figure:
        machine = figures.results.machine.line()
        figure.suptitle(machine, x=0.01, ha='left', size=11, color=plotting.QUIET, wrap=True)
        rows = figure.subplots(
            len(heights), 2, squeeze=False, gridspec_kw={'height_ratios': heights}
        )
        for (left, right), (model, size) in zip(rows, figures.groups, strict=True):
            left.set_title(f'{model}, {size}: age of an image when its mask arrives [s]')
            right.set_title('masks per second; share of pixels labeled as by torch fp32')
            for axes, draw in ((left, draw_ages), (right, draw_rates)):
                if not draw(axes, figures, model, size):
                    axes.set_axis_off()
                    axes.text(0, 0.8, 'no node was measured', transform=axes.transAxes)
        return plotting.to_png(figure, SCALE)


def draw_ages(axes: Axes, figures: Figures, model: str, size: str) -> bool:
    """Draw the age of images over time; returns whether there is any."""
    chosen = {figures.common(model): BASELINE}
    if (fastest := figures.fastest(model, size)) is not None:
        chosen[fastest] = OURS
    measured = [
        (key, series, stats.streams)
        for key, series in chosen.items()
        if (stats := figures.streams(key, size)) is not None
    ]
    for key, series, streams in measured:
        for index, stream in enumerate(streams):
            label = '' if index else _name(key)
            plotting.draw_curve(axes, age_of_images(stream), series, label)
    if measured:
        axes.set(xlabel='seconds since the first mask', xlim=(0, None), ylim=(0, None))
        axes.legend()
    return bool(measured)


def age_of_images(stream: Stream) -> list[tuple[float, float]]:
    """Return (time since the first mask, age of the image) for later masks of the first camera."""
    masks = [mask for mask in stream.masks if mask.camera == 0]
    # Skips the first mask, whose image waited for the node to start.
    return [(m.received_s - masks[0].received_s, m.received_s - m.sent_s) for m in masks[1:]]


def draw_rates(axes: Axes, figures: Figures, model: str, size: str) -> bool:
    """Draw a bar for each variant, the first on top; returns whether there is any."""
    fastest = figures.fastest(model, size)
    rates = {
        key: stats.fps.median
        for key in figures.keys(model, size)
        if (stats := figures.streams(key, size)) is not None and not math.isnan(stats.fps.median)
    }
    colors = {COMMON: BASELINE.color}
    bars = axes.barh(
        list(map(_name, rates)), list(rates.values()),
        color=[
            OURS.color if key == fastest else colors.get(key[1], OTHERS_COLOR) for key in rates
        ],
    )  # fmt: skip
    axes.bar_label(bars, [_remark(figures, key, size, rates[key]) for key in rates], padding=6)
    axes.margins(x=0.3)
    axes.set_ylim(max(FEWEST_BARS, len(rates)) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.spines['bottom'].set_visible(False)
    return bool(rates)


def _remark(figures: Figures, key: Key, size: str, rate: float) -> str:
    quality = figures.quality(key, size)
    share = '' if quality is None else f'   {100 * quality.agreement:.1f} %'
    return three_digits(rate) + share


def _name(key: Key) -> str:
    return 'as commonly written' if key[1] == COMMON else f'{key[1]} {key[2]}'
