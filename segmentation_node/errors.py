# SPDX-License-Identifier: Apache-2.0
"""Errors of the package, and helpers for their messages: value, expectation, remedy."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

#: Maximum length of a message, which may quote input of any length.
MAX_MESSAGE: Final = 1500
_MAX_QUOTED: Final = 80
_MAX_LINE: Final = 300
_MAX_COUNTED: Final = 8


class SegmentationError(Exception):
    """Base of all errors that this package raises for its callers.

    The text has limited length and no control characters, which would affect a terminal.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), MAX_MESSAGE)


class ForeignError(SegmentationError):
    """An untrusted file is invalid or exceeds a limit."""


class SchemeError(SegmentationError):
    """A label scheme is unknown, malformed, or cannot be mapped onto another."""


class CheckpointError(SegmentationError):
    """A checkpoint is missing, damaged, or does not fit its configuration."""


class ImageError(SegmentationError):
    """An image or image message cannot be decoded."""


class CloudError(SegmentationError):
    """A point cloud cannot be decoded, or inputs of a cloud do not fit together."""


class CalibrationError(SegmentationError):
    """A camera calibration is missing or invalid."""


class BagError(SegmentationError):
    """A bag cannot be read or written."""


class DatasetError(SegmentationError):
    """A data set is incomplete or does not match its labels."""


class ExportError(SegmentationError):
    """A model cannot be exported, or its labels would change."""


class ScoresError(SegmentationError):
    """A network returned scores that are not finite."""


class MemoryLimitError(SegmentationError):
    """An image would need more memory than is available."""


class SettingError(SegmentationError):
    """A setting has an invalid or unsupported value."""


def one_line(error: Exception) -> str:
    """Return the beginning of an error's text on one line, to be quoted in a message."""
    return ' '.join(printable(str(error), 2 * _MAX_LINE).split())[:_MAX_LINE]


def quoted(value: object) -> str:
    """Return the repr of a value of any size, shortened to about a line."""
    return _QUOTING.repr(value)


def counted(pixels_of: Mapping[Any, int]) -> str:
    """Return a list of the first values with their numbers of pixels."""
    listed = list(pixels_of.items())[:_MAX_COUNTED]
    text = ', '.join(f'{value} ({count} pixels)' for value, count in listed)
    more = len(pixels_of) - len(listed)
    return f'{text} and {more} more' if more else text


def suggestion(name: str, known: Iterable[str], then: str = '') -> str:
    """Return "did you mean X?", if a known name is similar to `name`, followed by `then`."""
    similar = difflib.get_close_matches(name[:_MAX_QUOTED], known, 1)
    return ' '.join([f'did you mean {each}?' for each in similar] + [then] * bool(then))


def printable(text: str, max_chars: int = _MAX_QUOTED) -> str:
    """Return text without control characters except newline and tab; long text is cut inside."""
    if len(text) > max_chars:
        text = f'{text[: 2 * max_chars // 3]} ... {text[-(max_chars // 3) :]}'
    return ''.join(
        c if c.isprintable() or c in '\n\t' else '\N{REPLACEMENT CHARACTER}' for c in text
    )


_QUOTING: Final = reprlib.Repr()
_QUOTING.maxstring = _QUOTING.maxother = _QUOTING.maxlong = _MAX_QUOTED
