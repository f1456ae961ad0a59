# SPDX-License-Identifier: Apache-2.0
"""Figures, tables and legends as accessible HTML."""

import base64
from collections.abc import Sequence
from html import escape
from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_jpeg, encode_png
from segmentation_node.labels import LabelScheme
from segmentation_node.web.page.patterns import ink_on, pattern_of

#: Maximum width of a shown picture in pixels.
MAX_WIDTH: Final = 1280
#: Table cell without a value.
ABSENT: Final = '-'

STYLE: Final = """
<style>
.sn-figure {margin: 0 0 1rem}
.sn-figure img {width: 100%; height: auto; border: 1px solid #7a828c}
.sn-figure figcaption {font-size: .95rem; margin-top: .3rem}
.sn-figure img.sn-chart {max-width: 720px}
.sn-large {overflow: auto; max-height: 80vh}
.sn-large .sn-figure img {width: max(100%, 60rem); max-width: none}
#result {scroll-margin-top: 4rem}
/* Controls have a contrast of at least 3:1 to their surroundings (WCAG 1.4.11). */
[data-testid="stRadioOption"]:not([data-selected]) > div > div:first-child,
[data-testid="stCheckbox"]:not([data-selected]) label > div:first-of-type,
[data-testid="stTextInputRootElement"], [data-testid="stFileUploaderDropzone"],
[data-testid^="stBaseButton-secondary"] {border: 1px solid #767b84 !important}
[data-testid="stSlider"] [role="group"] > div > div:first-child {outline: 1px solid #767b84}
/* Shown if Streamlit marks a file as too large; its own message is in English only. */
.sn-too-large {display: none}
body:has([data-testid="stFileChip"][aria-invalid="true"]) .sn-too-large {display: block}
/* Hides the message about the previous file. */
body:has([data-testid="stFileChip"][aria-invalid="true"]) .sn-unreadable {display: none}
.sn-too-large .sn-note, .sn-unreadable .sn-note {border-color: #b3261e}
[data-testid="stFileChip"] [role="alert"], [data-testid="stFileUploaderDropzoneInstructions"]
  {display: none}
.sn-scroll {overflow-x: auto}
.sn-table {border-collapse: collapse; width: 100%; font-size: .95rem; margin-bottom: 1rem}
.sn-table caption {text-align: left; font-weight: 600; padding: .3rem 0}
.sn-table th, .sn-table td {border-bottom: 1px solid #b4bac2; padding: .3rem .5rem;
  text-align: right; font-variant-numeric: tabular-nums}
.sn-table th:first-child, .sn-table .sn-words {text-align: left}
.sn-table th:first-child {white-space: nowrap}
.sn-swatch {width: 36px; height: 24px; vertical-align: middle; margin-right: .5rem;
  border: 1px solid #5b626b}
@media (max-width: 640px) {
  .sn-table {font-size: .8rem}
  .sn-table th, .sn-table td {padding: .3rem .2rem}
  .sn-swatch {width: 24px; height: 16px; margin-right: .3rem}
}
.sn-note {border-left: 4px solid #3d6fa5; padding: .2rem .8rem; margin: .3rem 0 1rem}
</style>
"""


def large_figure(picture: UInt8Array, alt: str, caption: str, *, exact: bool = False) -> str:
    """Return a `figure` in its full size, scrollable."""
    inner = figure(picture, alt, caption, exact=exact)
    label = escape(caption)
    return f'<div class="sn-large" tabindex="0" role="region" aria-label="{label}">{inner}</div>'


def figure(picture: UInt8Array, alt: str, caption: str, *, exact: bool = False) -> str:
    """Return a figure of an (H, W, 3) uint8 RGB picture; `exact` keeps the edges of patterns."""
    height, width = picture.shape[:2]
    if width > MAX_WIDTH:
        size = (MAX_WIDTH, max(1, round(height * MAX_WIDTH / width)))
        interpolation = cv2.INTER_NEAREST if exact else cv2.INTER_AREA
        picture = np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)
    data, file_format = (encode_png(picture), 'png') if exact else (encode_jpeg(picture), 'jpeg')
    source = f'data:image/{file_format};base64,{base64.b64encode(data).decode()}'
    return (
        f'<figure class="sn-figure"><img src="{source}" alt="{escape(alt)}">'
        f'<figcaption>{escape(caption)}</figcaption></figure>'
    )


def table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    swatches: Sequence[str] = (),
) -> str:
    """Return a table whose first column has the row headers; `swatches` are placed before them."""
    classes = [_css_class(cell) for cell in rows[0]]
    head = ''.join(
        f'<th scope="col"{k}>{escape(c)}</th>' for k, c in zip(classes, columns, strict=True)
    )
    body = []
    for index, (name, *cells) in enumerate(rows):
        swatch = swatches[index] if swatches else ''
        values = ''.join(f'<td{_css_class(cell)}>{escape(cell)}</td>' for cell in cells)
        body.append(f'<tr><th scope="row">{swatch}{escape(name)}</th>{values}</tr>')
    # Focusable, so that a wide table can be scrolled with the keyboard.
    return (
        f'<div class="sn-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="sn-table"><caption>{escape(caption)}</caption>'
        f'<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _css_class(text: str) -> str:
    """Return the class that aligns text to the left; numbers are aligned to the right."""
    return '' if text == ABSENT or text[:1].isdigit() else ' class="sn-words"'


def swatch(scheme: LabelScheme, class_id: int) -> str:
    """Return a small picture of the color and pattern of a class, to be placed beside its name."""
    color = next(c.color for c in scheme.classes if c.id == class_id)
    tile = np.empty((24, 36, 3), np.uint8)
    tile[:] = color
    tile[np.tile(pattern_of(scheme, class_id), (2, 3))] = ink_on(color)
    data = base64.b64encode(encode_png(tile)).decode()
    return f'<img class="sn-swatch" alt="" src="data:image/png;base64,{data}">'


def note(text: str) -> str:
    """Return a highlighted note."""
    return f'<p class="sn-note">{escape(text)}</p>'
