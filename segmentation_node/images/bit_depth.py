# SPDX-License-Identifier: Apache-2.0
"""Bit depth of 16-bit images, of which a camera may use fewer bits."""

import logging
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, SettingError

#: All bits, the default.
FULL_BITS: Final = 16
#: No camera that sends 16 bits uses fewer than this.
LEAST_BITS: Final = 8
#: Number of images that are examined before a warning that their values are small.
EXAMINED: Final = 10
#: Bit depths of cameras, besides 16.
_USUAL_BITS: Final = (8, 10, 12, 14)

_log = logging.getLogger(__name__)


class Samples:
    """Scaling of 16-bit images to 8 bits, of which the lowest `bits` bits are significant.

    The number of bits is a setting, because it cannot be derived from an image: a dark image has
    small values, too. A warning is logged once if several images use fewer bits. Use one object
    per camera or run.
    """

    def __init__(self, bits: int = FULL_BITS) -> None:
        if not LEAST_BITS <= bits <= FULL_BITS:
            raise SettingError(
                f'bits per sample are {bits}; expected {LEAST_BITS} to {FULL_BITS}, the number of '
                f'bits that the camera uses'
            )
        self.bits = bits
        self._examined = 0
        self._largest = 0

    def to_bytes(self, pixels: npt.NDArray[Any]) -> UInt8Array:
        """Scale uint16 samples of any shape to uint8; the largest possible value becomes 255.

        8-bit values that were expanded to 16 bits are restored exactly.

        Raises:
            ImageError: a sample exceeds the significant bits.
        """
        most = 2**self.bits - 1
        if self.bits < FULL_BITS and (largest := int(pixels.max())) > most:
            raise ImageError(
                f'a 16-bit image has value {largest}, but bits_per_sample is {self.bits}, whose '
                f'largest value is {most}; set it to {largest.bit_length()} or more'
            )
        if self.bits == FULL_BITS and self._examined < EXAMINED:
            self._examine(int(pixels.max()))
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / most), np.uint8)

    def end(self) -> None:
        """Log the warning if the run ends before enough images were examined."""
        if 0 < self._examined < EXAMINED:
            self._examined = EXAMINED
            self._warn()

    def _examine(self, largest: int) -> None:
        self._examined += 1
        self._largest = max(self._largest, largest)
        if self._examined == EXAMINED:
            self._warn()

    def _warn(self) -> None:
        for bits in _USUAL_BITS:
            if self._largest < 2**bits:
                _log.warning(
                    '16-bit images have no value above %d so far: if the camera uses %d bits, set '
                    'bits_per_sample (--bits-per-sample) to %d; otherwise its images are too dark',
                    self._largest, bits, bits,
                )  # fmt: skip
                return
