# SPDX-License-Identifier: Apache-2.0
"""Quality of an exported graph: its labels against those of PyTorch and against ground truth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.rendering import colorize
from segmentation_node.labels import LabelScheme
from segmentation_node.metrics import Confusion, Target

Labels = UInt8Array
#: (H, W, 3) uint8 RGB to (H, W) uint8 label ids.
Label = Callable[[UInt8Array], Labels]

#: Color that marks pixels with different labels.
_MARK = (255, 0, 255)


@dataclass(frozen=True)
class Judgment:
    """Evaluation of a graph: share of labels equal to PyTorch's, mean IoU, and the worst image.

    `miou` is NaN without truth.
    """

    agreement: float
    miou: float
    worst: UInt8Array
    expected: Labels
    found: Labels

    def picture(self, scheme: LabelScheme) -> UInt8Array:
        """Draw a 2 x 2 grid: the worst image, its differing pixels, and both label images."""
        marked = self.worst // 2
        marked[self.expected != self.found] = _MARK
        expected, found = colorize(self.expected, scheme), colorize(self.found, scheme)
        rows = [cv2.hconcat([self.worst, marked]), cv2.hconcat([expected, found])]
        return np.asarray(cv2.vconcat(rows), np.uint8)


@dataclass(frozen=True)
class Judge:
    """Evaluation images with their labels by PyTorch in fp32, and optionally with ground truth.

    `images` are (H, W, 3) uint8 RGB, `expected` (H, W) uint8 ids of `scheme`, `truth` (H, W)
    int16 ids of the same scheme, UNCOUNTED where a pixel does not count.
    """

    scheme: LabelScheme
    images: Sequence[UInt8Array]
    expected: Sequence[Labels]
    truth: Sequence[Target] = ()

    def judge(self, label: Label, title: str, quiet: bool) -> Judgment:
        """Label all images and compare; `title` names the progress bar."""
        labels = [label(image) for image in tqdm(self.images, title, unit='image', disable=quiet)]
        shares = [share(a, b) for a, b in zip(self.expected, labels, strict=True)]
        worst = int(np.argmin(shares))
        return Judgment(
            float(np.mean(shares)), self.miou(labels),
            self.images[worst], self.expected[worst], labels[worst],
        )  # fmt: skip

    def miou(self, labels: Sequence[Labels]) -> float:
        """Return the mean IoU of the labels of all images; NaN without truth."""
        if not self.truth:
            return math.nan
        confusion = Confusion()
        for target, predicted in zip(self.truth, labels, strict=True):
            confusion.add_target(target, predicted)
        return float(confusion.scores(self.scheme).miou())


def share(expected: Labels, found: Labels) -> float:
    """Return the share of equal labels in one image."""
    return float((expected == found).mean())
