# SPDX-License-Identifier: Apache-2.0
"""Statistics of labels, and the frames that are worth labeling by hand."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np

from segmentation_node.images.rendering import Rendered, mean_confidence
from segmentation_node.labels import LabelScheme

#: Frames of each bag that are kept as candidates for labeling.
MAX_FRAMES: Final = 100
#: Columns of worth_labeling.csv.
COLUMNS: Final = ('bag', 'stamp_ns', 'distance', 'confidence')


class RankedFrame(NamedTuple):
    """Frame at a time of recording, with its distance and mean confidence from 0 to 1.

    The distance is None if the model cannot tell how far a frame is from those that it knows.
    """

    stamp_ns: int
    distance: float | None
    confidence: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """Sort key: the farthest frames first, then those of the lowest confidence."""
        return -(self.distance or 0.0), self.confidence, self.stamp_ns


@dataclass
class LabelStatistics:
    """Statistics of segmented frames; the sum of two is that of the frames of both."""

    frames: int = 0
    #: Number of pixels by published id.
    pixels: dict[int, int] = field(default_factory=dict)
    #: Sum of the mean confidence of the frames.
    confidence_sum: float = 0.0
    #: Number of frames out of domain; None if the model cannot tell.
    out_of_domain: int | None = None
    #: Frames that are worth labeling, by rank.
    ranked: list[RankedFrame] = field(default_factory=list)

    @classmethod
    def of_frame(cls, stamp_ns: int, rendered: Rendered) -> 'LabelStatistics':
        """Return the statistics of one frame.

        It is worth labeling if it is out of domain, or if the model cannot tell.
        """
        counts = np.bincount(rendered.label_mask.ravel())
        confidence = mean_confidence(rendered.confidence)
        outside = rendered.out_of_domain
        frame = RankedFrame(stamp_ns, rendered.distance, confidence)
        return cls(
            1,
            {int(label): int(counts[label]) for label in np.flatnonzero(counts)},
            confidence,
            None if outside is None else int(outside),
            [] if outside is False else [frame],
        )

    def __add__(self, other: 'LabelStatistics') -> 'LabelStatistics':
        known = [n for n in (self.out_of_domain, other.out_of_domain) if n is not None]
        labels = {*self.pixels, *other.pixels}
        return LabelStatistics(
            self.frames + other.frames,
            {label: self.pixels.get(label, 0) + other.pixels.get(label, 0) for label in labels},
            self.confidence_sum + other.confidence_sum,
            sum(known) if known else None,
            sorted([*self.ranked, *other.ranked], key=lambda f: f.rank)[:MAX_FRAMES],
        )

    @property
    def confidence(self) -> float | None:
        """Mean confidence of the frames, from 0 to 1; None without frames."""
        return self.confidence_sum / self.frames if self.frames else None

    def shares(self, scheme: LabelScheme) -> dict[str, float]:
        """Return the share of the pixels of each class, by name."""
        total = sum(self.pixels.values()) or 1
        return {c.name: self.pixels.get(c.id, 0) / total for c in scheme.classes}

    def to_json(self) -> dict[str, Any]:
        """Return the statistics for JSON."""
        pixels = {str(label): count for label, count in sorted(self.pixels.items())}
        return {**vars(self), 'pixels': pixels, 'ranked': [list(f) for f in self.ranked]}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> 'LabelStatistics':
        """Return the statistics that `to_json` has written."""
        pixels = {int(label): int(count) for label, count in content['pixels'].items()}
        ranked = [RankedFrame(*frame) for frame in content['ranked']]
        return cls(
            content['frames'], pixels, content['confidence_sum'], content['out_of_domain'], ranked
        )


def worth_labeling(statistics_of: Iterable[tuple[str, LabelStatistics]]) -> str:
    """Return the frames of all bags that are worth labeling, as CSV, the most worthwhile first.

    Args:
        statistics_of: address and statistics of each bag.
    """
    rows = [(frame, bag) for bag, statistics in statistics_of for frame in statistics.ranked]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(COLUMNS)
    for frame, bag in sorted(rows, key=lambda row: (row[0].rank, row[1])):
        distance = '' if frame.distance is None else f'{frame.distance:.4f}'
        writer.writerow([bag, frame.stamp_ns, distance, f'{frame.confidence:.4f}'])
    return text.getvalue()
