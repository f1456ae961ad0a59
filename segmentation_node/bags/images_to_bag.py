# SPDX-License-Identifier: Apache-2.0
"""Command: make a bag of a Cityscapes tree or of any folder of images."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.bounds import tell
from segmentation_node.bags.options import add_output_options, stamp_s
from segmentation_node.bags.qos import CAMERA, LATCHED, RELIABLE
from segmentation_node.bags.sources import (
    Source,
    SourceFrame,
    cityscapes_source,
    folder_source,
    read_intrinsics,
)
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter, check_output
from segmentation_node.cli import HelpFormatter, add_bits_option, count, rate_hz, topic_name
from segmentation_node.errors import BagError, ImageError, SegmentationError
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import compressed_format, encode_png
from segmentation_node.images.files import codec_name, decode_file, image_size
from segmentation_node.images.label_files import decode_labels
from segmentation_node.interrupt import stop_on_signal
from segmentation_node.labels import LabelScheme, load_scheme

#: Default stamp of the first frame; fixed, so that the same files always make the same bag.
START_NS: Final = 1_600_000_000 * messages.SECOND_NS
#: Scheme of the labelIds files of Cityscapes.
CITYSCAPES_SCHEME: Final = 'cityscapes34'
ENCODINGS: Final = ('rgb8', 'bgr8')


@dataclass(frozen=True)
class MessageSettings:
    """Settings of the messages that frames are written as."""

    image_topic: str = f'/{topics.IMAGE}'
    frame_id: str = 'camera'
    encoding: str = 'rgb8'
    compressed: bool = False
    start_ns: int = START_NS
    samples: Samples | None = None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='images_to_bag',
        description='Make a ROS 2 bag of a folder of images or of a Cityscapes tree. Label images '
        f'become a topic of their own, {topics.GROUND_TRUTH}/{topics.LABEL_MASK}, with a topic '
        'beside it that describes their ids.',
        epilog='examples: images_to_bag --images frames --output drive.mcap   |   '
        'images_to_bag --cityscapes cityscapes --split val --output val_bag',
        formatter_class=HelpFormatter,
    )
    source = parser.add_argument_group(
        'what to read (one of the two)'
    ).add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='folder of .jpg, .png or .tif files; frame_9 comes before frame_10',
    )  # fmt: skip
    source.add_argument(
        '--cityscapes', type=Path, metavar='ROOT',
        help='folder with leftImg8bit/ or leftImg8bit_sequence/; gtFine/, camera/ and '
        'timestamp_sequence/ are optional',
    )  # fmt: skip
    folder = parser.add_argument_group('with --images')
    folder.add_argument(
        '--labels', type=Path, metavar='FOLDER',
        help='label images named like their frames: one class id per pixel (PNG or TIFF, the '
        'indices of a palette are ids), or the exact colors of the scheme',
    )  # fmt: skip
    folder.add_argument(
        '--label-scheme', metavar='NAME',
        help='label scheme of --labels: camvid11, cityscapes34, ... or a .yaml file',
    )  # fmt: skip
    tree = parser.add_argument_group('with --cityscapes')
    tree.add_argument(
        '--split', action='append', default=[], metavar='NAME',
        help='train, val, ...; may be repeated; all without it',
    )  # fmt: skip
    tree.add_argument(
        '--city', action='append', default=[], metavar='NAME',
        help='may be repeated; all without it',
    )  # fmt: skip
    tree.add_argument(
        '--sequence', action='store_true',
        help='read leftImg8bit_sequence/ (every frame) even if leftImg8bit/ exists',
    )  # fmt: skip
    add_output_options(parser)
    add_bits_option(parser)
    parser.add_argument(
        '--compressed', action='store_true',
        help='write CompressedImage: JPEG files unchanged, others as PNG',
    )  # fmt: skip
    parser.add_argument(
        '--encoding', choices=ENCODINGS, default=MessageSettings.encoding, help='of raw images'
    )
    parser.add_argument(
        '--rate-hz', type=rate_hz, default=10.0, metavar='HZ',
        help='frames per second; timestamp files take precedence',
    )  # fmt: skip
    parser.add_argument(
        '--start', type=stamp_s, default=START_NS / messages.SECOND_NS, metavar='SECONDS',
        help='stamp of the first frame, in seconds since 1970',
    )  # fmt: skip
    parser.add_argument(
        '--limit', type=count, metavar='N', help='only the first N frames; all without it'
    )
    parser.add_argument(
        '--topic', type=topic_name, default=MessageSettings.image_topic,
        help='camera topic; with --compressed, /compressed is appended',
    )  # fmt: skip
    parser.add_argument(
        '--frame-id', default=MessageSettings.frame_id, help='frame_id of the camera'
    )
    parser.add_argument(
        '--skip-bad', action='store_true',
        help='leave out files that do not fit or cannot be read; they are listed in any case',
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(argv)
    if (args.labels is None) != (args.label_scheme is None):
        parser.error('--labels and --label-scheme go together: give both or neither')
    if args.images is None and args.labels is not None:
        parser.error('--labels goes with --images; a Cityscapes tree has its own labels')
    if args.cityscapes is None and (args.split or args.city or args.sequence):
        parser.error('--split, --city and --sequence go with --cityscapes')
    try:
        return _run(args)
    except (SegmentationError, OSError) as error:
        tell('images_to_bag', error)
        return 1


def _run(args: argparse.Namespace) -> int:
    check_output(args.output, args.storage, args.overwrite)
    scheme = load_scheme(args.label_scheme or CITYSCAPES_SCHEME)
    if args.images is not None:
        source = folder_source(args.images, args.labels, args.rate_hz)
    else:
        source = cityscapes_source(
            args.cityscapes, args.rate_hz, args.split, args.city, args.sequence
        )
    if args.limit is not None:
        source = replace(source, frames=source.frames[: args.limit])
    samples = Samples(args.bits_per_sample)
    frames = checked(source, scheme, samples, skip_bad=args.skip_bad, quiet=args.quiet)
    samples.end()
    settings = MessageSettings(
        args.topic, args.frame_id, args.encoding, args.compressed,
        round(args.start * messages.SECOND_NS), samples,
    )  # fmt: skip
    check_stamps(frames, settings)
    with (
        stop_on_signal() as stop,
        BagWriter(args.output, args.storage, args.overwrite) as bag,
    ):
        written = write_frames(frames, settings, scheme, bag, lambda: bool(stop), args.quiet)
    end = 'interrupted: ' if stop else ''
    print(f'{end}{written} of {len(frames)} frames in {args.output}')
    return stop.exit_status


def checked(
    source: Source,
    scheme: LabelScheme,
    samples: Samples | None = None,
    *,
    skip_bad: bool = False,
    quiet: bool = True,
) -> list[SourceFrame]:
    """Return the frames that fit one camera topic; `samples` scales images of 16 bits.

    Raises:
        BagError: files cannot be read, do not fit or have no partner, and are not skipped; names
            all of them. Or no frame is left.
    """
    problems = [f'{label}: a label image of no frame' for label in source.unpaired]
    frames: list[SourceFrame] = []
    first_wh: tuple[int, int] | None = None
    for frame in tqdm(source.frames, 'checking', unit='frame', disable=quiet or None):
        frame_wh, problem = _checked_size(frame, first_wh, samples)
        if problem:
            problems.append(f'{frame.image}: {problem}')
            continue
        first_wh = first_wh or frame_wh
        problem = _label_problem(frame, frame_wh, scheme, source.labels_expected)
        if problem:
            problems.append(f'{frame.label or frame.image}: {problem}')
            frame = replace(frame, label=None)
        problem = _camera_problem(frame)
        if problem:
            problems.append(problem)
            frame = replace(frame, camera=None)
        frames.append(frame)
    _report(problems, skip_bad)
    if not frames:
        raise BagError('no frame is left to write; see the files named above')
    return frames


def _checked_size(
    frame: SourceFrame, first_wh: tuple[int, int] | None, samples: Samples | None
) -> tuple[tuple[int, int], str]:
    try:
        # Decoded, since the header of a TIFF or a JPEG does not tell if the rest is valid.
        height, width, _ = decode_file(frame.image.read_bytes(), samples=samples).shape
    except (ImageError, OSError) as error:
        return (0, 0), str(error)
    frame_wh = (width, height)
    if first_wh not in (None, frame_wh):
        return frame_wh, f'is {_wh(frame_wh)}, but the frames before are {_wh(first_wh)}'
    return frame_wh, ''


def _label_problem(
    frame: SourceFrame, frame_wh: tuple[int, int], scheme: LabelScheme, expected: bool
) -> str:
    if frame.label is None:
        return 'has no label image' if expected else ''
    try:
        labels = decode_labels(frame.label.read_bytes(), scheme)
    except (ImageError, OSError) as error:
        return str(error)
    label_wh = (labels.shape[1], labels.shape[0])
    return '' if label_wh == frame_wh else f'is {_wh(label_wh)}, but its frame is {_wh(frame_wh)}'


def _camera_problem(frame: SourceFrame) -> str:
    try:
        if frame.camera is not None:
            read_intrinsics(frame.camera)
    except (BagError, OSError) as error:
        return str(error)
    return ''


def _wh(size_wh: tuple[int, int] | None) -> str:
    return 'x'.join(map(str, size_wh or ()))


def _report(problems: list[str], skip_bad: bool) -> None:
    if not problems:
        return
    shown = '\n  '.join(problems[:20]) + ('\n  ...' if len(problems) > 20 else '')
    if not skip_bad:
        raise BagError(
            f'{len(problems)} files cannot go into the bag, so nothing is written:\n  {shown}\n'
            f'repair them, or leave them out with --skip-bad'
        )
    tell('images_to_bag', f'left out {len(problems)} files:\n  {shown}')


def check_stamps(frames: Sequence[SourceFrame], settings: MessageSettings) -> None:
    """Raise BagError where frames come too late for the stamps of their messages."""
    last_s = (settings.start_ns + frames[-1].time_ns) / messages.SECOND_NS
    if last_s >= messages.MAX_STAMP_S:
        raise BagError(
            f'the last frame would be at {last_s:g} s since 1970, where stamps end before '
            f'{messages.MAX_STAMP_S} s: choose an earlier --start or a higher --rate-hz'
        )


def write_frames(
    frames: Sequence[SourceFrame],
    settings: MessageSettings,
    scheme: LabelScheme,
    bag: BagWriter,
    stop: Callable[[], bool] = lambda: False,
    quiet: bool = True,
) -> int:
    """Write frames until done or stopped; returns how many were written.

    Raises:
        BagError: the disk is full, or a file changed after it was checked.
    """
    if any(frame.label for frame in frames):
        name = f'{topics.GROUND_TRUTH}/{topics.LABEL_INFO_JSON}'
        info = messages.known_topic(name, messages.STRING, LATCHED)
        stamp_ns = settings.start_ns + frames[0].time_ns
        bag.write(info, stamp_ns, messages.serialize(messages.string(scheme.to_json())))
    written = 0
    for frame in tqdm(frames, 'writing', unit='frame', disable=quiet or None):
        if stop():
            break
        stamp_ns = settings.start_ns + frame.time_ns
        header = messages.header(stamp_ns, settings.frame_id)
        try:
            for topic, message in _messages(frame, header, settings, scheme):
                bag.write(topic, stamp_ns, messages.serialize(message))
        except ImageError as error:
            raise BagError(f'{frame.image} or its label image: {error}') from error
        written += 1
    return written


def _messages(
    frame: SourceFrame, header: Any, settings: MessageSettings, scheme: LabelScheme
) -> Iterator[tuple[Topic, Any]]:
    """Yield the messages of one frame, each with its topic."""
    data = frame.image.read_bytes()
    if settings.compressed:
        name = settings.image_topic.removesuffix(topics.COMPRESSED_SUFFIX)
        camera = messages.known_topic(
            name + topics.COMPRESSED_SUFFIX, messages.COMPRESSED_IMAGE, CAMERA
        )
        yield camera, _compressed_image(data, header, settings.samples)
    else:
        camera = messages.known_topic(settings.image_topic, messages.IMAGE, CAMERA)
        pixels = decode_file(data, samples=settings.samples)
        if settings.encoding == 'bgr8':
            pixels = pixels[:, :, ::-1]
        yield camera, messages.image(pixels, settings.encoding, header)
    if frame.camera is not None:
        namespace = settings.image_topic.removesuffix(topics.COMPRESSED_SUFFIX).rpartition('/')[0]
        name = f'{namespace}/{topics.CAMERA_INFO}'
        info = messages.camera_info(read_intrinsics(frame.camera), image_size(data), header)
        yield messages.known_topic(name, messages.CAMERA_INFO, CAMERA), info
    if frame.label is not None:
        name = f'{topics.GROUND_TRUTH}/{topics.LABEL_MASK}'
        labels = decode_labels(frame.label.read_bytes(), scheme)
        truth = messages.known_topic(name, messages.IMAGE, RELIABLE)
        yield truth, messages.image(labels, 'mono8', header)


def _compressed_image(data: bytes, header: Any, samples: Samples | None) -> Any:
    if codec_name(data) == 'jpeg':
        # For a plain "jpeg", decoders keep color or gray.
        return messages.compressed_image(data, 'jpeg', header)
    png = encode_png(decode_file(data, samples=samples))
    return messages.compressed_image(png, compressed_format('rgb8', 'png'), header)


if __name__ == '__main__':
    sys.exit(main())
