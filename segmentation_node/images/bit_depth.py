# SPDX-License-Identifier: Apache-2.0
"""Images of 16 bits per sample, of which a camera may use fewer."""

import logging
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.errors import ImageError, SettingError

#: All bits, as the encodings say.
FULL_BITS: Final = 16
#: No camera that writes 16 bits has fewer than this; more than 8 is why it does.
LEAST_BITS: Final = 8
#: Images that are looked at before their values are said to be small.
WATCHED: Final = 10
#: Widths that cameras have, beside the full one.
_USUAL_BITS: Final = (8, 10, 12, 14)

_log = logging.getLogger(__name__)


class Samples:
    """Scales images of 16 bits to 8 by the bits that are significant, the lowest `bits` of them.

    The values of one image do not prove how many a camera has: a dark image has small values, too.
    So that is said, not guessed; the log tells once where no value of several images needs them
    all. One object serves the images of one camera or one run.
    """

    def __init__(self, bits: int = FULL_BITS) -> None:
        if not LEAST_BITS <= bits <= FULL_BITS:
            raise SettingError(
                f'bits per sample are {bits}; expected {LEAST_BITS} to {FULL_BITS}, how many the '
                f'camera uses of 16'
            )
        self.bits = bits
        self._watched = 0
        self._largest = 0

    def to_bytes(self, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Scale uint16 samples of any shape to uint8, so that the largest possible one is 255.

        Every 8-bit value that was widened to 16 bits comes back exactly.

        Raises:
            ImageError: a sample has more bits than were said to be significant.
        """
        most = 2**self.bits - 1
        if self.bits < FULL_BITS and (largest := int(pixels.max())) > most:
            raise ImageError(
                f'an image of 16 bits per sample has value {largest}, but its bits_per_sample are '
                f'{self.bits}, which end at {most}; set it to {largest.bit_length()} or more'
            )
        if self.bits == FULL_BITS and self._watched < WATCHED:
            self._watch(int(pixels.max()))
        return np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / most), np.uint8)

    def end(self) -> None:
        """Tell of small values where fewer images came than are watched."""
        if 0 < self._watched < WATCHED:
            self._watched = WATCHED
            self._tell()

    def _watch(self, largest: int) -> None:
        self._watched += 1
        self._largest = max(self._largest, largest)
        if self._watched == WATCHED:
            self._tell()

    def _tell(self) -> None:
        for bits in _USUAL_BITS:
            if self._largest < 2**bits:
                _log.warning(
                    'images of 16 bits per sample have no value above %d so far: if the camera '
                    'uses %d bits, set bits_per_sample (--bits-per-sample) to %d, since otherwise '
                    'its images are taken for dark ones',
                    self._largest, bits, bits,
                )  # fmt: skip
                return
