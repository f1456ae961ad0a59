# SPDX-License-Identifier: Apache-2.0
"""What can go wrong outside our own code; every message says value, expectation and remedy."""


class SegmentationError(Exception):
    """Base of all errors this package raises for its callers."""


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


class SettingError(SegmentationError):
    """A setting has a value that cannot be used here."""


def one_line(error: Exception) -> str:
    """The beginning of an error's text on one line, for a message that quotes it."""
    return ' '.join(str(error).split())[:300]
