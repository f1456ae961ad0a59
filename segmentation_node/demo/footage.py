# SPDX-License-Identifier: Apache-2.0
"""Footage that the demo sends to the node: the bundled streets, a folder of images, or a bag."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Final

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.qos import CAMERA
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC
from segmentation_node.bags.sources import folder_source
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.demo.recording import repeated_stamp
from segmentation_node.errors import BagError, ImageError
from segmentation_node.images.files import image_size
from segmentation_node.paths import demo_bag
from segmentation_node.processes import Child, DemoError, wait_for

TRUTH_INFO_TOPIC: Final = f'{topics.GROUND_TRUTH}/{topics.LABEL_INFO_JSON}'
#: Looked at before a bag is replayed: a camera that repeats its stamps does so from the beginning.
FIRST_FRAMES: Final = 5
#: Frames per second of the bundled drive.
STREET_RATE_HZ: Final = 10.0

#: Called at short intervals; raises DemoError if the demo cannot continue.
Check = Callable[[], None]


@dataclass(frozen=True)
class Footage:
    """Frames to replay; the bag exists once `prepare` has run."""

    title: str
    bag: Path
    camera: Topic
    #: Topics of the ground truth and its description; empty if the bag lacks them.
    truth: tuple[Topic, ...]
    prepare: Callable[[Check], None]
    #: Height and width of the first image; None if it cannot be read.
    image_hw: tuple[int, int] | None
    #: True if compressed images are decoded before they are sent.
    decode_images: bool = False
    #: Number of frames to send, and the time of the last one in the bag; None for all.
    limit: int | None = None
    end_ns: int | None = None
    #: Speed relative to real time.
    rate: float = 1.0

    def open(self) -> Bag:
        """Open the bag with the camera as it is sent."""
        return open_bag(self.bag, decode_video=True, decode_images=self.decode_images)

    def count(self) -> int:
        """Return the number of frames to send."""
        with self.open() as bag:
            return min(bag.count(self.camera.name), self.limit or sys.maxsize)

    def messages(self, bag: Bag) -> Iterator[RawMessage]:
        """Yield the camera's messages to send, with the truth."""
        names = [topic.name for topic in (self.camera, *self.truth)]
        return takewhile(self._is_sent, bag.messages(names))

    def _is_sent(self, message: RawMessage) -> bool:
        return self.end_ns is None or message.stamp_ns <= self.end_ns

    @property
    def compressed(self) -> bool:
        """True if the camera's images are compressed."""
        return self.camera.msgtype == messages.COMPRESSED_IMAGE


def _skip_preparation(_check: Check) -> None:
    pass


def bag_footage(path: Path, topic: str | None) -> Footage:
    """Return the footage of a bag's camera.

    Raises:
        BagError: there is none, there are several, or it cannot be shown.
    """
    with open_bag(path, decode_video=True) as bag:
        camera = find_camera(bag, topic)
        types = {t.shown_type for t in bag.topics if t.name == camera.name and bag.counts[t]}
        if len(types) > 1:
            raise BagError(
                f'topic {camera.shown} of {path} has messages of {" and ".join(sorted(types))}, '
                f'expected one type, since a node subscribes to one: let segment_bag segment it'
            )
        title = f'{camera.name} of {path.name}'
        return Footage(
            title, path, camera, _truth(bag), _skip_preparation, _first_size_hw(bag, camera)
        )


def _first_size_hw(bag: Bag, camera: Topic) -> tuple[int, int] | None:
    size_hw: tuple[int, int] | None = None
    stamps_ns = set[int]()
    for raw in islice(bag.messages([camera.name]), FIRST_FRAMES):
        message = messages.deserialize(raw)
        stamp_ns = messages.stamp_ns_of(message)
        if stamp_ns in stamps_ns:
            raise repeated_stamp(camera, stamp_ns)
        stamps_ns.add(stamp_ns)
        if size_hw is None:
            with suppress(ImageError):
                height, width = messages.decode(message).shape[:2]
                size_hw = height, width
    return size_hw


def _truth(bag: Bag) -> tuple[Topic, ...]:
    by_name = {topic.name: topic for topic in bag.topics if bag.counts[topic]}
    names = (TRUTH_TOPIC, TRUTH_INFO_TOPIC)
    return tuple(by_name[name] for name in names) if by_name.keys() >= set(names) else ()


def images_footage(folder: Path, work: Path, rate_hz: float) -> Footage:
    """Return the footage of a folder of images, which are sent as compressed files, unchanged.

    Raises:
        DemoError: the folder does not exist.
    """
    if not folder.is_dir():
        raise DemoError(f'{folder} is not a folder; give the folder with your images')
    name = f'/{topics.IMAGE}{topics.COMPRESSED_SUFFIX}'
    camera = messages.known_topic(name, messages.COMPRESSED_IMAGE, CAMERA)
    bag = work / 'images.mcap'

    def prepare(check: Check) -> None:
        arguments = ['--images', str(folder), '--compressed', '--skip-bad']
        _images_to_bag([*arguments, '--rate-hz', str(rate_hz)], bag, work, check)

    image_hw = None
    with suppress(ImageError):
        first = folder_source(folder, None, rate_hz).frames[0].image
        image_hw = image_size(first.read_bytes())[::-1]
    return Footage(f'images of {folder.resolve().name}/', bag, camera, (), prepare, image_hw)


def street_footage(frames: int | None, rate_hz: float) -> Footage:
    """Return the bundled drive through procedural streets, with truth.

    Args:
        frames: number of frames, from the first; None for all.
        rate_hz: frames per second.
    """
    with open_bag(demo_bag(), decode_images=True) as bag:
        camera, truth = find_camera(bag), _truth(bag)
        first = messages.deserialize(bag.first(camera.name))
        # The truth has the stamps of the images, and is not decoded for them.
        stamps_ns = [m.stamp_ns for m in islice(bag.messages([TRUTH_TOPIC]), frames or 0)]
    return Footage(
        f'a procedural street, {first.width}x{first.height}', demo_bag(), camera, truth,
        _skip_preparation, (first.height, first.width), decode_images=True, limit=frames,
        end_ns=max(stamps_ns, default=None), rate=rate_hz / STREET_RATE_HZ,
    )  # fmt: skip


def _images_to_bag(arguments: Sequence[str], bag: Path, work: Path, check: Check) -> None:
    log = work / 'log' / 'images_to_bag.log'
    command = [sys.executable, '-m', 'segmentation_node.bags.images_to_bag', *arguments]
    command += ['--output', str(bag), '--overwrite']
    with Child('images_to_bag', command, log) as child:

        def done() -> bool:
            check()
            if child.exit_status not in (None, 0):
                raise child.failure()
            return child.exit_status == 0

        patience_s = 600.0
        wait_for(done, patience_s, lambda: DemoError(
            f'{bag} is not complete after {patience_s:.0f} s; use fewer images, or create the bag '
            f'with images_to_bag and pass it with BAG='
        ))  # fmt: skip
        print('      ' + child.log_text().strip().replace('\n', '\n      '))
