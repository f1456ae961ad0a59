# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG images with a text alternative."""

import base64
import io
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: Large text: a phone shows the chart at half its width.
FONT_PT: Final = 13
WIDTH_INCHES, PLOT_HEIGHT_INCHES, LEGEND_ROW_INCHES = 6.4, 3.6, 0.27
#: Distinguishable by people with color vision deficiency, and with enough contrast to white.
COLORS: Final = ('#0b5394', '#a04000', '#1b7837', '#762a83', '#5b5b00', '#8b0a50')
DASHES: Final = ('-', '--', ':', '-.', (0, (5, 5)), (0, (1, 3)))
MARKERS: Final = ('o', 's', 'D')

Curve = Mapping[int, float]


def curve_chart(
    title: str,
    description: str,
    x_title: str,
    curves: Mapping[str, Curve],
    number: Callable[[float], str],
) -> str:
    """Return a figure of curves over epochs, with title and description as its alternative text.

    Curves differ in color, dash and marker. `number` formats the values at the axes.
    """
    height = PLOT_HEIGHT_INCHES + LEGEND_ROW_INCHES * len(curves)
    figure = Figure((WIDTH_INCHES, height), layout='constrained')
    axes = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        axes.plot(
            sorted(curve),
            [curve[epoch] for epoch in sorted(curve)],
            color=COLORS[index % len(COLORS)],
            linestyle=DASHES[index % len(DASHES)],
            linewidth=2,
            marker=MARKERS[index % len(MARKERS)],
            label=name,
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=axis is axes.xaxis))
        axis.set_major_formatter(lambda value, _position: number(value))
    axes.set_xlabel(x_title, fontsize=FONT_PT)
    axes.tick_params(labelsize=FONT_PT)
    axes.grid(axis='y', color='#d0d4da')
    figure.legend(loc='outside lower left', fontsize=FONT_PT, frameon=False, handlelength=4)
    svg = io.BytesIO()
    with mpl.rc_context({'svg.fonttype': 'none'}):  # text as text, not as outlines of letters
        figure.savefig(svg, format='svg')
    # An image, because Streamlit removes SVG elements from HTML.
    source = f'data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}'
    alt = escape(f'{title}. {description}')
    return f'<figure class="sn-figure"><img class="sn-chart" src="{source}" alt="{alt}"></figure>'
