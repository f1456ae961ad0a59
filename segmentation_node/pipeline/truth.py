# SPDX-License-Identifier: Apache-2.0
"""Masks of one camera and their truth, matched by stamps and scored."""

from collections import OrderedDict, deque
from typing import Any, Final, NamedTuple

from segmentation_node.arrays import UInt8Array
from segmentation_node.labels import LabelScheme, described_scheme
from segmentation_node.metrics import Confusion, ConfusionWindow
from segmentation_node.pipeline.frames import FRAME_ERRORS
from segmentation_node.scoring import LabelComparison

#: Limits of each queue, in frames and in bytes.
MAX_WAITING: Final = 64
MAX_WAITING_BYTES: Final = 2**26


class ScoredModel(NamedTuple):
    """Model of a mask; scores of different models are not mixed."""

    name: str
    scheme: LabelScheme


class ScoredMask(NamedTuple):
    """Label ids of a mask, (H, W) uint8, with their model."""

    labels: UInt8Array
    model: ScoredModel


class ScoredPair(NamedTuple):
    """A mask and its truth, (H, W) uint8."""

    stamp_ns: int
    mask: ScoredMask
    truth: UInt8Array


class _Waiting(OrderedDict[int, Any]):
    """Bounded queue of the frames of one side, by stamp; `dropped` counts those without match."""

    def __init__(self) -> None:
        super().__init__()
        self.received = 0
        self.dropped = 0
        self.repeated = 0
        self._bytes = 0
        self._last_ns: int | None = None

    def accept(self, stamp_ns: int) -> bool:
        """Count a frame and return whether its stamp identifies it."""
        self.received += 1
        repeats = stamp_ns in (0, self._last_ns)
        self._last_ns = stamp_ns
        self.dropped += repeats
        self.repeated += repeats
        return not repeats

    def put(self, stamp_ns: int, item: Any, size: int) -> None:
        """Add a frame; the oldest leave a full queue, and so does one of the same stamp."""
        if stamp_ns in self:
            self.take(stamp_ns)
            self.dropped += 1
        self[stamp_ns] = (item, size)
        self._bytes += size
        while len(self) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            self.take(next(iter(self)))
            self.dropped += 1

    def take(self, stamp_ns: int) -> Any:
        """Remove and return the frame of a stamp; None if it does not wait."""
        item, size = self.pop(stamp_ns, (None, 0))
        self._bytes -= size
        return item


class TruthMatching:
    """Matches masks and truth of the same stamp, whichever comes first; not thread-safe.

    Every frame is counted: masks = matched + masks_without_truth + masks_waiting, and truths =
    matched + truths_without_mask + truths_waiting. A stamp of 0, or the same as that of the frame
    before, identifies no frame: it is counted as without match, and in `stamps_repeated`. Pairs
    wait to be scored; `dropped` counts those that a full queue lost.
    """

    def __init__(self) -> None:
        self._masks, self._truths = _Waiting(), _Waiting()
        self.pairs: deque[ScoredPair] = deque()
        self._pairs_bytes = 0
        self._matched = self._dropped = 0
        self.truths_unreadable = self.truths_lost = 0

    def add_mask(self, stamp_ns: int, mask: ScoredMask) -> None:
        """Add a mask."""
        if not self._masks.accept(stamp_ns):
            return
        if (truth := self._truths.take(stamp_ns)) is not None:
            self._match(ScoredPair(stamp_ns, mask, truth))
        else:
            self._masks.put(stamp_ns, mask, mask.labels.size)

    def add_truth(self, stamp_ns: int, truth: UInt8Array) -> None:
        """Add the truth of a frame."""
        if not self._truths.accept(stamp_ns):
            return
        if (mask := self._masks.take(stamp_ns)) is not None:
            self._match(ScoredPair(stamp_ns, mask, truth))
        else:
            self._truths.put(stamp_ns, truth, truth.size)

    def take(self) -> ScoredPair | None:
        """Remove and return the oldest pair; None if there is none."""
        if not self.pairs:
            return None
        pair = self.pairs.popleft()
        self._pairs_bytes -= _bytes_of(pair)
        return pair

    def counts(self) -> dict[str, int]:
        """Return all counts at this moment."""
        return {
            'masks': self._masks.received,
            'masks_without_truth': self._masks.dropped,
            'masks_waiting': len(self._masks),
            'truths': self._truths.received,
            'truths_without_mask': self._truths.dropped,
            'truths_waiting': len(self._truths),
            'truths_unreadable': self.truths_unreadable,
            'truths_lost': self.truths_lost,
            'stamps_repeated': self._masks.repeated + self._truths.repeated,
            'matched': self._matched,
            'dropped': self._dropped,
        }

    def _match(self, pair: ScoredPair) -> None:
        self._matched += 1
        self.pairs.append(pair)
        self._pairs_bytes += _bytes_of(pair)
        while len(self.pairs) > MAX_WAITING or self._pairs_bytes > 2 * MAX_WAITING_BYTES:
            self.take()
            self._dropped += 1


def _bytes_of(pair: ScoredPair) -> int:
    return pair.mask.labels.size + pair.truth.size


class TruthScores:
    """Scores of the masks of one camera, over the newest frames and in total; not thread-safe.

    They are computed as `score_bag` does, in the scheme of the masks. A new model, or another
    description of the truth, starts anew.
    """

    def __init__(self, window_frames: int) -> None:
        self._window_frames = window_frames
        self.scored = 0
        self.rejected = 0
        self._key: tuple[str, ScoredModel] | None = None
        self._comparison: LabelComparison | None = None
        #: Name of the scheme of the truth; None while it is unknown.
        self.truth_scheme: str | None = None
        self._window = ConfusionWindow(window_frames)

    def add(self, pair: ScoredPair, description: str) -> str:
        """Score a pair, or count it as rejected and return the reason.

        Args:
            pair: mask and truth.
            description: JSON description of the truth's label scheme.
        """
        try:
            comparison = self._comparison_for(description, pair.mask.model)
            frame = comparison.add(pair.truth, pair.mask.labels, f'stamp {pair.stamp_ns} ns')
        except FRAME_ERRORS as error:
            self.rejected += 1
            return str(error) or type(error).__name__
        self._window.add(frame.confusion)
        self.scored += 1
        return ''

    def figures(self) -> dict[str, Any]:
        """Return the figures of the window and in total; None for both before the first frame."""
        if self._comparison is None or not self._comparison.frames:
            return {'window': None, 'total': None}
        window, total = len(self._window), self._comparison.frames
        scheme = self._comparison.scheme
        return {
            'window': _figures(self._window.confusion, window, scheme),
            'total': _figures(self._comparison.confusion, total, scheme),
        }

    def _comparison_for(self, description: str, model: ScoredModel) -> LabelComparison:
        key = (description, model)
        if self._comparison is None or self._key != key:
            self._key, self._comparison, self.truth_scheme = key, None, None
            self._window = ConfusionWindow(self._window_frames)
            truth = described_scheme(description, model.scheme)
            self._comparison = LabelComparison(truth, model.scheme)
            self.truth_scheme = truth.name
        return self._comparison


def _figures(confusion: Confusion, frames: int, scheme: LabelScheme) -> dict[str, Any]:
    scores = confusion.scores(scheme)
    return {
        'frames': frames,
        'miou': scores.miou(),
        'pixel_accuracy': scores.pixel_accuracy(),
        'class_iou': scores.class_iou(),
    }
