# SPDX-License-Identifier: Apache-2.0
"""Label and confidence of every pixel, computed from class scores at the network's resolution.

Bilinear interpolation is a convex combination: if the four scores around a pixel have the same
best class, so does every score between them. Only pixels between scores that disagree, about ten
percent, need interpolation; the rest is copied. The labels equal those of
`SegmentationGraph.choose_class` on the scores of all pixels; on a CPU this is five to ten times
faster.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.errors import ScoresError
from segmentation_node.networks.preprocessing import Geometry

#: Number of pixels compared per step; the scores of a few classes fit into the cache of one core.
_CHUNK_PIXELS = 2**15


class Segmentation(Protocol):
    """Labels of one image, and their confidence, which is computed on first access.

    Both may be read later and from another thread: no memory of the runtime is referenced.
    """

    @property
    def labels(self) -> UInt8Array:
        """Label ids, (H, W) uint8."""
        ...

    @property
    def confidence(self) -> UInt8Array:
        """Confidence, (H, W) uint8; 255 is certain."""
        ...

    @property
    def features(self) -> Float32Array | None:
        """Features of the image, (D,) float32; None if the graph does not return them."""
        ...


@dataclass(frozen=True)
class DeviceSegmentation:
    """Segmentation computed on the device, whose memory is faster than that of the CPU."""

    labels: UInt8Array
    confidence: UInt8Array
    features: Float32Array | None = None


def postprocess(
    scores: Float32Array,
    geometry: Geometry,
    channel_ids: UInt8Array,
    confidence_table: UInt8Array,
    features: Float32Array | None = None,
) -> Segmentation:
    """Choose the class of every pixel of one image.

    Args:
        scores: (C, h, w) float32 class scores of the padded image, 0 or greater.
        geometry: geometry of the image that the scores belong to.
        channel_ids: label id of each channel, (C,) uint8.
        confidence_table: published confidence of each byte value of a score, (256,) uint8.
        features: features of the image, (D,) float32, passed on; None if there are none.

    Raises:
        ScoresError: a score is NaN or infinite.
    """
    stride = geometry.padded_hw[0] // scores.shape[1]
    if geometry.padded_hw == (stride * scores.shape[1], stride * scores.shape[2]) and stride > 1:
        return _Cells(scores, geometry.image_hw, stride, channel_ids, confidence_table, features)
    return _Pixels(scores, geometry, channel_ids, confidence_table, features)


class _Pixels:
    """Segmentation computed per pixel, for scores at full resolution or off the pixel grid."""

    def __init__(
        self,
        scores: Float32Array,
        geometry: Geometry,
        channel_ids: UInt8Array,
        confidence_table: UInt8Array,
        features: Float32Array | None,
    ) -> None:
        self._table, self.features = confidence_table, features
        h, w = geometry.image_hw
        if geometry.padded_hw == scores.shape[1:]:
            enlarged = scores[:, :h, :w]
        else:
            size_wh = geometry.padded_hw[::-1]
            enlarged = np.stack([cv2.resize(s, size_wh)[:h, :w] for s in scores])
        channels, self._best = _compare(enlarged)
        check_finite(np.isfinite(self._best))
        self.labels = _label_ids(channels, channel_ids)

    @cached_property
    def confidence(self) -> UInt8Array:
        return _to_bytes(self._best, self._table)


class _Cells:
    """Segmentation computed per cell; a cell is the square of pixels between four scores.

    There is one score every `stride` pixels. The frame of all cells, (h + 1) x (w + 1), extends
    half a cell beyond the image on each side, where the outermost scores are repeated, as is usual
    in bilinear interpolation of pixels.
    """

    def __init__(
        self,
        scores: Float32Array,
        image_hw: tuple[int, int],
        stride: int,
        channel_ids: UInt8Array,
        confidence_table: UInt8Array,
        features: Float32Array | None,
    ) -> None:
        self._image_hw, self._stride = image_hw, stride
        self._table, self.features = confidence_table, features
        channels, self._best = _compare(scores)
        check_finite(np.isfinite(self._best))  # then the scores between them are finite, too
        corners = cv2.copyMakeBorder(channels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        first = np.asarray(corners[:-1, :-1], np.uint8)
        mixed = first != corners[:-1, 1:]
        mixed |= first != corners[1:, :-1]
        mixed |= first != corners[1:, 1:]
        # NumPy searches one dimension several times faster than two.
        self._places = np.unravel_index(np.flatnonzero(mixed), mixed.shape)
        inside, self._inside_best = _compare(self._interpolate(scores))
        self.labels = self._fill_mixed(
            _repeated(_label_ids(first, channel_ids), stride), _label_ids(inside, channel_ids)
        )

    @cached_property
    def confidence(self) -> UInt8Array:
        best = cv2.copyMakeBorder(self._best, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        margin = self._stride // 2
        enlarged = cv2.resize(best, None, fx=self._stride, fy=self._stride)
        # Starts at the center of the first score; the pixel that contains this center is included.
        inner = slice(margin, margin - self._stride)
        frame = np.asarray(enlarged[inner, inner], np.float32)
        return self._fill_mixed(
            _to_bytes(frame, self._table), _to_bytes(self._inside_best, self._table)
        )

    def _interpolate(self, scores: Float32Array) -> Float32Array:
        """Interpolate the scores of the pixels in mixed cells, (C, stride * stride, N)."""
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
        # No matrix product: the threads of BLAS would then busy-wait for tens of milliseconds, on
        # cores that the network needs.
        inside: Float32Array = np.einsum('pk,kcn->cpn', _weights(self._stride), corners)
        return inside

    def _fill_mixed(self, frame: UInt8Array, inside: UInt8Array) -> UInt8Array:
        """Fill the mixed cells of a frame with (s * s, N) values and crop it to the image."""
        stride, (height, width) = self._stride, self._image_hw
        cells = frame.reshape(frame.shape[0] // stride, stride, -1, stride).swapaxes(1, 2)
        cells[self._places] = inside.T.reshape(-1, stride, stride)
        margin = stride - stride // 2
        return np.ascontiguousarray(frame[margin : margin + height, margin : margin + width])


def _weights(stride: int) -> Float32Array:
    """Return the weights of a cell's corners in its pixels, row by row, (stride * stride, 4)."""
    # With an even stride no pixel lies on a score; with an odd stride the first one does.
    right = (np.arange(stride) + (0.5 if stride % 2 == 0 else 0)) / stride
    rows = np.stack([1 - right, right], axis=1)
    return np.kron(rows, rows).astype(np.float32)


def _compare(scores: Float32Array) -> tuple[UInt8Array, Float32Array]:
    """Return the channel and the score of the best class of (C, ...); ties go to the first.

    The score is NaN wherever a score of any class is NaN.
    """
    shape = scores.shape[1:]
    best, channels = np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    step = max(1, _CHUNK_PIXELS // max(1, best[0].size))
    for start in range(0, len(best), step):
        part = slice(start, start + step)
        best[part] = scores[0, part]
        for channel in range(1, len(scores)):
            # Branch-free, because a later channel has a larger number. Assignment through a
            # boolean mask takes four times as long.
            better = (scores[channel, part] > best[part]).view(np.uint8)
            better *= np.uint8(channel)
            np.maximum(channels[part], better, out=channels[part])
            np.maximum(best[part], scores[channel, part], out=best[part])
    return channels, best


def check_finite(finite: npt.NDArray[np.bool_]) -> None:
    """Raise ScoresError unless all scores are finite."""
    if not finite.all():
        raise ScoresError(
            'the class scores of a frame are not finite, so its labels would be meaningless; '
            'choose another precision or another model'
        )


def _label_ids(channels: UInt8Array, channel_ids: UInt8Array) -> UInt8Array:
    """Map channels, of any shape, to label ids."""
    return np.take(channel_ids, channels)


def _repeated(values: UInt8Array, stride: int) -> UInt8Array:
    """Repeat every value of (h, w), giving (h * stride, w * stride)."""
    return values.repeat(stride, axis=1).repeat(stride, axis=0)


def _to_bytes(scores: Float32Array, table: UInt8Array) -> UInt8Array:
    """Convert scores to bytes, 1 and above to 255, and return their values in a table."""
    if not scores.size:  # OpenCV rejects empty arrays
        return np.empty(scores.shape, np.uint8)
    return np.asarray(cv2.LUT(cv2.convertScaleAbs(scores, alpha=255), table), np.uint8)
