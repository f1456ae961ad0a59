# SPDX-License-Identifier: Apache-2.0
"""From class scores at the network's resolution to a label and a confidence for every pixel.

Bilinear interpolation is a convex combination: where the four scores around a pixel agree on the
class, so does every score between them. Only the pixels between scores that disagree, some ten in
a hundred, need theirs computed; the rest is copied. The labels are those of
`SegmentationGraph.decide` on the scores of all pixels, on a CPU five to ten times as fast.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.errors import ScoresError
from segmentation_node.geometry import Geometry

Scores = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

#: Pixels that are compared at a time; a few classes of them fit into the cache of a core.
_AT_A_TIME = 2**15


class Decision(Protocol):
    """Labels of one image, and how sure they are, which costs nothing unasked.

    It may be asked later and by another thread: it holds no memory of a runtime's.
    """

    @property
    def labels(self) -> Bytes:
        """(H, W) uint8 ids."""
        ...

    @property
    def confidence(self) -> Bytes:
        """(H, W) uint8, 255 is certain."""
        ...


@dataclass(frozen=True)
class Decided:
    """What was decided on a device already, whose memory is the faster one."""

    labels: Bytes
    confidence: Bytes


def decide(scores: Scores, geometry: Geometry, channel_ids: Bytes) -> Decision:
    """Choose the class of every pixel of one image.

    Args:
        scores: (C, h, w) float32 class scores from 0 up, of the padded image.
        geometry: of the image that they are the scores of.
        channel_ids: label id of each channel, (C,) uint8.

    Raises:
        ScoresError: a score is NaN or infinite.
    """
    stride = geometry.padded_hw[0] // scores.shape[1]
    if geometry.padded_hw == (stride * scores.shape[1], stride * scores.shape[2]) and stride > 1:
        return _Cells(scores, geometry.image_hw, stride, channel_ids)
    return _Pixels(scores, geometry, channel_ids)


class _Pixels:
    """Every pixel computed: where scores are as fine as pixels, or lie on no grid of them."""

    def __init__(self, scores: Scores, geometry: Geometry, channel_ids: Bytes) -> None:
        h, w = geometry.image_hw
        if geometry.padded_hw == scores.shape[1:]:
            enlarged = scores[:, :h, :w]
        else:
            size_wh = geometry.padded_hw[::-1]
            enlarged = np.stack([cv2.resize(s, size_wh)[:h, :w] for s in scores])
        channels, self._best = _compare(enlarged)
        check_finite(np.isfinite(self._best))
        self.labels = _looked_up(channels, channel_ids)

    @cached_property
    def confidence(self) -> Bytes:
        return _to_bytes(self._best)


class _Cells:
    """One score every `stride` pixels; a cell is the square between four of them.

    The frame of all cells, (h + 1) x (w + 1), reaches half a cell beyond the image on each side:
    there the outermost scores count on, as in every bilinear interpolation of pixels.
    """

    def __init__(
        self, scores: Scores, image_hw: tuple[int, int], stride: int, channel_ids: Bytes
    ) -> None:
        self._image_hw, self._stride = image_hw, stride
        channels, self._best = _compare(scores)
        check_finite(np.isfinite(self._best))  # so those between them are finite, too
        corners = cv2.copyMakeBorder(channels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        first = np.asarray(corners[:-1, :-1], np.uint8)
        mixed = first != corners[:-1, 1:]
        mixed |= first != corners[1:, :-1]
        mixed |= first != corners[1:, 1:]
        # Found in one dimension, which NumPy does several times as fast as in two.
        self._places = np.unravel_index(np.flatnonzero(mixed), mixed.shape)
        inside, self._inside_best = _compare(self._interpolated(scores))
        self.labels = self._filled(
            _enlarged(_looked_up(first, channel_ids), stride), _looked_up(inside, channel_ids)
        )

    @cached_property
    def confidence(self) -> Bytes:
        best = cv2.copyMakeBorder(self._best, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        margin = self._stride // 2
        enlarged = cv2.resize(best, None, fx=self._stride, fy=self._stride)
        # From the centre of the first score on; where it lies within a pixel that one is in.
        inner = slice(margin, margin - self._stride)
        frame = np.asarray(enlarged[inner, inner], np.float32)
        return self._filled(_to_bytes(frame), _to_bytes(self._inside_best))

    def _interpolated(self, scores: Scores) -> Scores:
        """Scores of the pixels in mixed cells, (C, stride * stride, N)."""
        count, h, w = scores.shape
        rows, columns = self._places
        above, below = np.maximum(rows - 1, 0) * w, np.minimum(rows, h - 1) * w
        left, right = np.maximum(columns - 1, 0), np.minimum(columns, w - 1)
        corners = np.empty((4, count, len(rows)), np.float32)
        flat = scores.reshape(count, -1)
        for corner, places in zip(
            corners, (above + left, above + right, below + left, below + right), strict=True
        ):
            np.take(flat, places, axis=1, out=corner, mode='clip')
        # Not by matrix product: BLAS would do it on threads that then wait for more at full speed
        # for tens of milliseconds, on cores that the network wants.
        inside: Scores = np.einsum('pk,kcn->cpn', _weights(self._stride), corners)
        return inside

    def _filled(self, frame: Bytes, inside: Bytes) -> Bytes:
        """The image's part of a frame of cells whose mixed ones are filled with (s * s, N)."""
        stride, (height, width) = self._stride, self._image_hw
        cells = frame.reshape(frame.shape[0] // stride, stride, -1, stride).swapaxes(1, 2)
        cells[self._places] = inside.T.reshape(-1, stride, stride)
        margin = stride - stride // 2
        return np.ascontiguousarray(frame[margin : margin + height, margin : margin + width])


def _weights(stride: int) -> Scores:
    """Weights of a cell's corners in its pixels, (stride * stride, 4), row by row."""
    # Of an even number of pixels in a row none lies on a score, of an odd number the first does.
    right = (np.arange(stride) + (0.5 if stride % 2 == 0 else 0)) / stride
    rows = np.stack([1 - right, right], axis=1)
    return np.kron(rows, rows).astype(np.float32)


def _compare(scores: Scores) -> tuple[Bytes, Scores]:
    """Channel and score of the best of (C, ...), the first of equals.

    The score is NaN where any of them is.
    """
    shape = scores.shape[1:]
    best, channels = np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    step = max(1, _AT_A_TIME // max(1, best[0].size))
    for start in range(0, len(best), step):
        part = slice(start, start + step)
        best[part] = scores[0, part]
        for channel in range(1, len(scores)):
            # Without a branch: a later channel has the larger number. Assigning where a mask is
            # true takes four times as long.
            better = (scores[channel, part] > best[part]).view(np.uint8)
            better *= np.uint8(channel)
            np.maximum(channels[part], better, out=channels[part])
            np.maximum(best[part], scores[channel, part], out=best[part])
    return channels, best


def check_finite(finite: npt.NDArray[np.bool_]) -> None:
    """Raise ScoresError unless all scores are finite."""
    if not finite.all():
        raise ScoresError(
            'the class scores of a frame are no finite numbers, so that its labels would mean '
            'nothing; choose another precision, or another model'
        )


def _looked_up(channels: Bytes, channel_ids: Bytes) -> Bytes:
    """Label ids of channels, of any shape."""
    return np.take(channel_ids, channels)


def _enlarged(values: Bytes, stride: int) -> Bytes:
    """Every value of (h, w) repeated, (h * stride, w * stride)."""
    return values.repeat(stride, axis=1).repeat(stride, axis=0)


def _to_bytes(scores: Scores) -> Bytes:
    """Scores from 0 up as bytes, 1 and more as 255."""
    if not scores.size:  # nothing that OpenCV would take
        return np.empty(scores.shape, np.uint8)
    return np.asarray(cv2.convertScaleAbs(scores, alpha=255), np.uint8)
