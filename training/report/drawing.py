# SPDX-License-Identifier: Apache-2.0
"""Charts as SVG elements of the page, with the colors of its style sheet and alternative text."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final
from xml.etree.ElementTree import Element, SubElement, fromstring, tostring

from matplotlib.figure import Figure

from segmentation_node import plotting

#: Colors of the charts, by the names that page.css gives them; it has others for dark screens.
THEME: Final = {
    **plotting.COLORS, 'ink': plotting.INK, 'quiet': plotting.QUIET, 'rule': plotting.RULE,
    'edge': plotting.EDGE,
}  # fmt: skip
_SVG: Final = '{http://www.w3.org/2000/svg}'
_LINK: Final = '{http://www.w3.org/1999/xlink}href'


class Drawing:
    """SVG element with a title and a description; all text is escaped."""

    def __init__(self, figure: Figure, title: str, description: str = '', name: str = '') -> None:
        """Convert a figure; `name` is the class of the element in page.css."""
        self.title = title
        figure.patch.set_visible(False)  # shows the background of the page
        source = plotting.to_svg(figure)
        document = fromstring(source)  # noqa: S314, written by Matplotlib
        attributes = {'viewBox': document.attrib['viewBox'], 'role': 'img', 'class': name}
        self._svg = Element('svg', {key: value for key, value in attributes.items() if value})
        digest = hashlib.sha256(f'{title} {description} {source}'.encode()).hexdigest()[:12]
        used = []
        for tag, text in {'title': title, 'desc': description}.items():
            if text:
                used.append(f'{tag}-{digest}')
                SubElement(self._svg, tag, {'id': used[-1]}).text = text
        self._svg.set('aria-labelledby', ' '.join(used))
        self._svg.extend(_shapes(document))

    def __html__(self) -> str:
        """Return the SVG source for a template."""
        return tostring(self._svg, encoding='unicode')


def _shapes(document: Element) -> Iterator[Element]:
    """Yield the outlines and texts of a document, without ids, references and clipping.

    Ids would clash between the drawings of a page. The class is the id that a chart sets.
    """
    markers = {path.get('id'): path.get('d', '') for path in document.iter(f'{_SVG}path')}
    for group in document.iter(f'{_SVG}g'):
        name = key if (key := group.get('id', '')).isalpha() else ''
        for shape in group:
            if shape.tag == f'{_SVG}path':
                yield _shape(shape, 'path', {'d': shape.get('d', ''), 'class': name})
            elif shape.tag == f'{_SVG}use':
                outline = markers[shape.get(_LINK, '')[1:]]
                place = f'translate({shape.get("x")} {shape.get("y")})'
                yield _shape(shape, 'path', {'d': outline, 'transform': place})
            elif shape.tag == f'{_SVG}text':
                places = {key: shape.get(key, '') for key in ('x', 'y', 'transform')}
                if places['transform'].startswith('rotate(-0 '):
                    del places['transform']
                yield _shape(shape, 'text', {**places, 'class': name})


def _shape(shape: Element, tag: str, attributes: Mapping[str, str]) -> Element:
    """Return a shape with coordinates in tenths of a pixel and the colors of page.css."""
    style = re.sub('font-family: [^;]*(; )?', '', shape.get('style', ''))
    for name, color in THEME.items():
        style = style.replace(color, f'var(--{name})')
    rounded = {
        key: re.sub(r'-?\d+\.\d+', lambda number: f'{float(number[0]):.1f}', value)
        for key, value in {**attributes, 'style': style}.items()
        if value
    }
    short = Element(tag, {key: ' '.join(value.split()) for key, value in rounded.items()})
    short.text = shape.text
    return short


def sample(series: plotting.Series, title: str) -> Drawing:
    """Draw a short piece of a run's line, for the legend."""
    with plotting.new_figure(44, 14) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        line = plotting.draw_curve(axes, [(0, 0), (1, 0), (2, 0)], series)
        line.set_markevery([1])
        return Drawing(figure, title, name='sample')
