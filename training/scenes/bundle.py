# SPDX-License-Identifier: Apache-2.0
"""Command that renders the bundled streets: the bag of the demo and the samples of the page."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import cv2
from tqdm import tqdm

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags.images_to_bag import MessageSettings, write_frames
from segmentation_node.bags.messages import SECOND_NS
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.sources import SourceFrame
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import SegmentationError
from segmentation_node.images.files import encode_png
from segmentation_node.labels import load_scheme
from segmentation_node.paths import demo_bag, samples_dir
from training.scenes.render import SCHEME, RenderedFrame, Renderer
from training.scenes.street import Street
from training.scenes.write import camera_content

#: Seeds of the streets in the bag, one after the other; the models were not trained on them.
SEEDS: Final = (11, 18)
FRAMES: Final = 100
RATE_HZ: Final = 10.0
BAG_WH: Final = (1024, 512)
#: Seed and time of each sample picture; the models were not trained on them.
SAMPLES: Final = ((9, 1.0), (21, 4.0), (33, 2.0), (47, 6.0))
SAMPLE_WH: Final = (960, 480)
#: Optimized Huffman tables make files smaller without changing the picture.
_JPEG: Final = (cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_OPTIMIZE, 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python -m training.scenes.bundle',
        description='Render the bag of the demo and the samples of the web page again. '
        'OpenCV 5.0 gives the same files on every CPU with AVX-512; elsewhere some edges differ.',
    )
    parser.add_argument(
        '--bag', type=Path, default=demo_bag(), metavar='FILE', help='bag to write; default: '
        'resource/demo/street.mcap',
    )  # fmt: skip
    parser.add_argument(
        '--samples', type=Path, default=samples_dir(), metavar='FOLDER',
        help='folder of the samples to write; default: resource/samples',
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        write_samples(args.samples)
        write_bag(args.bag, range(FRAMES))
    except (SegmentationError, OSError) as error:
        print(f'bundle: {error}', file=sys.stderr)
        return 1
    print(f'{args.bag}: {args.bag.stat().st_size / 1e6:.1f} MB')
    return 0


def write_bag(path: Path, indices: Sequence[int]) -> None:
    """Write frames of the demo's drive, in the format of `images_to_bag --compressed`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder, draft = Path(name), Path(name, 'draft.mcap')
        with portable_opencv():
            frames = list(_drive(folder, indices))
        with BagWriter(draft) as writer:
            write_frames(frames, MessageSettings(compressed=True), load_scheme(SCHEME), writer)
        with open_bag(draft) as bag:
            messages = list(bag.messages())
    # All messages are in memory by now: the writer ends a chunk when its messages have waited for
    # half a second, and the same messages in other chunks make another file.
    with BagWriter(path, overwrite=True) as writer:
        for message in messages:
            writer.write(message.topic, message.stamp_ns, message.cdr)


def write_samples(folder: Path) -> None:
    """Write images/NAME.jpg and labels/NAME.png, with Cityscapes labelIds, for each sample."""
    for name in ('images', 'labels'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    renderer = Renderer(*SAMPLE_WH)
    with portable_opencv():
        for number, (seed, time_s) in enumerate(SAMPLES, 1):
            frame = renderer.render(Street(seed), time_s)
            name = f'street_{number}'
            (folder / 'images' / f'{name}.jpg').write_bytes(_jpeg(frame.image_rgb))
            (folder / 'labels' / f'{name}.png').write_bytes(encode_png(frame.label_ids))


@contextmanager
def portable_opencv() -> Iterator[None]:
    """Let OpenCV use only instructions that every CPU has; others give slightly other pixels."""
    threads, optimized = cv2.getNumThreads(), cv2.useOptimized()
    # On the many small regions of a frame, OpenCV's threads cost more time than they save.
    cv2.setNumThreads(1)
    cv2.setUseOptimized(False)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
        cv2.setUseOptimized(optimized)


def _drive(folder: Path, indices: Sequence[int]) -> Iterator[SourceFrame]:
    """Render frames of the drive into files."""
    renderer, streets = Renderer(*BAG_WH), [Street(seed) for seed in SEEDS]
    frames_each = FRAMES // len(SEEDS)
    for index in tqdm(indices, unit='frame', disable=None):
        number, frame_number = divmod(index, frames_each)
        frame = renderer.render(streets[number], frame_number / RATE_HZ)
        yield _write_frame(folder / f'{index:03}', frame, round(index * SECOND_NS / RATE_HZ))


def _write_frame(stem: Path, frame: RenderedFrame, time_ns: int) -> SourceFrame:
    image, label, camera = (stem.with_suffix(suffix) for suffix in ('.jpg', '.png', '.json'))
    image.write_bytes(_jpeg(frame.image_rgb))
    label.write_bytes(encode_png(frame.label_ids))
    camera.write_text(json.dumps(camera_content(frame.camera)), encoding='utf-8')
    return SourceFrame(image, time_ns, label, camera)


def _jpeg(image_rgb: UInt8Array) -> bytes:
    return cv2.imencode('.jpg', cv2.cvtColor(image_rgb, cv2.COLOR_RGB2BGR), _JPEG)[1].tobytes()


if __name__ == '__main__':
    sys.exit(main())
