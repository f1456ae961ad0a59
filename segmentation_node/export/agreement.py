# SPDX-License-Identifier: Apache-2.0
"""How far the labels of an exported graph are those of the network it was made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from segmentation_node.image_files import ImageRgb
from segmentation_node.labels import LabelScheme
from segmentation_node.rendering import colorize

Labels = npt.NDArray[np.uint8]
Label = Callable[[ImageRgb], Labels]

#: Marks pixels of other labels in a picture.
_MARK = (255, 0, 255)


@dataclass(frozen=True)
class Agreement:
    """Share of equal labels over all images, and the image with the fewest."""

    share: float
    worst: ImageRgb
    expected: Labels
    found: Labels

    def picture(self, scheme: LabelScheme) -> ImageRgb:
        """The worst image, its labels in PyTorch and exported, and where they differ, 2 x 2."""
        marked = self.worst // 2
        marked[self.expected != self.found] = _MARK
        expected, found = colorize(self.expected, scheme), colorize(self.found, scheme)
        rows = [cv2.hconcat([self.worst, marked]), cv2.hconcat([expected, found])]
        return np.asarray(cv2.vconcat(rows), np.uint8)


def measure(
    images: Sequence[ImageRgb], expected: Sequence[Labels], label: Label, quiet: bool
) -> Agreement:
    """Compare labels.

    Args:
        images: (H, W, 3) uint8 RGB each.
        expected: labels of each by the network, (H, W) uint8.
        label: labels of one image by the exported graph.
        quiet: show no progress bar.
    """
    found = [label(image) for image in tqdm(images, 'comparing', unit='image', disable=quiet)]
    shares = [share(a, b) for a, b in zip(expected, found, strict=True)]
    worst = int(np.argmin(shares))
    return Agreement(float(np.mean(shares)), images[worst], expected[worst], found[worst])


def share(expected: Labels, found: Labels) -> float:
    """Share of equal labels of one image."""
    return float((expected == found).mean())
