# SPDX-License-Identifier: Apache-2.0
"""Contact sheet with frames of a recording side by side: camera, truth, labels, overlay."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.lettering import BOLD, GRAY, INK, shortened, width, write
from segmentation_node.labels import LabelClass, LabelScheme

MARGIN: Final = 28
GAP: Final = 10
SHEET_WIDTH: Final = 1920
TITLE_PX: Final = 22
TEXT_PX: Final = 14
PAPER: Final = 255
FRAME_GRAY: Final = (190, 194, 200)


@dataclass(frozen=True)
class SheetRow:
    """Pictures of one frame by column title, each (H, W, 3) uint8 RGB, and the frame's time."""

    time_s: float
    pictures: Mapping[str, UInt8Array]


def draw_contact_sheet(
    rows: Sequence[SheetRow],
    title: str,
    scheme: LabelScheme,
    class_iou: Mapping[str, float] | None = None,
    sheet_width: int = SHEET_WIDTH,
) -> UInt8Array:
    """Draw a sheet, (H, `sheet_width`, 3) uint8 RGB.

    Args:
        rows: at least one; all have the same columns and the same picture size.
        title: title of the sheet, one line.
        scheme: label scheme of the legend.
        class_iou: IoU by class name, shown beside the names in the legend.
        sheet_width: in pixels.
    """
    columns = list(rows[0].pictures)
    cell_wh = _cell_size(rows[0], len(columns), sheet_width)
    legend = _legend(scheme, class_iou or {}, sheet_width - 2 * MARGIN)
    head = [_title(title, sheet_width), _column_titles(columns, cell_wh[0], sheet_width)]
    bands = [*head, *(_row(row, cell_wh, sheet_width) for row in rows)]
    foot = _paper(legend.shape[0] + MARGIN + GAP, sheet_width)
    foot[GAP : GAP + legend.shape[0], MARGIN : MARGIN + legend.shape[1]] = legend
    return np.vstack([*bands, foot])


def _paper(height: int, width_px: int) -> UInt8Array:
    return np.full((height, width_px, 3), PAPER, np.uint8)


def _cell_size(row: SheetRow, columns: int, sheet_width: int) -> tuple[int, int]:
    """Return the (width, height) of pictures on the sheet; they keep their aspect ratio."""
    height, width_px = next(iter(row.pictures.values())).shape[:2]
    cell_width = (sheet_width - 2 * MARGIN - (columns - 1) * GAP) // columns
    return cell_width, max(1, round(cell_width * height / width_px))


def _left(column: int, cell_width: int) -> int:
    return MARGIN + column * (cell_width + GAP)


def _title(text: str, sheet_width: int) -> UInt8Array:
    band = _paper(MARGIN + TITLE_PX + 14, sheet_width)
    short = shortened(text, sheet_width - 2 * MARGIN, TITLE_PX, BOLD)
    write(band, (MARGIN, MARGIN + TITLE_PX), short, TITLE_PX, INK, BOLD)
    return band


def _column_titles(columns: Sequence[str], cell_width: int, sheet_width: int) -> UInt8Array:
    band = _paper(TEXT_PX + 22, sheet_width)
    for column, text in enumerate(columns):
        write(band, (_left(column, cell_width), TEXT_PX + 10), text, TEXT_PX + 2, INK, BOLD)
    return band


def _row(row: SheetRow, cell_wh: tuple[int, int], sheet_width: int) -> UInt8Array:
    band = _paper(cell_wh[1] + GAP, sheet_width)
    for column, picture in enumerate(row.pictures.values()):
        left = _left(column, cell_wh[0])
        # INTER_AREA averages neighboring pixels, which suits pictures for display.
        band[: cell_wh[1], left : left + cell_wh[0]] = cv2.resize(
            picture, cell_wh, interpolation=cv2.INTER_AREA
        )
        corner = (left + cell_wh[0] - 1, cell_wh[1] - 1)
        cv2.rectangle(band, (left, 0), corner, FRAME_GRAY, 1)
    _time_mark(band, f'{row.time_s:.1f} s', cell_wh[1])
    return band


def _time_mark(band: UInt8Array, text: str, cell_height: int) -> None:
    """Write a frame's time into the lower left corner of its first picture."""
    right = MARGIN + width(text, TEXT_PX) + 16
    top = cell_height - TEXT_PX - 14
    band[top : cell_height - 1, MARGIN + 1 : right] = PAPER
    write(band, (MARGIN + 8, cell_height - 8), text, TEXT_PX)


def _legend(scheme: LabelScheme, class_iou: Mapping[str, float], width_px: int) -> UInt8Array:
    """Draw color, name and score of each class, in columns of equal width."""
    texts = {c: _score(class_iou.get(c.name)) if class_iou else '' for c in scheme.classes}
    entry_width = 44 + max(
        width(c.name, TEXT_PX) + width(score, TEXT_PX) + 36 for c, score in texts.items()
    )
    per_line = max(1, min(len(texts), width_px // entry_width))
    lines = math.ceil(len(texts) / per_line)
    band = _paper(lines * 34 + (28 if class_iou else 0), width_px)
    for index, (label_class, score) in enumerate(texts.items()):
        line, column = divmod(index, per_line)
        _entry(band, (column * width_px // per_line, line * 34), label_class, score)
    if class_iou:
        text = 'IoU against the ground truth in % next to each class; -: not scored or not visible'
        write(band, (0, band.shape[0] - 6), text, TEXT_PX - 2, GRAY)
    return band


def _score(iou: float | None) -> str:
    return '-' if iou is None or math.isnan(iou) else f'{100 * iou:.1f}'


def _entry(band: UInt8Array, at: tuple[int, int], label_class: LabelClass, score: str) -> None:
    left, top = at
    cv2.rectangle(band, (left, top), (left + 30, top + 20), label_class.color, cv2.FILLED)
    cv2.rectangle(band, (left, top), (left + 30, top + 20), FRAME_GRAY, 1)
    end = write(band, (left + 42, top + 17), label_class.name, TEXT_PX)
    if score:
        write(band, (end + 10, top + 17), score, TEXT_PX, GRAY)
