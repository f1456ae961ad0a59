# SPDX-License-Identifier: Apache-2.0
"""Curves as SVG: each has a colour, a dash and a marker of its own, and its name beside it."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 400
LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 140, 16, HEIGHT - 56
#: Large, since a phone shows all of it on half the width.
FONT_SIZE: Final = 17
#: What has room to the right of the curves.
LONGEST_NAME: Final = 14
#: Told apart by people who see colours differently, too, and dark enough on white.
COLORS: Final = ('#0b5394', '#a04000', '#1b7837', '#762a83', '#5b5b00', '#8b0a50')
DASHES: Final = ('', '9 5', '2 4', '12 4 2 4', '5 5', '1 3')
MARKERS: Final = ('circle', 'square', 'diamond')

Curve = Mapping[int, float]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from a little below `low` to a little above `high`."""
    span = max(high - low, 1e-9)
    step: float = 10.0 ** math.floor(math.log10(span / count))
    step *= next((m for m in (1, 2, 5) if span / (step * m) <= count), 10)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [i * step for i in range(first, last + 1)]


def curve_chart(
    title: str,
    description: str,
    x_title: str,
    curves: Mapping[str, Curve],
    number: Callable[[float], str],
) -> str:
    """Curves over epochs, by name; `number` writes the values at the axes.

    Where a name has no room beside its curve, all curves have letters there and a list of letters
    and names stands below.
    """
    points = [(x, y) for curve in curves.values() for x, y in curve.items()]
    x_ticks = ticks(min(x for x, _ in points), max(x for x, _ in points))
    y_ticks = ticks(min(y for _, y in points), max(y for _, y in points))
    lettered = any(len(name) > LONGEST_NAME for name in curves)
    labels = {n: _letter(i) if lettered else n for i, n in enumerate(curves)}

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)

    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="{FONT_SIZE}" fill="#1c2026">'
    )
    parts = [
        head,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"></rect>',
    ]
    for y in y_ticks:
        _, height = at(x_ticks[0], y)
        parts.append(f'<path d="M{LEFT} {height:.1f}H{RIGHT}" stroke="#d0d4da"></path>')
        parts.append(_text(LEFT - 8, height + 6, number(y), 'end'))
    for x in x_ticks:
        across, _ = at(x, y_ticks[0])
        parts.append(f'<path d="M{across:.1f} {BOTTOM}v6" stroke="#5b626b"></path>')
        parts.append(_text(across, BOTTOM + 24, number(x), 'middle'))
    parts.append(_text((LEFT + RIGHT) / 2, HEIGHT - 8, x_title, 'middle'))
    ends = {name: at(max(curve), curve[max(curve)])[1] for name, curve in curves.items()}
    heights = _spread(ends)
    for index, (name, curve) in enumerate(curves.items()):
        line = [at(x, curve[x]) for x in sorted(curve)]
        parts.append(_line(index, line))
        parts.append(_name(index, labels[name], line[-1], heights[name]))
    svg = ''.join((*parts, '</svg>'))
    alt = escape(f'{title}. {description}')
    keys = _keys(labels) if lettered else ''
    return (
        f'<figure class="sn-figure"><img class="sn-chart" src="{_source(svg)}" alt="{alt}">'
        f'{keys}</figure>'
    )


def _letter(index: int) -> str:
    """A to Z, then AA to ZZ and so on."""
    return chr(ord('A') + index % 26) * (1 + index // 26)


def _source(svg: str) -> str:
    # As an image: drawings amid the HTML are taken out on their way to the browser.
    return f'data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}'


def _keys(labels: Mapping[str, str]) -> str:
    """A list of names, each after its letter and a piece of its line."""
    rows = []
    for index, (name, letter) in enumerate(labels.items()):
        line = _line(index, [(4, 8), (24, 8), (44, 8)])
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="48" height="16">{line}</svg>'
        sample = f'<img class="sn-key" src="{_source(svg)}" alt="">'
        rows.append(f'<li>{sample} <strong>{letter}</strong> {escape(name)}</li>')
    return f'<figcaption><ul class="sn-keys">{"".join(rows)}</ul></figcaption>'


def _line(index: int, line: Sequence[tuple[float, float]]) -> str:
    color, dash = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
    path = 'L'.join(f'{x:.1f} {y:.1f}' for x, y in line)
    drawn = (
        f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2.5" '
        f'stroke-dasharray="{dash}"></path>'
    )
    return drawn + ''.join(_marker(MARKERS[index % len(MARKERS)], x, y, color) for x, y in line)


def _name(index: int, name: str, end: tuple[float, float], height: float) -> str:
    """A name to the right of all curves, and a thin line to it from where its own ends."""
    color = COLORS[index % len(COLORS)]
    x, y = end
    return (
        f'<path d="M{x:.1f} {y:.1f}L{RIGHT + 8} {height:.1f}" stroke="{color}"></path>'
        f'<text x="{RIGHT + 12}" y="{height + 6:.1f}" fill="{color}">{escape(name)}</text>'
    )


def _marker(kind: str, x: float, y: float, color: str) -> str:
    if kind == 'circle':
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"></circle>'
    if kind == 'square':
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"></rect>'
    return f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="{color}"></path>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _spread(heights: Mapping[str, float], apart: float = FONT_SIZE + 4) -> dict[str, float]:
    """Heights moved downwards as far as it takes for names not to overlap."""
    found: dict[str, float] = {}
    last = -math.inf
    for name in sorted(heights, key=lambda n: heights[n]):
        last = found[name] = max(heights[name], last + apart)
    return found
