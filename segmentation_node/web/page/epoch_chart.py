# SPDX-License-Identifier: Apache-2.0
"""Line charts as SVG images with a text alternative."""

import base64
from collections.abc import Callable, Mapping
from html import escape
from typing import Final

from segmentation_node.plotting import Curve, Series, draw_curve, new_figure, set_ticks, to_svg

#: Large text: a phone shows the chart at half its width.
FONT_PX: Final = 13
WIDTH, PLOT_HEIGHT, LEGEND_ROW_HEIGHT = 460, 260, 20


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
    with new_figure(WIDTH, PLOT_HEIGHT + LEGEND_ROW_HEIGHT * len(curves)) as figure:
        axes = figure.subplots()
        lines = [
            draw_curve(axes, curve.items(), Series(index))
            for index, curve in enumerate(curves.values())
        ]
        set_ticks(axes.xaxis, number, whole=True)
        set_ticks(axes.yaxis, number)
        axes.set_xlabel(x_title, fontsize=FONT_PX)
        axes.tick_params(labelsize=FONT_PX)
        figure.legend(lines, list(curves), loc='outside lower left', fontsize=FONT_PX)
        svg = to_svg(figure)
    # An image, because Streamlit removes SVG elements from HTML.
    source = f'data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}'
    alt = escape(f'{title}. {description}')
    return f'<figure class="sn-figure"><img class="sn-chart" src="{source}" alt="{alt}"></figure>'
