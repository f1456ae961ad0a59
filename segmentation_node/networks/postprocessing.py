# SPDX-License-Identifier: Apache-2.0
"""Label and confidence of every pixel, computed from class scores at the network's resolution.

Bilinear interpolation is a convex combination: if the four scores around a pixel have the same
best class, so does every score between them. Only pixels between scores that disagree, about ten
percent, need interpolation; the rest is copied. The labels equal those of
`SegmentationGraph.choose_class` on the scores of all pixels; on a CPU this is five to ten times
faster.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import BoolArray, Float32Array, UInt8Array
from segmentation_node.errors import ScoresError
from segmentation_node.instances import Instances, Thresholds
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

    @property
    def instances(self) -> Instances | None:
        """Instances with label ids as classes; None if the model does not tell them apart."""
        ...


class Decoder(Protocol):
    """Converts the outputs of a graph to a segmentation."""

    def __call__(
        self, outputs: Sequence[Float32Array], geometry: Geometry, thresholds: Thresholds, /
    ) -> Segmentation:
        """Decode the outputs of one image, each without its batch dimension.

        Raises:
            CheckpointError: the graph has outputs of another kind.
            ScoresError: a score is NaN or infinite.
        """
        ...


@dataclass(frozen=True)
class DeviceSegmentation:
    """Segmentation computed on the device, whose memory is faster than that of the CPU."""

    labels: UInt8Array
    confidence: UInt8Array
    features: Float32Array | None = None
    instances: Instances | None = None


@dataclass(frozen=True)
class ScoresDecoder:
    """Decodes class scores, (C, h, w), and features, (D,), which older graphs lack.

    `channel_ids` are the label ids of the channels, (C,) uint8; `confidence_table` is the
    published confidence of each byte value of a score, (256,) uint8.
    """

    channel_ids: UInt8Array
    confidence_table: UInt8Array

    def __call__(
        self, outputs: Sequence[Float32Array], geometry: Geometry, _thresholds: Thresholds
    ) -> Segmentation:
        scores, *rest = outputs
        # A copy, because the next run of the graph may overwrite its outputs.
        features = rest[0].copy() if rest else None
        return postprocess(scores, geometry, self.channel_ids, self.confidence_table, features)


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
    if stride := grid_stride(scores, geometry):
        return _Cells(scores, geometry.image_hw, stride, channel_ids, confidence_table, features)
    return _Pixels(scores, geometry, channel_ids, confidence_table, features)


def grid_stride(scores: Float32Array, geometry: Geometry) -> int:
    """Return the pixels from one score of (C, h, w) to the next; 0 if `Cells` do not apply."""
    stride = geometry.padded_hw[0] // scores.shape[1]
    on_grid = geometry.padded_hw == (stride * scores.shape[1], stride * scores.shape[2])
    return stride if on_grid and stride > 1 else 0


def enlarge(scores: Float32Array, geometry: Geometry) -> Float32Array:
    """Interpolate scores of the padded image, (h, w), for the pixels of the image, (H, W)."""
    h, w = geometry.image_hw
    return np.asarray(cv2.resize(scores, geometry.padded_hw[::-1])[:h, :w], np.float32)


class _Pixels:
    """Segmentation computed per pixel, for scores at full resolution or off the pixel grid."""

    instances: Instances | None = None

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
            enlarged = np.stack([enlarge(each, geometry) for each in scores])
        channels, self._best = compare(enlarged)
        check_finite(np.isfinite(self._best))
        self.labels = _label_ids(channels, channel_ids)

    @cached_property
    def confidence(self) -> UInt8Array:
        return to_bytes(self._best, self._table)


class _Cells:
    """Segmentation computed per cell, see `Cells`."""

    instances: Instances | None = None

    def __init__(
        self,
        scores: Float32Array,
        image_hw: tuple[int, int],
        stride: int,
        channel_ids: UInt8Array,
        confidence_table: UInt8Array,
        features: Float32Array | None,
    ) -> None:
        self._table, self.features = confidence_table, features
        channels, self._best = compare(scores)
        check_finite(np.isfinite(self._best))  # then the scores between them are finite, too
        self._cells = Cells(channels, image_hw, stride)
        inside, self._inside_best = compare(self._cells.interpolate(scores))
        self.labels = self._cells.fill(
            _label_ids(self._cells.first, channel_ids), _label_ids(inside, channel_ids)
        )

    @cached_property
    def confidence(self) -> UInt8Array:
        return self._cells.confidence(self._best, self._inside_best, self._table)


class Cells:
    """Squares of pixels between four scores, of which most have one best channel.

    There is one score every `stride` pixels. The frame of all cells, (h + 1) x (w + 1), extends
    half a cell beyond the image on each side, where the outermost scores are repeated, as is usual
    in bilinear interpolation of pixels. N cells are mixed: their corners disagree.
    """

    def __init__(self, channels: UInt8Array, image_hw: tuple[int, int], stride: int) -> None:
        """Find the mixed cells, given the best channel of each score, (h, w)."""
        self._image_hw, self._stride = image_hw, stride
        corners = cv2.copyMakeBorder(channels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        #: Channel of the upper left corner of each cell, (h + 1, w + 1).
        self.first = first = np.asarray(corners[:-1, :-1], np.uint8)
        mixed = first != corners[:-1, 1:]
        mixed |= first != corners[1:, :-1]
        mixed |= first != corners[1:, 1:]
        self._mixed = mixed
        # NumPy searches one dimension several times faster than two.
        self._places = np.unravel_index(np.flatnonzero(mixed), mixed.shape)

    def interpolate(self, scores: Float32Array) -> Float32Array:
        """Interpolate the scores of the pixels in mixed cells, (C, stride * stride, N)."""
        count, h, w = scores.shape
        rows, columns = self._places
        above, below = np.maximum(rows - 1, 0) * w, np.minimum(rows, h - 1) * w
        left, right = np.maximum(columns - 1, 0), np.minimum(columns, w - 1)
        corners = np.empty((4, count, len(rows)), np.float32)
        flat = scores.reshape(count, h * w)
        for corner, places in zip(
            corners, (above + left, above + right, below + left, below + right), strict=True
        ):
            np.take(flat, places, axis=1, out=corner, mode='clip')
        # No matrix product: the threads of BLAS would then busy-wait for tens of milliseconds, on
        # cores that the network needs.
        inside: Float32Array = np.einsum('pk,kcn->cpn', _weights(self._stride), corners)
        return inside

    def fill(self, first: UInt8Array, inside: UInt8Array) -> UInt8Array:
        """Return the image, (H, W), of a value per cell, and values in mixed cells, (s * s, N)."""
        return self._fill_mixed(_repeated(first, self._stride), inside)

    def count(self, inside: BoolArray) -> int:
        """Count the pixels of the image in cells of channel 1, and those inside, (s * s, N)."""
        rows, columns = self._in_image()  # (h + 1, s) and (w + 1, s)
        whole = (self.first & ~self._mixed).astype(np.float32)
        uniform = rows.sum(axis=1) @ whole @ columns.sum(axis=1)
        pixels = inside.reshape(self._stride, self._stride, -1)
        mixed = np.einsum(
            'rcn,nr,nc->',
            pixels,
            rows[self._places[0]],
            columns[self._places[1]],
            dtype=np.float32,
        )
        return round(float(uniform) + float(mixed))

    def _in_image(self) -> list[Float32Array]:
        """Return 1 for rows and columns of pixels that are in the image, by cell."""
        stride = self._stride
        margin = stride - stride // 2
        sides = []
        for cells, length in zip(self.first.shape, self._image_hw, strict=True):
            side = np.zeros(cells * stride, np.float32)
            side[margin : margin + length] = 1
            sides.append(side.reshape(cells, stride))
        return sides

    def confidence(
        self, best: Float32Array, inside: Float32Array, table: UInt8Array
    ) -> UInt8Array:
        """Return the confidence, (H, W), of the best scores, (h, w), and those inside."""
        framed = cv2.copyMakeBorder(best, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
        margin = self._stride // 2
        enlarged = cv2.resize(framed, None, fx=self._stride, fy=self._stride)
        # Starts at the center of the first score; the pixel that contains this center is included.
        inner = slice(margin, margin - self._stride)
        frame = np.asarray(enlarged[inner, inner], np.float32)
        return self._fill_mixed(to_bytes(frame, table), to_bytes(inside, table))

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


def compare(scores: Float32Array) -> tuple[UInt8Array, Float32Array]:
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


def to_bytes(scores: Float32Array, table: UInt8Array) -> UInt8Array:
    """Convert scores to bytes, 1 and above to 255, and return their values in a table."""
    if not scores.size:  # OpenCV rejects empty arrays
        return np.empty(scores.shape, np.uint8)
    return np.asarray(cv2.LUT(cv2.convertScaleAbs(scores, alpha=255), table), np.uint8)
