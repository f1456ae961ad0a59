# SPDX-License-Identifier: Apache-2.0
"""Ways to look at an image: whole, through a sliding window, at several scales, mirrored.

The node looks at the whole image, once. The other ways cost several times as much and are what
published figures are often made with: the class scores of all views are averaged, and the class
is decided for after that.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
import torch

from segmentation_node.errors import SettingError
from segmentation_node.image_files import ImageRgb
from segmentation_node.segmenter import Prediction, Segmenter

#: Larger scales need more memory than they are worth.
MAX_SCALE: Final = 4.0
#: What several scales are in the papers' multi-scale figures.
USUAL_SCALES: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
USUAL_OVERLAP: Final = 1 / 3


@dataclass(frozen=True)
class InferenceMode:
    """How an image is looked at; without arguments as the node does.

    Attributes:
        window_hw: sides of the window in pixels of the network, such as the crop it was trained
            on; None takes the whole image. A window that is larger than the image is the image.
        overlap: share of a window that the next one sees again, at least.
        scales: relative to the scale at which the checkpoint sees an image.
        flip: add a mirrored view at every scale.

    Raises:
        SettingError: a value out of range.
    """

    window_hw: tuple[int, int] | None = None
    overlap: float = USUAL_OVERLAP
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.window_hw is not None and min(self.window_hw) < 1:
            raise SettingError(f'window {self.window_hw} must be (height, width), both above 0')
        if not 0 <= self.overlap < 1:
            raise SettingError(f'overlap {self.overlap} must lie in [0, 1)')
        if not self.scales or not all(0 < s <= MAX_SCALE for s in self.scales):
            raise SettingError(
                f'scales {self.scales} must be at least one number, each above 0 and at most '
                f'{MAX_SCALE:g}'
            )

    @property
    def name(self) -> str:
        """The mode in words, such as 'sliding window 512 x 512, overlap 0.33'."""
        parts = []
        if self.window_hw is not None:
            height, width = self.window_hw
            parts.append(f'sliding window {height} x {width}, overlap {self.overlap:.2f}')
        if self.scales != (1.0,):
            parts.append('scales ' + ' '.join(f'{s:g}' for s in self.scales))
        if self.flip:
            parts.append('mirrored, too')
        return ', '.join(parts) or 'whole'

    def predict(self, segmenter: Segmenter, image_rgb: ImageRgb) -> Prediction:
        """Segment one (H, W, 3) uint8 RGB image; labels and confidence are (1, H, W)."""
        if self.window_hw is None and self.scales == (1.0,) and not self.flip:
            return segmenter.segment([image_rgb])
        base = segmenter.scale((image_rgb.shape[0], image_rgb.shape[1]))
        with torch.inference_mode():
            views = [
                self._scores(segmenter, image_rgb, base * scale, mirrored)
                for scale, mirrored in product(self.scales, (False, True)[: 1 + self.flip])
            ]
            return segmenter.decide(sum(views[1:], views[0]) / len(views))

    def _scores(
        self, segmenter: Segmenter, image_rgb: ImageRgb, scale: float, mirrored: bool
    ) -> torch.Tensor:
        """Class scores of one view, (1, C, H, W), the right way round."""
        if mirrored:
            image_rgb = np.ascontiguousarray(image_rgb[:, ::-1])
        scores = self._windowed(segmenter, image_rgb, scale)
        return scores.flip(3) if mirrored else scores

    def _windowed(self, segmenter: Segmenter, image_rgb: ImageRgb, scale: float) -> torch.Tensor:
        if self.window_hw is None:
            return segmenter.class_scores([image_rgb], scale)
        height, width = image_rgb.shape[:2]
        # The window keeps its size in the network's pixels, whatever the scale.
        sides = [max(1, round(side / scale)) for side in self.window_hw]
        rows, columns = (
            list(spans(length, side, self.overlap))
            for length, side in zip((height, width), sides, strict=True)
        )
        total: torch.Tensor | None = None
        times = np.zeros((height, width), np.float32)
        for row, column in product(rows, columns):
            window = np.ascontiguousarray(image_rgb[row, column])
            scores = segmenter.class_scores([window], scale)
            if total is None:
                total = scores.new_zeros(1, scores.shape[1], height, width)
            total[:, :, row, column] += scores
            times[row, column] += 1
        if total is None:
            raise AssertionError('every image has at least one window')
        return total / torch.from_numpy(times).to(total.device)


WHOLE: Final = InferenceMode()


def spans(length: int, window: int, overlap: float) -> Iterator[slice]:
    """Windows along a side, evenly placed from end to end, each overlapping its neighbour."""
    window = min(window, length)
    step = max(1.0, window * (1 - overlap))
    count = math.ceil((length - window) / step) + 1
    for i in range(count):
        start = round(i * (length - window) / max(1, count - 1))
        yield slice(start, start + window)
