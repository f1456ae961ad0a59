# SPDX-License-Identifier: Apache-2.0
"""Charts of a run: age of images when their masks arrive, and throughput."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.benchmark.figures import Figures
from segmentation_node.benchmark.measurements import Key, Stream
from segmentation_node.benchmark.timing import three_digits
from segmentation_node.benchmark.variants import COMMON
from segmentation_node.images.lettering import BOLD, GRAY, INK, Color, shortened, width, write

MARGIN: Final = 32
PANEL_WH: Final = (820, 330)
TITLE_PX: Final = 15
TEXT_PX: Final = 12
GRID: Final[Color] = (226, 229, 233)
#: The colors also differ in lightness, for readers who cannot tell red from blue.
COMMON_COLOR: Final[Color] = (213, 94, 0)
OURS_COLOR: Final[Color] = (0, 90, 160)
OTHERS_COLOR: Final[Color] = (140, 180, 215)
_BAR_PX: Final = 22
_NAME_PX: Final = 190
_VALUE_PX: Final = 230


@dataclass(frozen=True)
class Line:
    """Polyline of points (x, y), ordered by x."""

    points: Sequence[tuple[float, float]]
    color: Color


@dataclass(frozen=True)
class Bar:
    """Bar with a name on its left and a remark on its right."""

    name: str
    value: float
    remark: str
    color: Color


def draw_plot(figures: Figures) -> UInt8Array:
    """Draw one row of charts per model and size, (H, W, 3) uint8 RGB."""
    rows = [
        _side_by_side(_age_chart(figures, model, size), _throughput_chart(figures, model, size))
        for model, size in figures.groups
    ]
    head = _paper(2 * PANEL_WH[0], 2 * MARGIN)
    write(head, (MARGIN, MARGIN + 8), shortened(figures.results.machine.line(),
          2 * PANEL_WH[0] - 2 * MARGIN, TEXT_PX), TEXT_PX, GRAY)  # fmt: skip
    return np.vstack([head, *rows])


def _side_by_side(left: UInt8Array, right: UInt8Array) -> UInt8Array:
    height = max(len(left), len(right))
    return np.hstack([
        np.vstack([panel, _paper(panel.shape[1], height - len(panel))]) for panel in (left, right)
    ])  # fmt: skip


def _paper(width_px: int, height_px: int) -> UInt8Array:
    return np.full((height_px, width_px, 3), 255, np.uint8)


def _age_chart(figures: Figures, model: str, size: str) -> UInt8Array:
    title = f'{model}, {size}: age of an image when its mask arrives [s]'
    chosen = {figures.common(model): COMMON_COLOR}
    if (fastest := figures.fastest(model, size)) is not None:
        chosen[fastest] = OURS_COLOR
    lines, legend = [], []
    for key, color in chosen.items():
        stats = figures.streams(key, size)
        if stats is not None:
            lines += [Line(age_of_images(stream), color) for stream in stats.streams]
            legend.append((_name(key), color))
    if not lines:
        return _empty_panel(title, 'no node was measured')
    return line_chart(title, lines, legend, 'seconds since the first mask')


def age_of_images(stream: Stream) -> list[tuple[float, float]]:
    """Return (time since the first mask, age of the image) for later masks of the first camera."""
    masks = [mask for mask in stream.masks if mask.camera == 0]
    # Skips the first mask, whose image waited for the node to start.
    return [(m.received_s - masks[0].received_s, m.received_s - m.sent_s) for m in masks[1:]]


def _throughput_chart(figures: Figures, model: str, size: str) -> UInt8Array:
    title = 'masks per second; share of pixels labeled as by torch fp32'
    fastest = figures.fastest(model, size)
    bars = []
    for key in figures.keys(model, size):
        stream, quality = figures.streams(key, size), figures.quality(key, size)
        if stream is None or math.isnan(stream.fps.median):
            continue
        remark = three_digits(stream.fps.median)
        if quality is not None:
            remark += f'   {100 * quality.agreement:.1f} %'
        color = COMMON_COLOR if key[1] == COMMON else OTHERS_COLOR
        bars.append(
            Bar(_name(key), stream.fps.median, remark, OURS_COLOR if key == fastest else color)
        )
    return bar_chart(title, bars) if bars else _empty_panel(title, 'no node was measured')


def _name(key: Key) -> str:
    return 'as commonly written' if key[1] == COMMON else f'{key[1]} {key[2]}'


def _titled_panel(title: str) -> UInt8Array:
    panel = _paper(*PANEL_WH)
    room = PANEL_WH[0] - 2 * MARGIN
    write(panel, (MARGIN, TITLE_PX + 6), shortened(title, room, TITLE_PX - 3, BOLD), TITLE_PX - 3,
          INK, BOLD)  # fmt: skip
    return panel


def _empty_panel(title: str, why: str) -> UInt8Array:
    panel = _titled_panel(title)
    write(panel, (MARGIN, 3 * MARGIN), why, TEXT_PX, GRAY)
    return panel


def line_chart(
    title: str, lines: Sequence[Line], legend: Sequence[tuple[str, Color]], x_title: str
) -> UInt8Array:
    """Draw lines over axes that begin at 0, (H, W, 3) uint8 RGB."""
    panel = _titled_panel(title)
    points = [point for line in lines for point in line.points] or [(1.0, 1.0)]
    x_top, y_top = (_top(max(values)) for values in zip(*points, strict=True))
    left, right = MARGIN + 36, PANEL_WH[0] - MARGIN
    top, bottom = 60, PANEL_WH[1] - 56
    for y in _ticks(y_top):
        at = round(bottom - (bottom - top) * y / y_top)
        cv2.line(panel, (left, at), (right, at), GRID, 1)
        text = f'{y:g}'
        write(panel, (left - 8 - width(text, TEXT_PX), at + 5), text, TEXT_PX, GRAY)
    for x in _ticks(x_top):
        at = round(left + (right - left) * x / x_top)
        write(panel, (at - width(f'{x:g}', TEXT_PX) // 2, bottom + 20), f'{x:g}', TEXT_PX, GRAY)
    write(panel, (right - width(x_title, TEXT_PX), bottom + 40), x_title, TEXT_PX, GRAY)
    scale = np.array([(right - left) / x_top, -(bottom - top) / y_top])
    for line in lines:
        pixels = (np.array(line.points).reshape(-1, 2) * scale + (left, bottom)).round()
        cv2.polylines(panel, [pixels.astype(np.int32)], False, line.color, 2, cv2.LINE_AA)
        for x, y in pixels.astype(int).tolist():
            cv2.circle(panel, (x, y), 2, line.color, cv2.FILLED, cv2.LINE_AA)
    _legend(panel, legend, left)
    return panel


def _legend(panel: UInt8Array, legend: Sequence[tuple[str, Color]], left: int) -> None:
    for name, color in legend:
        cv2.line(panel, (left, 40), (left + 24, 40), color, 3)
        left = write(panel, (left + 32, 45), name, TEXT_PX) + 28


def bar_chart(title: str, bars: Sequence[Bar]) -> UInt8Array:
    """Draw horizontal bars one below the other, (H, W, 3) uint8 RGB; the height adapts."""
    panel = _titled_panel(title)
    height = max(PANEL_WH[1], 40 + len(bars) * (_BAR_PX + 8))
    panel = np.vstack([panel, _paper(PANEL_WH[0], height - PANEL_WH[1])])
    left, room = MARGIN + _NAME_PX, PANEL_WH[0] - 2 * MARGIN - _NAME_PX - _VALUE_PX
    longest = max(bar.value for bar in bars)
    for index, bar in enumerate(bars):
        top = 40 + index * (_BAR_PX + 8)
        length = max(1, round(room * bar.value / longest))
        cv2.rectangle(panel, (left, top), (left + length, top + _BAR_PX), bar.color, cv2.FILLED)
        write(panel, (MARGIN, top + 16), shortened(bar.name, _NAME_PX - 10, TEXT_PX), TEXT_PX)
        write(panel, (left + length + 10, top + 16), bar.remark, TEXT_PX)
    return panel


def _ticks(top: float) -> Iterator[float]:
    """Return round numbers from 0 to the end of an axis."""
    step = _step(top)
    return (round(i * step, 10) for i in range(round(top / step) + 1))


def _top(highest: float) -> float:
    """Return the end of an axis: the first tick at or above the highest value."""
    step = _step(highest)
    return step * max(1, math.ceil(highest / step - 1e-9))


def _step(highest: float) -> float:
    """Return the tick distance, 1, 2 or 5 times a power of ten, that gives 3 to 8 intervals."""
    rough = max(highest, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(s for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
