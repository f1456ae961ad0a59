# SPDX-License-Identifier: Apache-2.0
"""What can go wrong outside our own code; every message says value, expectation and remedy."""

import reprlib
from collections.abc import Mapping
from typing import Any, Final

#: Characters of a message; what others wrote, and a message quotes, may be of any length.
MAX_MESSAGE: Final = 1500
_MAX_QUOTED: Final = 80
_MAX_LINE: Final = 300
_MAX_COUNTED: Final = 8


class SegmentationError(Exception):
    """Base of all errors this package raises for its callers.

    The text has no control characters, which a terminal would obey, and an end.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_MESSAGE)


class ForeignError(SegmentationError):
    """A file that others wrote is not what it should be, or beyond all bounds."""


class SchemeError(SegmentationError):
    """A label scheme is unknown, malformed, or cannot be mapped onto another."""


class CheckpointError(SegmentationError):
    """A checkpoint is missing, damaged, or does not fit its configuration."""


class ImageError(SegmentationError):
    """An image or image message cannot be decoded."""


class BagError(SegmentationError):
    """A bag cannot be read or written."""


class DatasetError(SegmentationError):
    """A data set on disk is incomplete or contradicts its labels."""


class ExportError(SegmentationError):
    """A model cannot be exported, or would not label as it does now."""


class ScoresError(SegmentationError):
    """A network gave scores that say nothing."""


class RoomError(SegmentationError):
    """An image would take more memory than there is."""


class SettingError(SegmentationError):
    """A setting has a value that cannot be used here."""


def one_line(error: Exception) -> str:
    """The beginning of an error's text on one line, for a message that quotes it."""
    return ' '.join(printable(str(error), 2 * _MAX_LINE).split())[:_MAX_LINE]


def quoted(value: object) -> str:
    """A value as Python writes it, of any size, in at most about a line."""
    return _QUOTING.repr(value)


def counted(pixels_of: Mapping[Any, int]) -> str:
    """Return values with their numbers of pixels, the first few of any number of them."""
    some = list(pixels_of.items())[:_MAX_COUNTED]
    text = ', '.join(f'{value} ({count} pixels)' for value, count in some)
    more = len(pixels_of) - len(some)
    return f'{text} and {more} more' if more else text


def printable(text: str, most: int = _MAX_QUOTED) -> str:
    """Text without control characters but line ends and tabs, its middle left out if too long."""
    if len(text) > most:
        text = f'{text[: 2 * most // 3]} ... {text[-(most // 3) :]}'
    return ''.join(
        c if c.isprintable() or c in '\n\t' else '\N{REPLACEMENT CHARACTER}' for c in text
    )


_QUOTING: Final = reprlib.Repr()
_QUOTING.maxstring = _QUOTING.maxother = _QUOTING.maxlong = _MAX_QUOTED
