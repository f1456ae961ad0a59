# SPDX-License-Identifier: Apache-2.0
"""Labels and instances of an image from the queries of a mask classification network.

Each query has a class and a mask. Segments are merged as transformers merges them, in
`Mask2FormerImageProcessor`, after Cheng et al., "Per-Pixel Classification is Not All You Need
for Semantic Segmentation", NeurIPS 2021:

- panoptic: a pixel belongs to the query with the largest product of score and mask. A segment is
  dropped if better ones take too much of its mask. Segments of a class that is not countable are
  one.
- instance: a query's score is that of its class times the mean of its mask. A pixel belongs to the
  query with the best score whose mask contains it.

Masks are compared at the resolution of the network, and interpolated only between pixels that
belong to different queries, see `postprocessing.Cells`. The library enlarges all of them, in two
steps: to 384 x 384 pixels, whatever the size of the image, then to that size, which for instances
repeats pixels. At 384 x 384 the results are equal; at other sizes edges differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple, TypeAlias

import cv2
import numpy as np

from segmentation_node.arrays import BoolArray, Float32Array, IndexArray, UInt8Array
from segmentation_node.errors import CheckpointError
from segmentation_node.instances import PANOPTIC, Instances, Thresholds
from segmentation_node.networks.postprocessing import (
    Cells,
    Segmentation,
    check_finite,
    compare,
    enlarge,
    grid_stride,
    to_bytes,
)
from segmentation_node.networks.preprocessing import Geometry

#: Outputs of a graph: class logits (Q, C + 1), mask logits (Q, h, w), features (D,).
OUTPUTS: Final = 3
#: Maximum number of queries that take part, those with the best scores: a number in 8 bits each,
#: beside 0, the number of pixels without a query.
MAX_QUERIES: Final = 255
#: Factor by which masks are enlarged to be scored: the usual stride of a network.
_FINER: Final = 4
#: A pixel is in a mask from this value on.
_MASK_SHARE: Final = 0.5


class _Queries(NamedTuple):
    """Queries that take part, by descending score: K mask logits, scores and channels."""

    logits: Float32Array  # (K, h, w)
    scores: Float32Array  # (K,)
    channels: UInt8Array  # (K,)


#: Converts mask logits (K, ...) and scores (K,) to the values that are compared, behind a value of
#: 0 for no query: (K + 1, ...).
_Weigh: TypeAlias = Callable[[Float32Array, Float32Array], Float32Array]


@dataclass(frozen=True)
class QueriesDecoder:
    """Decodes the queries of a panoptic model, or of a model of instances.

    `channel_ids` are the label ids of the channels, (C,) uint8, and `countable` tells which of
    them have instances, (C,) bool. `confidence_table` is as for class scores.
    """

    task: str
    channel_ids: UInt8Array
    countable: BoolArray
    void_id: int
    confidence_table: UInt8Array

    def __call__(
        self, outputs: Sequence[Float32Array], geometry: Geometry, thresholds: Thresholds
    ) -> Segmentation:
        if [output.ndim for output in outputs] != [2, 3, 1]:
            raise CheckpointError(
                f'the graph has outputs of shape {[output.shape for output in outputs]}, expected '
                f'the queries of a {self.task} model; export it again'
            )
        class_logits, mask_logits, features = outputs
        check_finite(np.isfinite(class_logits))
        if self.task == PANOPTIC:
            queries = _best_classes(class_logits, mask_logits, thresholds.score)
            weigh = _weigh_probabilities
        else:
            queries = _objects(class_logits, mask_logits, geometry, thresholds.score)
            weigh = _weigh_masks
        if stride := grid_stride(mask_logits, geometry):
            winners: _Winners = _CellWinners(queries, weigh, geometry, stride)
        else:
            winners = _PixelWinners(queries, weigh, geometry)
        return _Merged(self, queries, winners, thresholds.overlap, features.copy())


def _best_classes(
    class_logits: Float32Array, mask_logits: Float32Array, min_score: float
) -> _Queries:
    """Return the queries whose best class is an object with a score above the minimum."""
    shares = _softmax(class_logits)
    channels = shares.argmax(axis=1)
    scores = shares.max(axis=1)
    real = (channels < shares.shape[1] - 1) & (scores > min_score)
    return _picked(np.flatnonzero(real), mask_logits, scores, channels)


def _objects(
    class_logits: Float32Array,
    mask_logits: Float32Array,
    geometry: Geometry,
    min_score: float,
) -> _Queries:
    """Return the queries whose score, that of class and mask, is at least the minimum."""
    shares = _softmax(class_logits)[:, :-1]
    channels, scores = shares.argmax(axis=1), shares.max(axis=1)
    # Without the padding of the image.
    sides = zip(mask_logits.shape[1:], geometry.image_hw, geometry.padded_hw, strict=True)
    rows, columns = (slice(-(-side * image // padded)) for side, image, padded in sides)
    places = np.flatnonzero(scores >= min_score)  # the score of a mask is at most 1
    for place in places:
        scores[place] *= _mask_score(mask_logits[place, rows, columns])
    places = places[(scores[places] >= min_score) & (scores[places] > 0)]
    return _picked(places, mask_logits, scores, channels)


def _mask_score(logits: Float32Array) -> float:
    """Return the mean probability inside a mask, given its logits (h, w); 0 if it is empty."""
    x, y, width, height = cv2.boundingRect((logits > 0).view(np.uint8))
    if not width:
        return 0.0
    part = logits[max(y - 1, 0) : y + height + 1, max(x - 1, 0) : x + width + 1]
    finer = np.asarray(cv2.resize(part, None, fx=_FINER, fy=_FINER), np.float32)
    inside = finer[finer > 0]
    return float(_sigmoid(inside).mean()) if inside.size else 0.0


def _picked(
    places: IndexArray,
    mask_logits: Float32Array,
    scores: Float32Array,
    channels: IndexArray,
) -> _Queries:
    order = places[np.argsort(-scores[places], kind='stable')][:MAX_QUERIES]
    return _Queries(mask_logits[order], scores[order], channels[order].astype(np.uint8))


def _weigh_probabilities(logits: Float32Array, scores: Float32Array) -> Float32Array:
    """Return mask probabilities times scores."""
    values = np.zeros((len(logits) + 1, *logits.shape[1:]), np.float32)
    if len(logits):
        _sigmoid(logits, values[1:])
        values[1:] *= _per_query(scores, logits)
    return values


def _weigh_masks(logits: Float32Array, scores: Float32Array) -> Float32Array:
    """Return the scores where the masks are, and 0 elsewhere."""
    values = np.zeros((len(logits) + 1, *logits.shape[1:]), np.float32)
    np.multiply(logits > 0, _per_query(scores, logits), out=values[1:])
    return values


def _per_query(scores: Float32Array, logits: Float32Array) -> Float32Array:
    return scores.reshape(-1, *(1,) * (logits.ndim - 1))


def _sigmoid(logits: Float32Array, out: Float32Array | None = None) -> Float32Array:
    out = np.empty_like(logits) if out is None else out
    np.negative(logits, out=out)
    with np.errstate(over='ignore'):  # its reciprocal is then 0
        np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)


def _softmax(logits: Float32Array) -> Float32Array:
    """Return shares that sum to 1 along the last axis."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares: Float32Array = exponents / exponents.sum(axis=-1, keepdims=True)
    return shares


class _CellWinners:
    """Best query of each pixel, computed per cell."""

    def __init__(self, queries: _Queries, weigh: _Weigh, geometry: Geometry, stride: int) -> None:
        """Compare the masks; raises ScoresError if a value is not finite."""
        self._queries, self._image_hw, self._stride = queries, geometry.image_hw, stride
        winners, self._best = compare(weigh(queries.logits, queries.scores))
        check_finite(np.isfinite(self._best))
        self._cells = cells = Cells(winners, geometry.image_hw, stride)
        inside, self._inside_best = compare(
            weigh(cells.interpolate(queries.logits), queries.scores)
        )
        #: Number of the query of each pixel from 1, 0 for none, (H, W) uint8.
        self.numbers = cells.fill(cells.first, inside)

    def mask_sizes(self) -> list[int]:
        """Return the pixels of each mask, whether another one wins there or not."""
        sizes = []
        for logits, level in zip(self._queries.logits, _levels(self._queries), strict=True):
            cells = Cells((logits >= level).view(np.uint8), self._image_hw, self._stride)
            sizes.append(cells.count(cells.interpolate(logits[None])[0] >= level))
        return sizes

    def confidence(self, table: UInt8Array) -> UInt8Array:
        """Return the confidence, (H, W)."""
        return self._cells.confidence(self._best, self._inside_best, table)


class _PixelWinners:
    """Best query of each pixel, computed per pixel."""

    def __init__(self, queries: _Queries, weigh: _Weigh, geometry: Geometry) -> None:
        """Compare the masks; raises ScoresError if a value is not finite."""
        self._logits = np.empty((len(queries.logits), *geometry.image_hw), np.float32)
        for logits, enlarged in zip(queries.logits, self._logits, strict=True):
            enlarged[:] = enlarge(logits, geometry)
        self._queries = queries
        self.numbers, self._best = compare(weigh(self._logits, queries.scores))
        check_finite(np.isfinite(self._best))

    def mask_sizes(self) -> list[int]:
        """Return the pixels of each mask, whether another one wins there or not."""
        pairs = zip(self._logits, _levels(self._queries), strict=True)
        return [int(np.count_nonzero(logits >= level)) for logits, level in pairs]

    def confidence(self, table: UInt8Array) -> UInt8Array:
        """Return the confidence, (H, W)."""
        return to_bytes(self._best, table)


_Winners = _CellWinners | _PixelWinners


def _levels(queries: _Queries) -> Float32Array:
    """Return the logit from which a mask probability times the score is in the mask, (K,)."""
    with np.errstate(divide='ignore'):
        levels: Float32Array = -np.log(np.maximum(queries.scores / _MASK_SHARE - 1, 0))
    return levels


class _Merged:
    """Segmentation by merged queries; instances are computed on first access."""

    def __init__(
        self,
        decoder: QueriesDecoder,
        queries: _Queries,
        winners: _Winners,
        min_overlap: float,
        features: Float32Array,
    ) -> None:
        self._decoder, self._winners, self.features = decoder, winners, features
        self._channels, self._scores = queries.channels, queries.scores
        self._kept = np.ones(len(queries.scores), np.bool_)
        if decoder.task == PANOPTIC:
            self._kept = _mostly_visible(winners, min_overlap)
        table = np.full(256, decoder.void_id, np.uint8)
        table[1 : len(self._kept) + 1][self._kept] = self._class_ids(self._kept)
        self.labels = np.asarray(cv2.LUT(winners.numbers, table), np.uint8)

    def _class_ids(self, chosen: BoolArray) -> UInt8Array:
        return self._decoder.channel_ids[self._channels[chosen]]

    @cached_property
    def confidence(self) -> UInt8Array:
        return self._winners.confidence(self._decoder.confidence_table)

    @cached_property
    def instances(self) -> Instances:
        counted = self._kept & self._decoder.countable[self._channels]
        table = np.zeros(256, np.uint16)
        table[1 : len(counted) + 1][counted] = np.arange(1, counted.sum() + 1)
        ids = np.asarray(cv2.LUT(self._winners.numbers, table), np.uint16)
        return Instances(ids, self._class_ids(counted), self._scores[counted])


def _mostly_visible(winners: _Winners, min_overlap: float) -> BoolArray:
    """Return which queries win more than the minimum share of their masks, (K,)."""
    masks = np.array(winners.mask_sizes(), np.int64)
    pixels = cv2.calcHist([winners.numbers], [0], None, [256], [0, 256]).ravel()
    pixels = pixels[1 : len(masks) + 1]
    mostly: BoolArray = (masks > 0) & (pixels > min_overlap * masks)
    return mostly
