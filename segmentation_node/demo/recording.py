# SPDX-License-Identifier: Apache-2.0
"""Recording of the node's output, read from a bag; frames are matched by stamp."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.messages import SECOND_NS
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC, scheme_beside, score_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.demo.contact_sheet import SheetRow
from segmentation_node.demo.video_file import TimedPicture
from segmentation_node.errors import BagError, SegmentationError
from segmentation_node.images.rendering import colorize
from segmentation_node.labels import LabelScheme
from segmentation_node.scoring import SetScores

LABEL_TOPIC: Final = topics.resolved(topics.LABEL_MASK)
OVERLAY_TOPIC: Final = topics.resolved(topics.OVERLAY)


@dataclass(frozen=True)
class Flow:
    """Rates and latencies from the send times of frames and masks; NaN if there are too few."""

    masks: int
    in_rate_hz: float
    out_rate_hz: float
    latency_p50_ms: float
    latency_p99_ms: float


class Recording:
    """Recorded bag with a camera topic."""

    def __init__(self, path: Path, camera: str) -> None:
        self.path = path
        with open_bag(path) as bag:
            self.camera = bag.topic(camera)
            self.scheme: LabelScheme = scheme_beside(bag, LABEL_TOPIC)
            #: Reason why nothing can be scored; empty if scores are available.
            self.no_truth_reason = _no_truth_reason(bag, self.scheme)
            self._sent_ns = _sent_ns(bag, {camera, LABEL_TOPIC, OVERLAY_TOPIC})

    @cached_property
    def flow(self) -> Flow:
        """Rates and latencies; latency is the time from sending an image to sending its mask."""
        images, masks = self._sent_ns[self.camera.name], self._sent_ns[LABEL_TOPIC]
        latencies_ms = [
            (masks[stamp_ns] - images[stamp_ns]) / 1e6 for stamp_ns in masks.keys() & images.keys()
        ]
        p50, p99 = np.percentile(latencies_ms or [np.nan], [50, 99]).tolist()
        return Flow(len(masks), _rate_hz(images), _rate_hz(masks), p50, p99)

    def scores(self) -> SetScores | None:
        """Return the scores against the recorded truth; None if there is none."""
        return score_bag(self.path) if not self.no_truth_reason else None

    def overlays(self) -> Iterator[TimedPicture]:
        """Yield the recorded overlays in order."""
        with open_bag(self.path) as bag:
            for stamp_ns, message, _ in _messages(bag, {OVERLAY_TOPIC}):
                yield TimedPicture(stamp_ns / SECOND_NS, messages.decode(message))

    @cached_property
    def rate_hz(self) -> float:
        """Frames per second by the stamps of the camera's images, limited to 1..60."""
        stamps_ns = sorted(self._sent_ns[self.camera.name])
        gaps_s = np.diff(stamps_ns) / SECOND_NS
        return float(np.clip(1 / np.median(gaps_s), 1, 60)) if len(gaps_s) else 10.0

    def rows(self, count: int) -> list[SheetRow]:
        """Return at most `count` complete frames, evenly spaced over the recording."""
        wanted = self._pick_stamps(count)
        if not wanted:
            return []
        pictures: dict[int, dict[str, UInt8Array]] = {stamp_ns: {} for stamp_ns in wanted}
        with open_bag(self.path) as bag:
            names = {self.camera.name, LABEL_TOPIC, OVERLAY_TOPIC}
            luts = {LABEL_TOPIC: np.arange(256, dtype=np.uint8)}
            if not self.no_truth_reason:
                luts[TRUTH_TOPIC] = scheme_beside(bag, TRUTH_TOPIC).mapping_to(self.scheme)
                names.add(TRUTH_TOPIC)
            for stamp_ns, message, name in _messages(bag, names):
                if stamp_ns in pictures:
                    pictures[stamp_ns][name] = self._picture(message, luts.get(name))
        first_ns = min(self._sent_ns[self.camera.name])
        return [
            SheetRow((stamp_ns - first_ns) / SECOND_NS, _columns(frame, self.camera.name))
            for stamp_ns, frame in pictures.items()
            if frame.keys() == names
        ]

    def _pick_stamps(self, count: int) -> list[int]:
        complete = sorted(set.intersection(*(set(sent_ns) for sent_ns in self._sent_ns.values())))
        if not complete:
            return []
        picked = np.linspace(0, len(complete) - 1, min(count, len(complete))).round().astype(int)
        return [complete[i] for i in picked]

    def _picture(self, message: Any, lut: UInt8Array | None) -> UInt8Array:
        """Decode a picture, or map labels by a look-up table and paint them in their colors."""
        if lut is None:
            return messages.decode(message)
        return colorize(lut[messages.decode_labels(message)], self.scheme)


def _no_truth_reason(bag: Bag, scheme: LabelScheme) -> str:
    if not any(topic.name == TRUTH_TOPIC and count for topic, count in bag.counts.items()):
        return 'this footage has no ground truth'
    try:
        scheme_beside(bag, TRUTH_TOPIC).mapping_to(scheme)
    except SegmentationError as error:
        return str(error)
    return ''


def _columns(pictures: Mapping[str, UInt8Array], camera: str) -> dict[str, UInt8Array]:
    titles = {
        camera: 'camera', TRUTH_TOPIC: 'truth', LABEL_TOPIC: 'label mask', OVERLAY_TOPIC: 'overlay'
    }  # fmt: skip
    return {title: pictures[name] for name, title in titles.items() if name in pictures}


def _messages(bag: Bag, names: set[str]) -> Iterator[tuple[int, Any, str]]:
    for raw in bag.messages(names):
        message = messages.deserialize(raw)
        yield messages.stamp_ns_of(message), message, raw.topic.name


def _sent_ns(bag: Bag, names: set[str]) -> dict[str, dict[int, int]]:
    """Return, for each topic, send times by header stamp; both are in nanoseconds.

    Raises:
        BagError: a header stamp repeats, so that it identifies no frame.
    """
    sent_ns: dict[str, dict[int, int]] = {name: {} for name in names}
    for raw in bag.messages(names):
        stamp_ns = messages.stamp_ns_of(messages.deserialize(raw))
        if stamp_ns in sent_ns[raw.topic.name]:
            raise repeated_stamp(raw.topic, stamp_ns)
        sent_ns[raw.topic.name][stamp_ns] = raw.sent_ns
    return sent_ns


def repeated_stamp(topic: Topic, stamp_ns: int) -> BagError:
    """Error about a topic whose header stamps repeat."""
    return BagError(
        f'header stamp {stamp_ns} ns of {topic.shown} repeats, expected one for each frame, by '
        f'which its mask is known: correct the stamps in the camera driver, or let segment_bag '
        f'segment the bag'
    )


def _rate_hz(sent_ns: Mapping[int, int]) -> float:
    times_ns = sent_ns.values()
    if len(times_ns) < 2:
        return float('nan')
    return (len(times_ns) - 1) * SECOND_NS / max(1, max(times_ns) - min(times_ns))
