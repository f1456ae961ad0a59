# SPDX-License-Identifier: Apache-2.0
"""Charts in the style of the project, drawn by Matplotlib without its global state.

Sizes are in CSS pixels, which are the units of an SVG document.
"""

import io
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, ScalarFormatter

#: Values by epoch.
Curve: TypeAlias = Mapping[int, float]

#: Distinguishable with color vision deficiency; contrast to white of at least 4.5 : 1, for text.
COLORS: Final[Mapping[str, str]] = {
    'blue': '#0067a8', 'vermilion': '#c04a00', 'green': '#00795a', 'purple': '#a33f86',
    'ochre': '#8a6200', 'gray': '#50565e',
}  # fmt: skip
INK: Final = '#16191d'
QUIET: Final = '#4a525c'
RULE: Final = '#d3d9df'
EDGE: Final = '#77808b'

_DASHES: Final = {
    'solid': 'solid', 'dashed': (0, (3.5, 1.5)), 'dotted': (0, (1, 1.5)),
    'dash-dotted': (0, (4.5, 1.5, 1, 1.5)), 'long-dashed': (0, (7, 2)),
}  # fmt: skip
_MARKERS: Final = {
    'circles': 'o', 'squares': 's', 'triangles': '^', 'diamonds': 'D', 'crosses': 'P',
    'inverted triangles': 'v', 'stars': '*',
}  # fmt: skip
#: Maximum number of markers on a line.
_MAX_MARKERS: Final = 14
#: Points per inch: with them as resolution, a point is a pixel.
_DPI: Final = 72
_STYLE: Final[Mapping[str, Any]] = {
    'font.family': ['sans-serif'], 'font.sans-serif': ['DejaVu Sans'],  # comes with Matplotlib
    'font.size': 11, 'axes.titlesize': 12, 'axes.titleweight': 'bold',
    'axes.titlelocation': 'left', 'text.color': INK, 'axes.labelcolor': QUIET,
    'xtick.labelcolor': QUIET, 'ytick.labelcolor': QUIET, 'xtick.color': RULE,
    'ytick.color': RULE, 'ytick.major.size': 0, 'axes.facecolor': 'none', 'axes.edgecolor': EDGE,
    'axes.spines.left': False, 'axes.spines.right': False, 'axes.spines.top': False,
    'axes.axisbelow': True, 'axes.grid': True, 'axes.grid.axis': 'y', 'grid.color': RULE,
    'lines.linewidth': 2, 'legend.frameon': False, 'legend.handlelength': 4,
    'text.parse_math': False,  # names are not formulas
    'svg.fonttype': 'none',  # text as text, not as outlines of letters
    'svg.hashsalt': 'chart',  # the same ids in every run
}  # fmt: skip
#: Matplotlib reads its settings while it draws, and they belong to the process.
_LOCK: Final = threading.RLock()


@dataclass(frozen=True)
class Series:
    """Appearance of the n-th series of a chart; the first 210 are distinct."""

    index: int

    @property
    def color(self) -> str:
        """Color as `#rrggbb`."""
        return COLORS[self._of(COLORS)]

    @property
    def dash(self) -> Any:
        """Line style of Matplotlib."""
        return _DASHES[self._of(_DASHES)]

    @property
    def marker(self) -> str:
        """Marker of Matplotlib."""
        return _MARKERS[self._of(_MARKERS)]

    @property
    def description(self) -> str:
        """Description for screen readers."""
        return f'{self._of(COLORS)}, {self._of(_DASHES)}, with {self._of(_MARKERS)}'

    def _of(self, names: Mapping[str, Any]) -> str:
        return list(names)[self.index % len(names)]


@contextmanager
def new_figure(width: float, height: float, margin: float = 3) -> Iterator[Figure]:
    """Provide an empty figure in the style of the project, to be drawn and written inside.

    `margin` is the distance of its charts from the edge and, twice, from each other.
    """
    # Matplotlib 3.5, which Ubuntu 22.04 has, cannot switch formulas off.
    pads = {f'figure.constrained_layout.{side}_pad': margin / _DPI for side in 'wh'}
    known: Any = pads | {name: value for name, value in _STYLE.items() if name in mpl.rcParams}
    with _LOCK, mpl.rc_context(known):
        yield Figure((width / _DPI, height / _DPI), dpi=_DPI, layout='constrained')


def draw_curve(
    axes: Axes, points: Iterable[tuple[float, float]], series: Series, label: str = ''
) -> Line2D:
    """Draw a line with markers through points (x, y), ordered by x."""
    ordered = sorted(points)
    every = max(1, math.ceil(len(ordered) / _MAX_MARKERS))
    [line] = axes.plot(
        [x for x, _ in ordered], [y for _, y in ordered], color=series.color,
        linestyle=series.dash, marker=series.marker, label=label, gid='curve',
        # Each series starts at another point: markers of equal lines do not hide each other.
        markevery=(series.index % every, every),
    )  # fmt: skip
    return line


def set_ticks(
    axis: Axis, text: Callable[[float], str] | None = None, *, whole: bool = False
) -> None:
    """Place at most seven ticks at round values, at integers if `whole`.

    `text` formats the values; by default they have the digits that distinguish them.
    """
    axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=whole))
    if text is None:
        axis.set_major_formatter(ScalarFormatter(useOffset=False))
    else:
        axis.set_major_formatter(lambda value, _position: text(value))


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


def to_svg(figure: Figure) -> str:
    """Return a figure as an SVG document."""
    return _written(figure, 'svg', {'Date': None, 'Creator': None}).decode()


def to_png(figure: Figure, scale: float = 1) -> bytes:
    """Return a figure as a PNG with `scale` pixels per CSS pixel."""
    return _written(figure, 'png', {'Software': None}, scale * _DPI)


def _written(figure: Figure, kind: str, metadata: dict[str, None], dpi: float = _DPI) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=kind, metadata=metadata, dpi=dpi)
    return stream.getvalue()
