# SPDX-License-Identifier: Apache-2.0
"""A pattern for every class, so that colour is never the only thing that tells them apart."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.images.files import ImageRgb
from segmentation_node.images.rendering import LabelImage, colorize
from segmentation_node.labels import LabelScheme

Mask: TypeAlias = npt.NDArray[np.bool_]
#: Pixels after which a pattern repeats.
PERIOD: Final = 12


def _stroked(at: Callable[[Any, Any], Any]) -> Mask:
    y, x = np.mgrid[:PERIOD, :PERIOD]
    return np.asarray(at(y, x), np.bool_)


#: Where a pattern has ink, (PERIOD, PERIOD). Classes take them in the order of their scheme.
PATTERNS: Final[tuple[Mask, ...]] = (
    np.zeros((PERIOD, PERIOD), np.bool_),  # plain
    _stroked(lambda y, _: y % 6 < 2),  # lines across
    _stroked(lambda y, x: (x + y) % 12 < 3),  # lines rising
    _stroked(lambda y, x: (y - 6) ** 2 + (x - 6) ** 2 < 10),  # dots
    _stroked(lambda y, x: (x - y) % 12 < 3),  # lines falling
    _stroked(lambda _, x: x % 12 < 2),  # lines upright, far apart
    _stroked(lambda y, x: (y % 12 < 2) | (x % 12 < 2)),  # grid
    _stroked(lambda y, x: (y < 6) ^ (x < 6)),  # chessboard
)


def pattern_of(scheme: LabelScheme, class_id: int) -> Mask:
    """The pattern of a class; schemes of many classes repeat them, in other colours."""
    index = [c.id for c in scheme.classes].index(class_id)
    return PATTERNS[index % len(PATTERNS)]


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out on a colour."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def patterned(labels: LabelImage, scheme: LabelScheme) -> ImageRgb:
    """Labels, (H, W) uint8, in colours and patterns, with lines between; (H, W, 3) uint8 RGB."""
    height, width = labels.shape
    picture = colorize(labels, scheme)
    for c in scheme.classes:
        repeats = (-(-height // PERIOD), -(-width // PERIOD))
        inked = np.tile(pattern_of(scheme, c.id), repeats)[:height, :width]
        picture[inked & (labels == c.id)] = ink_on(c.color)
    picture[borders(labels)] = 255
    return picture


def borders(labels: LabelImage) -> Mask:
    """Where a pixel's label differs from its neighbour's to the right or below, (H, W)."""
    edge = np.zeros(labels.shape, np.bool_)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def disagreement(image_rgb: ImageRgb, labels: list[LabelImage]) -> tuple[ImageRgb, float]:
    """Where masks of one image differ: a picture, (H, W, 3) uint8 RGB, and the share of pixels.

    What they agree on is grey; the rest is orange and hatched.
    """
    differs = np.zeros(labels[0].shape, np.bool_)
    for other in labels[1:]:
        differs |= other != labels[0]
    gray = cv2.cvtColor(image_rgb, cv2.COLOR_RGB2GRAY)
    picture = np.asarray(cv2.cvtColor(gray // 2 + 96, cv2.COLOR_GRAY2RGB), np.uint8)
    picture[differs] = (230, 97, 0)
    height, width = gray.shape
    hatched = np.tile(PATTERNS[2], (-(-height // PERIOD), -(-width // PERIOD)))[:height, :width]
    picture[differs & hatched] = 0
    return picture, float(differs.mean())
