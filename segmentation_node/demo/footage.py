# SPDX-License-Identifier: Apache-2.0
"""Footage that the demo sends to the node: a procedural street, a folder of images, or a bag."""

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import scenes, topics
from segmentation_node.bags import messages
from segmentation_node.bags.camera import find_camera
from segmentation_node.bags.qos import CAMERA, LATCHED, RELIABLE
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC
from segmentation_node.bags.sources import folder_source
from segmentation_node.bags.topic import Topic
from segmentation_node.demo.recording import repeated_stamp
from segmentation_node.errors import BagError, ImageError
from segmentation_node.images.files import image_size
from segmentation_node.processes import Child, DemoError, wait_for

TRUTH_INFO_TOPIC: Final = f'{topics.GROUND_TRUTH}/{topics.LABEL_INFO_JSON}'
#: Seeds of the streets that make up the drive; each is rendered by a separate process.
SEEDS: Final = (3, 11)
STALL_PATIENCE_S: Final = 120.0
#: Looked at before a bag is replayed: a camera that repeats its stamps does so from the beginning.
FIRST_FRAMES: Final = 5

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


def scenes_footage(frames: int, size_wh: tuple[int, int], work: Path, rate_hz: float) -> Footage:
    """Return a drive through procedural streets, with truth; rendered once, cached in `work`."""
    size = '{}x{}'.format(*size_wh)
    bag = work / f'scenes_{size}_{frames}_frames_{rate_hz:g}_hz_{_renderer_version()}.mcap'
    camera = messages.known_topic(f'/{topics.IMAGE}', messages.IMAGE, CAMERA)
    truth = (
        messages.known_topic(TRUTH_TOPIC, messages.IMAGE, RELIABLE),
        messages.known_topic(TRUTH_INFO_TOPIC, messages.STRING, LATCHED),
    )

    def prepare(check: Check) -> None:
        if bag.exists():
            print(f'      {bag} exists already')
            return
        tree = work / 'scenes'
        shutil.rmtree(tree, ignore_errors=True)
        _render(tree, frames, size, rate_hz, work, check)
        # The bag has a temporary name until it is complete.
        new = bag.with_name(f'new_{bag.name}')
        _images_to_bag(['--cityscapes', str(tree), '--rate-hz', str(rate_hz)], new, work, check)
        new.rename(bag)
        shutil.rmtree(tree)

    title = f'a procedural street, {size}'
    return Footage(title, bag, camera, truth, prepare, size_wh[::-1])


def _renderer_version() -> str:
    """Return a digest of the renderer's code, so that outdated streets are not reused."""
    digest = hashlib.sha256(repr(SEEDS).encode())
    for file in sorted(Path(scenes.__path__[0]).glob('*.py')):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def _render(tree: Path, frames: int, size: str, rate_hz: float, work: Path, check: Check) -> None:
    """Render each street in a separate process, with one progress bar for all."""
    shares = [len(range(i, frames, len(SEEDS))) for i in range(len(SEEDS))]
    with ExitStack() as stack, tqdm(total=frames, unit='frame', disable=None) as progress:
        children = [
            stack.enter_context(
                Child(
                    'make_scenes',
                    _command('scenes.make_scenes', str(tree), '--frames', str(share),
                             '--size', size, '--rate-hz', str(rate_hz), '--seed', str(seed),
                             '--sequence', str(index), '--quiet'),
                    work / 'log' / f'make_scenes_{index}.log',
                )
            )
            for index, (seed, share) in enumerate(zip(SEEDS, shares, strict=True)) if share
        ]  # fmt: skip

        rendered = 0

        def done() -> bool:
            nonlocal rendered
            check()
            rendered = sum(1 for _ in tree.glob('timestamp_sequence/*/*/*.txt'))
            progress.update(rendered - progress.n)
            # Checks every child, so that a failure is reported without waiting for the others.
            ended = [_succeeded(child) for child in children]
            return all(ended)

        wait_for(done, STALL_PATIENCE_S, lambda: DemoError(
            f'no frame was rendered for {STALL_PATIENCE_S:.0f} s, after {rendered} of {frames}; '
            f'the machine is too busy: close other programs and start again'
        ), sign_of_life=lambda: rendered)  # fmt: skip


def _images_to_bag(arguments: Sequence[str], bag: Path, work: Path, check: Check) -> None:
    log = work / 'log' / 'images_to_bag.log'
    command = _command('bags.images_to_bag', *arguments, '--output', str(bag), '--overwrite')
    with Child('images_to_bag', command, log) as child:

        def done() -> bool:
            check()
            return _succeeded(child)

        patience_s = 600.0
        wait_for(done, patience_s, lambda: DemoError(
            f'{bag} is not complete after {patience_s:.0f} s; use fewer images, or create the bag '
            f'with images_to_bag and pass it with BAG='
        ))  # fmt: skip
        print('      ' + child.log_text().strip().replace('\n', '\n      '))


def _succeeded(child: Child) -> bool:
    if child.exit_status is None:
        return False
    if child.exit_status != 0:
        raise child.failure()
    return True


def _command(module: str, *arguments: str) -> list[str]:
    return [sys.executable, '-m', f'segmentation_node.{module}', *arguments]
