# SPDX-License-Identifier: Apache-2.0
"""Frames with ground truth to evaluate on: files of a data set or messages of a bag."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array, UInt16Array
from segmentation_node.bags import messages
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.matching import Matching
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC, scheme_beside
from segmentation_node.errors import BagError
from segmentation_node.labels import LabelScheme
from training.datasets import LabeledFiles


@dataclass(frozen=True)
class LabeledFrame:
    """Image, (H, W, 3) uint8 RGB, with its truth, (H, W) uint8 ids.

    `labels` and `confidence`, (H, W) uint8, are the recorded prediction, None if there is none.
    `instances` are the numbers of the true instances, (H, W) uint16, 0 for none; None if the
    truth does not tell objects apart.
    """

    name: str
    image_rgb: UInt8Array
    truth: UInt8Array
    labels: UInt8Array | None = None
    confidence: UInt8Array | None = None
    instances: UInt16Array | None = field(default=None, kw_only=True)


class LabeledFrames(Protocol):
    """Iterable of frames; `scheme` is the label scheme of the truth, `source` names the data.

    `has_instances` is true if frames have `instances`.
    """

    @property
    def scheme(self) -> LabelScheme: ...
    @property
    def source(self) -> str: ...
    @property
    def has_instances(self) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[LabeledFrame]: ...


@dataclass(frozen=True)
class FileFrames:
    """Frames from the files of one split; iteration raises DatasetError for an invalid file."""

    files: LabeledFiles
    source: str

    @property
    def scheme(self) -> LabelScheme:
        """Label scheme of the truth."""
        return self.files.scheme

    @property
    def has_instances(self) -> bool:
        """True if the truth tells objects apart."""
        return self.files.has_instances

    def __len__(self) -> int:
        return len(self.files.pairs)

    def __iter__(self) -> Iterator[LabeledFrame]:
        for pair in self.files.pairs:
            image_rgb, truth, instances = self.files.read_instances(pair)
            known = instances if self.has_instances else None
            yield LabeledFrame(pair.name, image_rgb, truth, instances=known)


class BagFrames:
    """Camera images of a bag with truth of the same stamp, in order of time.

    Frames are named by their stamps in nanoseconds, or by the time of recording if stamps repeat.
    `recorded_scheme` is the label scheme of the requested label masks, None if none are requested.

    Raises:
        BagError: a topic or scheme is missing, no stamp is common to all topics, or a message is
            invalid.
    """

    has_instances = False

    def __init__(
        self,
        path: Path,
        camera: str | None = None,
        truth_topic: str = TRUTH_TOPIC,
        predicted_topic: str | None = None,
        truth_path: Path | None = None,
        salvage: bool = False,
        given: LabelScheme | None = None,
    ) -> None:
        """Find the topics and common stamps in the bag.

        Args:
            path: bag with the camera.
            camera: topic of type Image or CompressedImage; None uses the bag's only camera.
            truth_topic: topic of the ground truth, mono8.
            predicted_topic: topic of label masks to read as well, mono8; their confidence is read
                from the topic `confidence` in the same namespace, if there is one.
            truth_path: bag with the truth; None uses `path`.
            salvage: read a truncated bag as far as possible.
            given: additional label scheme that the bag may refer to by name.
        """
        self._path, self._truth_path, self._salvage = path, truth_path or path, salvage
        self._truth_topic, self._predicted_topic = truth_topic, predicted_topic
        self.source = f'{path}, truth {truth_topic}'
        self.recorded_scheme: LabelScheme | None = None
        with self._bag() as bag, open_bag(self._truth_path, salvage) as truth_bag:
            self._camera = find_camera(bag, camera).name
            self.scheme: LabelScheme = scheme_beside(truth_bag, truth_topic, given)
            names = [self._camera]
            if predicted_topic is not None:
                self.recorded_scheme = scheme_beside(bag, predicted_topic, given)
                self.source += f', masks {predicted_topic}'
                names.append(predicted_topic)
            self._confidence_topic = _confidence_beside(bag, predicted_topic)
            if self._confidence_topic is not None:
                names.append(self._confidence_topic)
            streams = [*((bag, name) for name in names), (truth_bag, truth_topic)]
            self._matching = Matching(streams)
            lost = sum(bag.lost.values())
        if lost:
            self.source += f', {lost} frames of video not decodable'
        if not len(self._matching):
            topics_found = ', '.join(
                f'{name} ({count} frames)'
                for (_, name), count in zip(streams, self._matching.counts, strict=True)
            )
            raise BagError(
                f'no stamp of {path} is common to {topics_found}; truth and masks must have the '
                f'stamps of the camera images'
            )

    def __len__(self) -> int:
        return len(self._matching)

    def _bag(self) -> Bag:
        return open_bag(self._path, self._salvage, decode_video=True)

    def __iter__(self) -> Iterator[LabeledFrame]:
        with ExitStack() as bags:
            bag = bags.enter_context(self._bag())
            truth_bag = bags.enter_context(open_bag(self._truth_path, self._salvage))
            labels = messages.decode_labels
            streams = [
                (bag, self._camera, messages.decode),
                (truth_bag, self._truth_topic, labels),
                *(
                    (bag, name, labels)
                    for name in (self._predicted_topic, self._confidence_topic)
                    if name is not None
                ),
            ]
            for time, pictures in self._matching.pixels(streams):
                sizes = {picture.shape[:2] for picture in pictures}
                if len(sizes) > 1:
                    raise BagError(
                        f'the pictures of {self._path} at {time.time_ns} ns have the sizes '
                        f'{sorted(sizes)}; image, truth and masks must have the same size'
                    )
                yield LabeledFrame(str(time.time_ns), *pictures)


def _confidence_beside(bag: Bag, predicted_topic: str | None) -> str | None:
    if predicted_topic is None:
        return None
    name = f'{predicted_topic.rpartition("/")[0]}/{topics.CONFIDENCE}'
    exists = any(topic.name == name and count for topic, count in bag.counts.items())
    return name if exists else None
