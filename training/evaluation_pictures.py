# SPDX-License-Identifier: Apache-2.0
"""Pictures of an evaluation: the confusion matrix, and frames with their errors."""

import math
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_png
from segmentation_node.images.lettering import BOLD, GRAY, shortened, width, write
from segmentation_node.images.rendering import colorize
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import UNCOUNTED, Scores, Target
from segmentation_node.plotting import new_figure, to_png
from training.evaluation import ScoredFrame

#: Column of the predictions that are not a scored class.
OTHER: Final = 'other'
WRONG: Final = (255, 128, 0)
NOT_SCORED: Final = (40, 70, 130)
PANEL_WIDTH: Final = 480
GAP: Final = 10
TEXT_PX: Final = 13
PAPER: Final = 255


def confusion_matrix(scores: Scores) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the names of the K scored classes and OTHER, and the pixels, (K, K + 1).

    Rows are the truth, columns the prediction.
    """
    ids = [c.id for c in scores.scored]
    rows = scores.counts[ids]  # (K, 256)
    others = rows.sum(axis=1) - rows[:, ids].sum(axis=1)
    return [*(c.name for c in scores.scored), OTHER], np.column_stack([rows[:, ids], others])


def write_confusion(scores: Scores, path: Path) -> None:
    """Write the confusion matrix as a PNG, in % of the pixels of each true class."""
    names, counts = confusion_matrix(scores)
    totals = counts.sum(axis=1)
    percent = 100 * counts / np.where(totals, totals, 1)[:, None]  # (K, K + 1)
    side = 190 + 42 * len(names)
    with new_figure(side + 110, side) as figure:
        axes = figure.subplots()
        image = axes.imshow(percent, cmap='Blues', vmin=0, vmax=100)
        figure.colorbar(image, ax=axes, label='% of the pixels of the true class', shrink=0.8)
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right', rotation_mode='anchor')
        axes.set_yticks(range(len(names) - 1), names[:-1])
        axes.grid(visible=False)
        axes.set(
            xlabel='predicted', ylabel='truth',
            title=f'Confusion in % by true class ({scores.scheme.name})',
        )  # fmt: skip
        _write_cells(axes, percent, totals)
        path.write_bytes(to_png(figure, 1.5))


def _write_cells(
    axes: Axes, percent: npt.NDArray[np.float64], totals: npt.NDArray[np.int64]
) -> None:
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            # At 75 % of this color map, black and white have the same contrast, 4.5 : 1.
            color = 'white' if value > 75 else 'black'
            axes.text(column, row, f'{value:.0f}', ha='center', va='center', color=color, size=9)
    for row in np.flatnonzero(totals == 0):
        axes.text(0, int(row), 'not in the truth', va='center', color='dimgray', size=8)


def draw_frame(frame: ScoredFrame, scheme: LabelScheme) -> bytes:
    """Draw image, truth, prediction and errors side by side, with a legend; returns a PNG."""
    shown = np.where(frame.target == UNCOUNTED, scheme.void_id, frame.target).astype(np.uint8)
    panels = {
        'image': frame.image_rgb,
        'truth': colorize(shown, scheme),
        'prediction': colorize(frame.labels, scheme),
        'errors: orange wrong, blue not scored': draw_errors(
            frame.image_rgb, frame.target, frame.labels
        ),
    }
    height, width_px = frame.labels.shape
    size_wh = (PANEL_WIDTH, max(1, round(PANEL_WIDTH * height / width_px)))
    sheet_width = GAP + len(panels) * (PANEL_WIDTH + GAP)
    head = np.full((2 * TEXT_PX + 46, sheet_width, 3), PAPER, np.uint8)
    title = f'{frame.name}   mIoU {frame.miou:.3f}   pixel accuracy {frame.pixel_accuracy:.3f}'
    title = shortened(title, sheet_width - 2 * GAP, TEXT_PX + 2, BOLD)
    write(head, (GAP, TEXT_PX + 14), title, TEXT_PX + 2, font=BOLD)
    row = np.full((size_wh[1] + GAP, sheet_width, 3), PAPER, np.uint8)
    for i, (name, picture) in enumerate(panels.items()):
        left = GAP + i * (PANEL_WIDTH + GAP)
        write(head, (left, head.shape[0] - 10), name, TEXT_PX)
        # Averaging suits the photograph; in label pictures it would create new colors.
        interpolation = cv2.INTER_AREA if i == 0 else cv2.INTER_NEAREST_EXACT
        row[: size_wh[1], left : left + PANEL_WIDTH] = cv2.resize(
            picture, size_wh, interpolation=interpolation
        )
    present = {int(i) for i in np.unique(shown)} | {int(i) for i in np.unique(frame.labels)}
    legend = _legend(scheme, present, sheet_width)
    return encode_png(np.ascontiguousarray(np.vstack([head, row, legend])))


def draw_errors(image_rgb: UInt8Array, target: Target, labels: UInt8Array) -> UInt8Array:
    """Draw the image in gray, with wrong pixels in WRONG and unscored pixels in NOT_SCORED."""
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    picture = np.asarray(cv2.cvtColor(gray // 2 + 90, cv2.COLOR_GRAY2RGB), np.uint8)
    picture[target == UNCOUNTED] = NOT_SCORED
    picture[(target != UNCOUNTED) & (target != labels)] = WRONG
    return picture


def _legend(scheme: LabelScheme, present: set[int], sheet_width: int) -> UInt8Array:
    """Draw a color swatch and the name of each class in `present`."""
    classes = [c for c in scheme.classes if c.id in present]
    entry = 60 + max((width(c.name, TEXT_PX) for c in classes), default=0)
    per_line = max(1, (sheet_width - GAP) // entry)
    band = np.full(
        (math.ceil(len(classes) / per_line) * 26 + GAP, sheet_width, 3), PAPER, np.uint8
    )
    for i, c in enumerate(classes):
        line, column = divmod(i, per_line)
        left, top = GAP + column * entry, line * 26
        cv2.rectangle(band, (left, top), (left + 26, top + 18), c.color, cv2.FILLED)
        cv2.rectangle(band, (left, top), (left + 26, top + 18), GRAY, 1)
        write(band, (left + 34, top + 15), c.name, TEXT_PX)
    return band
