# SPDX-License-Identifier: Apache-2.0
"""Patterns of the classes, so that they can be told apart without color."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.rendering import colorize
from segmentation_node.labels import LabelScheme

PixelMask: TypeAlias = npt.NDArray[np.bool_]
#: Size of the repeated tile in pixels.
PERIOD: Final = 12


def _pattern(at: Callable[[Any, Any], Any]) -> PixelMask:
    y, x = np.mgrid[:PERIOD, :PERIOD]
    return np.asarray(at(y, x), np.bool_)


#: Inked pixels of each pattern, (PERIOD, PERIOD), assigned to classes in the order of the scheme.
PATTERNS: Final[tuple[PixelMask, ...]] = (
    np.zeros((PERIOD, PERIOD), np.bool_),  # plain
    _pattern(lambda y, _: y % 6 < 2),  # horizontal lines
    _pattern(lambda y, x: (x + y) % 12 < 3),  # rising lines
    _pattern(lambda y, x: (y - 6) ** 2 + (x - 6) ** 2 < 10),  # dots
    _pattern(lambda y, x: (x - y) % 12 < 3),  # falling lines
    _pattern(lambda _, x: x % 12 < 2),  # vertical lines
    _pattern(lambda y, x: (y % 12 < 2) | (x % 12 < 2)),  # grid
    _pattern(lambda y, x: (y < 6) ^ (x < 6)),  # checkerboard
)


def pattern_of(scheme: LabelScheme, class_id: int) -> PixelMask:
    """Return the pattern of a class; schemes with many classes repeat patterns in other colors."""
    index = [c.id for c in scheme.classes].index(class_id)
    return PATTERNS[index % len(PATTERNS)]


def ink_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return black or white, the one with more contrast to a color."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else (255, 255, 255)


def patterned(labels: UInt8Array, scheme: LabelScheme) -> UInt8Array:
    """Draw labels, (H, W) uint8, with colors, patterns and borders; (H, W, 3) uint8 RGB."""
    height, width = labels.shape
    picture = colorize(labels, scheme)
    for c in scheme.classes:
        repeats = (-(-height // PERIOD), -(-width // PERIOD))
        inked = np.tile(pattern_of(scheme, c.id), repeats)[:height, :width]
        picture[inked & (labels == c.id)] = ink_on(c.color)
    picture[borders(labels)] = 255
    return picture


def borders(labels: UInt8Array) -> PixelMask:
    """Return the pixels whose label differs from the pixel to the right or below, (H, W) bool."""
    edge = np.zeros(labels.shape, np.bool_)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def disagreement(image_rgb: UInt8Array, labels: list[UInt8Array]) -> tuple[UInt8Array, float]:
    """Draw the pixels on which masks of one image differ, and return their share.

    The picture, (H, W, 3) uint8 RGB, is gray where all agree, orange and hatched elsewhere.
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
