# SPDX-License-Identifier: Apache-2.0
"""Inference modes: whole image, sliding window, several scales, flipped views.

The node uses the whole image once. The other modes take several times as long and are common in
published results: the class scores of all views are averaged before the class is chosen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SettingError
from segmentation_node.runtimes.torch_runtime import TorchRuntime
from segmentation_node.segmenter import Prediction, Segmenter

#: Limit of the memory use; larger scales are not worth it.
MAX_SCALE: Final = 4.0
#: Usual scales of multi-scale results in papers.
USUAL_SCALES: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
USUAL_OVERLAP: Final = 1 / 3


@dataclass(frozen=True)
class InferenceMode:
    """Views of an image whose scores are averaged; the default is the node's single view.

    Attributes:
        window_hw: size of the sliding window in pixels at network resolution, for example the
            training crop; None uses the whole image. Windows are cropped to the image.
        overlap: minimum overlap of neighboring windows, as a share of the window.
        scales: scales relative to the checkpoint's input scale.
        flip: whether to add a horizontally flipped view at every scale.

    Raises:
        SettingError: a value is out of range.
    """

    window_hw: tuple[int, int] | None = None
    overlap: float = USUAL_OVERLAP
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window_hw is not None and min(self.window_hw) < 1:
            raise SettingError(f'window {self.window_hw} must be (height, width), both above 0')
        if not 0 <= self.overlap < 1:
            raise SettingError(f'overlap {self.overlap} must be in [0, 1)')
        if not self.scales or not all(0 < s <= MAX_SCALE for s in self.scales):
            raise SettingError(
                f'scales {self.scales} must be at least one number, each above 0 and at most '
                f'{MAX_SCALE:g}'
            )

    @property
    def name(self) -> str:
        """Description of the mode, for example 'sliding window 512 x 512, overlap 0.33'."""
        parts = []
        if self.window_hw is not None:
            height, width = self.window_hw
            parts.append(f'sliding window {height} x {width}, overlap {self.overlap:.2f}')
        if self.scales != (1.0,):
            parts.append('scales ' + ' '.join(f'{s:g}' for s in self.scales))
        if self.flip:
            parts.append('mirrored, too')
        return ', '.join(parts) or 'whole'

    def predict(self, segmenter: Segmenter, image_rgb: UInt8Array) -> Prediction:
        """Segment one (H, W, 3) uint8 RGB image; returns labels and confidence, (1, H, W)."""
        if self.window_hw is None and self.scales == (1.0,) and not self.flip:
            return segmenter.segment([image_rgb])
        if segmenter.has_instances:
            raise SettingError(
                f'inference mode {self.name!r} averages class scores, which a model with '
                f'instances does not have; use the whole image, one scale and no mirrored view'
            )
        engine = segmenter.engine
        if not isinstance(engine, TorchRuntime):
            raise SettingError(
                f'runtime {engine.name!r} returns labels only, not class scores, which inference '
                f'mode {self.name!r} averages; use runtime torch'
            )
        scale = segmenter.scale((image_rgb.shape[0], image_rgb.shape[1]))
        with torch.inference_mode():
            return segmenter.publish(engine.postprocess(self.scores(engine, image_rgb, scale)))

    def scores(self, engine: TorchRuntime, image_rgb: UInt8Array, base: float) -> torch.Tensor:
        """Return the class scores of an image, (1, C, H, W) float32, averaged over its views.

        `base` is the checkpoint's scale, in network pixels per image pixel.
        """
        views = [
            self._view_scores(engine, image_rgb, base * scale, mirrored)
            for scale, mirrored in product(self.scales, (False, True)[: 1 + self.flip])
        ]
        return sum(views[1:], views[0]) / len(views)

    def _view_scores(
        self, engine: TorchRuntime, image_rgb: UInt8Array, scale: float, mirrored: bool
    ) -> torch.Tensor:
        """Return the class scores of one view, (1, C, H, W), flipped back if it is mirrored."""
        if mirrored:
            image_rgb = np.ascontiguousarray(image_rgb[:, ::-1])
        scores = self._windowed(engine, image_rgb, scale)
        return scores.flip(3) if mirrored else scores

    def _windowed(self, engine: TorchRuntime, image_rgb: UInt8Array, scale: float) -> torch.Tensor:
        if self.window_hw is None:
            return engine.class_scores(image_rgb[None], scale)
        height, width = image_rgb.shape[:2]
        # The window has the same size in network pixels at every scale.
        sides = [max(1, round(side / scale)) for side in self.window_hw]
        rows, columns = (
            list(spans(length, side, self.overlap))
            for length, side in zip((height, width), sides, strict=True)
        )
        total: torch.Tensor | None = None
        counts = np.zeros((height, width), np.float32)
        for row, column in product(rows, columns):
            window = np.ascontiguousarray(image_rgb[row, column])
            scores = engine.class_scores(window[None], scale)
            if total is None:
                total = scores.new_zeros(1, scores.shape[1], height, width)
            total[:, :, row, column] += scores
            counts[row, column] += 1
        if total is None:
            raise AssertionError('every image has at least one window')
        return total / torch.from_numpy(counts).to(total.device)


WHOLE: Final = InferenceMode()


def spans(length: int, window: int, overlap: float) -> Iterator[slice]:
    """Yield the windows along a side, evenly spaced and overlapping their neighbors."""
    window = min(window, length)
    step = max(1.0, window * (1 - overlap))
    count = math.ceil((length - window) / step) + 1
    for i in range(count):
        start = round(i * (length - window) / max(1, count - 1))
        yield slice(start, start + window)
