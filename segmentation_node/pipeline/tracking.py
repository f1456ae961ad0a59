# SPDX-License-Identifier: Apache-2.0
"""Ids of instances that stay with their object from frame to frame, by the overlap of masks.

An instance continues the object of its class whose mask it overlaps most, one to one, the largest
overlap first. Above an IoU of 0.5 at most one mask of a frame fits another, so that no other
assignment is better (Kirillov et al., "Panoptic Segmentation", CVPR 2019). Objects that are not
seen for a few frames are compared as they were last seen, those seen last first, as in the cascade
of Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017.
Nothing predicts motion: an object that moves by more than its size between two frames becomes a
new one.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from segmentation_node.arrays import Float64Array, IndexArray, UInt8Array, UInt16Array
from segmentation_node.instances import Instances

#: Minimum IoU of two masks of one object.
MIN_IOU: Final = 0.2
#: Number of frames that an object may be unseen and keep its id.
MAX_UNSEEN: Final = 5
#: Frames that are further apart are not compared. A camera at 1 Hz is below this.
MAX_GAP_NS: Final = 1_500_000_000
#: Largest id in a mask of 16 bits; the next one is 1 again.
MAX_ID: Final = 2**16 - 1


class _Runs(NamedTuple):
    """Flattened image of the numbers of instances, as runs of equal numbers.

    There are some thousands of runs, and half a million pixels.
    """

    starts: IndexArray  # (R,)
    numbers: UInt16Array  # (R,)
    lengths: IndexArray  # (R,)

    @classmethod
    def of(cls, ids: UInt16Array) -> '_Runs':
        flat = ids.ravel()
        starts = np.append(0, np.flatnonzero(flat[1:] != flat[:-1]) + 1)
        return cls(starts, flat[starts], np.diff(starts, append=flat.size))

    def overlaps(self, other: '_Runs', shape: tuple[int, int]) -> Float64Array:
        """Return the number of pixels of each pair of numbers, a joint histogram."""
        # Merges two sorted arrays. Starts of both are there twice, first with a length of 0.
        starts = np.sort(np.append(self.starts, other.starts), kind='stable')
        own, others = (
            each.numbers[np.searchsorted(each.starts, starts, 'right') - 1].astype(np.intp)
            for each in (self, other)
        )
        lengths = np.diff(starts, append=self.starts[-1] + self.lengths[-1])
        pairs = own * shape[1] + others
        return _sums(pairs, lengths, shape[0] * shape[1]).reshape(shape)


class _Frame(NamedTuple):
    """Instances of a frame by their number from 0: N pixels, classes and ids of objects."""

    runs: _Runs
    pixels: Float64Array  # (N,)
    class_ids: UInt8Array  # (N,)
    ids: UInt16Array  # (N,); 0 for an instance without pixels

    @classmethod
    def of(cls, instances: Instances) -> '_Frame':
        runs, count = _Runs.of(instances.ids), len(instances.class_ids)
        pixels = _sums(runs.numbers, runs.lengths, count + 1)[1:]
        return cls(runs, pixels, instances.class_ids, np.zeros(count, np.uint16))

    def first_pixels(self) -> IndexArray:
        """Return the place of the first pixel of each instance, (N,), which tells them apart."""
        first = np.zeros(len(self.ids) + 1, np.intp)
        # Of several values for one place the last one remains.
        first[self.runs.numbers[::-1]] = self.runs.starts[::-1]
        return first[1:]

    def ious(self, other: '_Frame') -> Float64Array:
        """Return the IoU of each pair of instances, 0 for pairs of different classes."""
        shape = (len(self.ids) + 1, len(other.ids) + 1)
        shared = self.runs.overlaps(other.runs, shape)[1:, 1:]
        united = self.pixels[:, None] + other.pixels - shared
        ious = shared / np.maximum(united, 1)
        ious[self.class_ids[:, None] != other.class_ids] = 0
        return ious


class InstanceTracker:
    """Gives the instances of the frames of one camera ids that stay with their objects.

    After a jump of the stamps, a change of the image size or of the model, all objects are new.
    An id is not used again before all others, from 1 to 65,535, have been. Not thread-safe.
    """

    def __init__(self) -> None:
        self._frames: deque[_Frame] = deque(maxlen=MAX_UNSEEN + 1)  # the newest first
        self._stamp_ns = 0
        self._like: object = None
        self._last_id = 0

    def track(self, instances: Instances, stamp_ns: int, model: object = None) -> Instances:
        """Return the instances of the next frame with the ids of their objects.

        The ids do not depend on the order of the instances. Instances without pixels are left out.

        Args:
            instances: of one image; N, the number of `class_ids`, is a few hundred at most.
            stamp_ns: time of the image.
            model: anything equal for images whose instances may be compared.
        """
        like = instances.ids.shape, model
        if like != self._like or not 0 <= stamp_ns - self._stamp_ns <= MAX_GAP_NS:
            self._frames.clear()
        self._like, self._stamp_ns = like, stamp_ns
        frame = _Frame.of(instances)
        first = frame.first_pixels()
        known: set[int] = set()
        for before in self._frames:
            _continue(frame, before, known, first)
            known.update(before.ids.tolist())
        new = np.flatnonzero((frame.ids == 0) & (frame.pixels > 0))
        for place in new[np.argsort(first[new])]:
            frame.ids[place] = self._new_id(known)
        self._frames.appendleft(frame)
        return _with_ids(instances, frame)

    def deferred(
        self, find: Callable[[], Instances | None], stamp_ns: int, model: object = None
    ) -> Callable[[], Instances | None]:
        """Return a function that finds the instances of the next frame and then tracks them.

        It returns None if the model has no instances. Frames for which it is not called count as
        not received.
        """

        def find_tracked() -> Instances | None:
            found = find()
            return None if found is None else self.track(found, stamp_ns, model)

        return find_tracked

    def _new_id(self, known: set[int]) -> int:
        while True:
            self._last_id = self._last_id % MAX_ID + 1
            if self._last_id not in known:
                return self._last_id


def _sums(places: IndexArray | UInt16Array, values: IndexArray, count: int) -> Float64Array:
    """Return the sum of the values of each place from 0, (count,)."""
    return np.bincount(places, values, count).astype(np.float64, copy=False)


def _continue(frame: _Frame, before: _Frame, known: set[int], first: IndexArray) -> None:
    """Set the ids of instances that continue an object that was last seen in a frame before.

    `known` are the ids of the objects that were seen later; `first` tells instances apart whose
    overlap is equal.
    """
    lost = [id_ > 0 and id_ not in known for id_ in before.ids.tolist()]
    pending = (frame.ids == 0) & (frame.pixels > 0)
    if not any(lost) or not pending.any():
        return
    ious = before.ious(frame) * np.outer(lost, pending)
    rows, columns = np.nonzero(ious >= MIN_IOU)
    order = np.lexsort((first[columns], before.ids[rows], -ious[rows, columns]))
    continued = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in continued and not frame.ids[column]:
            frame.ids[column] = before.ids[row]
            continued.add(row)


def _with_ids(instances: Instances, frame: _Frame) -> Instances:
    """Return the instances of a frame with their ids there."""
    table = np.append(np.uint16(0), frame.ids)
    ids = np.repeat(table[frame.runs.numbers], frame.runs.lengths)
    seen = frame.ids > 0
    places = frame.ids[seen].astype(np.intp) - 1
    class_ids = np.zeros(places.max(initial=-1) + 1, np.uint8)
    scores = np.zeros(len(class_ids), np.float32)
    class_ids[places], scores[places] = instances.class_ids[seen], instances.scores[seen]
    return Instances(ids.reshape(instances.ids.shape), class_ids, scores)
