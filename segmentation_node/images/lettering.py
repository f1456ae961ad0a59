# SPDX-License-Identifier: Apache-2.0
"""Text on pictures, sized in pixels."""

from typing import Final, TypeAlias

import cv2

from segmentation_node.arrays import UInt8Array

Color: TypeAlias = tuple[int, int, int]

INK: Final[Color] = (28, 32, 38)
GRAY: Final[Color] = (104, 110, 118)
REGULAR: Final = cv2.FONT_HERSHEY_SIMPLEX
BOLD: Final = cv2.FONT_HERSHEY_DUPLEX


def write(
    canvas: UInt8Array,
    at: tuple[int, int],
    text: str,
    capital_px: int,
    color: Color = INK,
    font: int = REGULAR,
) -> int:
    """Write a line of text whose baseline starts at (x, y); return the x where it ends."""
    scale = _scale(capital_px, font)
    cv2.putText(canvas, text, at, font, scale, color, 1, cv2.LINE_AA)
    return at[0] + width(text, capital_px, font)


def width(text: str, capital_px: int, font: int = REGULAR) -> int:
    """Return the width of a line of text in pixels."""
    (width_px, _), _ = cv2.getTextSize(text, font, _scale(capital_px, font), 1)
    return int(width_px)


def shortened(text: str, room_px: int, capital_px: int, font: int = REGULAR) -> str:
    """Return the text, shortened in the middle so that it fits into `room_px`."""
    kept = len(text)
    short = text
    while kept > 1 and width(short, capital_px, font) > room_px:
        kept -= 1
        short = f'{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}'
    return short


def _scale(capital_px: int, font: int) -> float:
    """Return the font scale for a height of capitals; fonts differ between OpenCV versions."""
    (_, height_px), _ = cv2.getTextSize('E', font, 10.0, 1)
    return 10.0 * capital_px / height_px
