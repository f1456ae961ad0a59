# SPDX-License-Identifier: Apache-2.0
"""SVG drawings with colors from the page's style sheet, and the drawing styles of the runs.

Coordinates are CSS pixels at the width of a chart on a phone, so that text has a normal size on
every screen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

#: Series colors in page.css. Runs also differ in dash, marker and letter.
COLORS: Final = ('blue', 'vermilion', 'green', 'purple', 'ochre', 'gray')
DASHES: Final = (
    ('solid', ''),
    ('dashed', '7 3'),
    ('dotted', '2 3'),
    ('dash-dotted', '9 3 2 3'),
    ('long-dashed', '14 4'),
)
#: Outlines around (0, 0), about 7 units wide.
MARKERS: Final = (
    ('circles', 'M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z'),
    ('squares', 'M-3.2 -3.2h6.4v6.4h-6.4z'),
    ('triangles', 'M0 -4.2L4 3.2h-8z'),
    ('diamonds', 'M0 -4.8L4.2 0L0 4.8L-4.2 0z'),
    ('crosses', 'M-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z'),
    ('inverted triangles', 'M0 4.2L4 -3.2h-8z'),
    ('bars', 'M-1.8 -4.5h3.6v9h-3.6z'),
)


@dataclass(frozen=True)
class Style:
    """Drawing style of the n-th run; the first 210 styles are distinct."""

    index: int

    @property
    def color(self) -> int:
        """Number of the color, as in the class names of page.css."""
        return self.index % len(COLORS)

    @property
    def dash(self) -> str:
        """Lengths of dashes and gaps."""
        return DASHES[self.index % len(DASHES)][1]

    @property
    def marker(self) -> str:
        """Outline of a marker, as SVG path data."""
        return MARKERS[self.index % len(MARKERS)][1]

    @property
    def description(self) -> str:
        """Description of the style for screen readers."""
        dash, marker = DASHES[self.index % len(DASHES)], MARKERS[self.index % len(MARKERS)]
        return f'{COLORS[self.color]}, {dash[0]}, with {marker[0]}'


class Drawing:
    """SVG drawing with a text alternative; all text is escaped."""

    _ids = count()

    def __init__(self, width: float, height: float, title: str, description: str = '') -> None:
        self.height, self.width = height, width
        self.title, self.description = title, description
        self.svg = Element('svg', {'viewBox': f'0 0 {width:g} {height:g}', 'role': 'img'})
        name = f'drawing-{next(self._ids)}'
        parts = {'title': title, 'desc': description}
        for tag, text in parts.items():
            if text:
                SubElement(self.svg, tag, {'id': f'{name}-{tag}'}).text = text
        used = [f'{name}-{tag}' for tag, text in parts.items() if text]
        self.svg.set('aria-labelledby', ' '.join(used))

    def __html__(self) -> str:
        """Return the SVG source for a template."""
        return tostring(self.svg, encoding='unicode')

    def line(self, points: Sequence[tuple[float, float]], name: str, dash: str = '') -> None:
        """Draw a line through points."""
        attributes = {'points': ' '.join(f'{x:.1f},{y:.1f}' for x, y in points), 'class': name}
        if dash:
            attributes['stroke-dasharray'] = dash
        SubElement(self.svg, 'polyline', attributes)

    def text(self, at: tuple[float, float], text: str, name: str = '', anchor: str = '') -> None:
        """Draw text, by default to the right of `at`."""
        attributes = {'x': f'{at[0]:.1f}', 'y': f'{at[1]:.1f}'}
        attributes |= {'class': name} if name else {}
        attributes |= {'text-anchor': anchor} if anchor else {}
        SubElement(self.svg, 'text', attributes).text = text

    def rect(self, at: tuple[float, float], width: float, height: float, name: str) -> None:
        """Draw a filled rectangle with its upper left corner at `at`."""
        SubElement(
            self.svg, 'rect',
            {'x': f'{at[0]:.1f}', 'y': f'{at[1]:.1f}', 'width': f'{width:.1f}',
             'height': f'{height:.1f}', 'class': name},
        )  # fmt: skip

    def marker(self, at: tuple[float, float], style: Style, scale: float = 1) -> None:
        """Draw the marker of a run."""
        SubElement(
            self.svg, 'path',
            {'d': style.marker, 'class': f'mark c{style.color}',
             'transform': f'translate({at[0]:.1f} {at[1]:.1f}) scale({scale:g})'},
        )  # fmt: skip


def sample(style: Style, title: str) -> Drawing:
    """Draw a short piece of a run's line, for the legend."""
    drawing = Drawing(44, 14, title)
    drawing.svg.set('class', 'sample')
    drawing.line([(1, 7), (43, 7)], f'line c{style.color}', style.dash)
    drawing.marker((22, 7), style, 1.2)
    return drawing


@dataclass(frozen=True)
class Axis:
    """Linear scale from values to coordinates, with ticks at round values."""

    ticks: tuple[float, ...]
    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def label(self, tick: float) -> str:
        """Format a tick."""
        step = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else 1.0
        if max(map(abs, self.ticks)) < 1e-3:
            return f'{tick:.0e}' if tick else '0'
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f'{tick:,.{digits}f}'.replace(',', '\N{THIN SPACE}')


def axis_over(
    low: float, high: float, start: float, end: float, *, ticks: int = 5, whole: bool = False
) -> Axis:
    """Return an axis over `low` to `high` with about `ticks` ticks, on integers if `whole`."""
    if high - low <= max(1e-30, 1e-9 * abs(low)):  # too small a range for ticks
        margin = abs(low) * 0.1 or 0.5
        low, high = low - margin, high + margin
    step = _round_step((high - low) / ticks)
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if whole:  # an axis of epochs is not extended to round values
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    else:
        low, high = first * step, last * step
    values = tuple(i * step for i in range(first, last + 1))
    return Axis(values or (low,), low, high, start, end)


def _round_step(step: float) -> float:
    """Round a step up to 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return positions near the wanted ones, at least `gap` apart and, if they fit, in bounds."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = [0.0] * len(wanted)
    at = low - gap
    for i in order:
        at = placed[i] = max(wanted[i], at + gap)
    at = high + gap
    for i in reversed(order):
        at = placed[i] = min(placed[i], at - gap)
    return placed
