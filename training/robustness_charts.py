# SPDX-License-Identifier: Apache-2.0
"""Pictures of the robustness benchmark: a chart of the figures, and a frame under every kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from matplotlib.axes import Axes

from segmentation_node import plotting
from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_png
from segmentation_node.images.lettering import write
from segmentation_node.labels import LabelScheme
from training.corruptions.kinds import GROUPS, KINDS, SEVERITIES, Case, cases_of, corrupt
from training.labeled_frames import LabeledFrame
from training.robustness_results import CLEAN, Figures, RobustnessResults

#: Severities on the contact sheet.
SHOWN: Final = (1, 3, 5)
TILE_WIDTH: Final = 240
#: Pixels of the chart per CSS pixel.
SCALE: Final = 1.4
LINE_PX: Final = 22
TEXT_PX: Final = 10
#: Kinds side by side on the contact sheet.
ACROSS: Final = 2


def write_chart(results: RobustnessResults, path: Path) -> None:
    """Draw mIoU of models by kind as a heat map, and by severity as curves, as one PNG."""
    kinds = [
        kind
        for kind in KINDS
        if any(kind in {name for name, _ in m.cases} for m in results.models.values())
    ]
    measured = {
        name: [model.of(CLEAN), *(_mean_of_kind(model.cases, kind) for kind in kinds)]
        for name, model in results.models.items()
    }
    values = 100 * np.array(list(measured.values()))
    heights = (45 + 28 * len(measured), 190)
    with plotting.new_figure(max(1000, 290 + 32 * len(kinds)), 215 + sum(heights)) as figure:
        grid = figure.add_gridspec(2, len(GROUPS), height_ratios=heights)
        heat = figure.add_subplot(grid[0, :])
        heat.grid(visible=False)
        heat.imshow(values, cmap='viridis', vmin=0, vmax=100, aspect='auto')
        heat.set_xticks(range(len(kinds) + 1), ['clean', *kinds], rotation=45, ha='right')
        heat.set_yticks(range(len(measured)), list(measured))
        heat.set_title(f'mIoU in %, mean over the severities ({results.data})')
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                color = 'black' if value > 60 else 'white'
                heat.text(
                    column, row, f'{value:.0f}', ha='center', va='center', color=color, size=8
                )
        for column, group in enumerate(GROUPS):
            axes = figure.add_subplot(grid[1, column])
            _draw_group(axes, results, group)
            if not column:
                axes.set_ylabel('mIoU in %')
                axes.legend(fontsize='small', handlelength=2)
        path.write_bytes(plotting.to_png(figure, SCALE))


def _draw_group(axes: Axes, results: RobustnessResults, group: str) -> None:
    """Draw the mIoU of each model by severity, mean over the kinds of a group."""
    for index, (name, model) in enumerate(results.models.items()):
        means = [
            model.mean((kind, severity) for kind, k in KINDS.items() if k.group == group)
            for severity in SEVERITIES
        ]
        points = zip((0, *SEVERITIES), 100 * np.array([model.of(CLEAN), *means]), strict=True)
        plotting.draw_curve(axes, points, plotting.Series(index), name)
    axes.set(xlim=(-0.2, SEVERITIES[-1] + 0.2), ylim=(0, 100), xlabel='severity')
    axes.set_xticks((0, *SEVERITIES))
    axes.set_title(group)


def _mean_of_kind(cases: Mapping[Case, Figures], kind: str) -> float:
    return float(np.mean([f['mIoU'] for (name, _), f in cases.items() if name == kind] or np.nan))


def draw_contact_sheet(
    frame: LabeledFrame, scheme: LabelScheme, kinds: Sequence[str], seed: int
) -> bytes:
    """Draw a frame under each kind at the severities SHOWN; returns a PNG.

    All tiles have the same scale, so that a kind that changes the size of the frame shows it.
    """
    blocks = [_block(frame, scheme, kind, seed) for kind in kinds]
    blocks += [np.full_like(blocks[0], 255)] * (-len(blocks) % ACROSS)
    per_column = len(blocks) // ACROSS
    columns = [np.vstack(blocks[i * per_column : (i + 1) * per_column]) for i in range(ACROSS)]
    return encode_png(np.ascontiguousarray(np.hstack(columns)))


def _block(frame: LabeledFrame, scheme: LabelScheme, kind: str, seed: int) -> UInt8Array:
    height, width = frame.truth.shape
    scale = TILE_WIDTH / width
    tile_height = round(height * scale)
    block = np.full((LINE_PX + tile_height, len(SHOWN) * (TILE_WIDTH + 4) + 8, 3), 255, np.uint8)
    for column, case in enumerate(cases_of([kind], SHOWN)):
        image, _ = corrupt(frame.image_rgb, frame.truth, scheme, case, seed, frame.name)
        size_wh = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        tile = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)[:tile_height, :TILE_WIDTH]
        left = column * (TILE_WIDTH + 4)
        block[LINE_PX : LINE_PX + tile.shape[0], left : left + tile.shape[1]] = tile
        write(block, (left + 2, LINE_PX - 6), f'{kind} {case[1]}', TEXT_PX)
    return block
