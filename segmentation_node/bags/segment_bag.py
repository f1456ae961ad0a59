# SPDX-License-Identifier: Apache-2.0
"""Command: segment the camera of a bag, every frame, without a ROS graph."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.bounds import tell
from segmentation_node.bags.camera_frames import CameraFrame, CameraFrames
from segmentation_node.bags.camera_topic import calibrations_of, find_camera
from segmentation_node.bags.options import add_input_options, add_output_options
from segmentation_node.bags.qos import LATCHED, RELIABLE
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.rerun_recording import (
    RerunRecording,
    check_recording,
    import_rerun,
)
from segmentation_node.bags.topic import ALL, RawMessage, Span, Topic
from segmentation_node.bags.writer import BagWriter, check_output
from segmentation_node.cli import (
    EXIT_INCOMPLETE,
    HelpFormatter,
    Report,
    add_bits_option,
    add_model_options,
    add_outputs_option,
    count,
    load_segmenter,
    topic_name,
)
from segmentation_node.errors import (
    BagError,
    ImageError,
    MemoryLimitError,
    SegmentationError,
    SettingError,
)
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.rendering import Rendered
from segmentation_node.interrupt import stop_on_signal
from segmentation_node.pipeline.outputs import COMPRESSED, DETECTIONS, IMAGE, OUTPUTS, Output
from segmentation_node.pipeline.tracking import InstanceTracker
from segmentation_node.runtimes.memory import keep_freed_memory

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

_MESSAGE_TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        IMAGE: messages.IMAGE,
        COMPRESSED: messages.COMPRESSED_IMAGE,
        DETECTIONS: messages.DETECTIONS,
    }
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='segment_bag',
        description='Segment every frame of the camera in a bag, and write a bag with all of its '
        'messages and the label, color and overlay images.',
        epilog=f'exit status: 0 all frames segmented; 1 error; {EXIT_INCOMPLETE} done, but some '
        'frames were malformed and are listed; 130 interrupted, the bag is complete up to there',
        formatter_class=HelpFormatter,
    )
    add_input_options(parser)
    add_output_options(parser)
    add_bits_option(parser)
    parser.add_argument(
        '--topic', metavar='NAME',
        help='camera topic: Image, CompressedImage, or compressed video; required if the bag has '
        'several cameras',
    )  # fmt: skip
    add_outputs_option(parser, OUTPUTS)
    parser.add_argument(
        '--namespace', type=topic_name, default=f'/{topics.NODE_NAME}',
        help='namespace of the written topics',
    )  # fmt: skip
    parser.add_argument(
        '--limit', type=count, metavar='N',
        help='only the first N frames, and the messages of other topics until frame N + 1; '
        'default: all',
    )  # fmt: skip
    parser.add_argument(
        '--rrd', type=Path, metavar='FILE',
        help='also write a recording for the Rerun viewer: images, labels, instances and scores; '
        'the name ends in .rrd; needs the extra "rerun"',
    )  # fmt: skip
    add_model_options(parser)
    parser.add_argument(
        '--track', action='store_true',
        help='give instances ids that stay with their objects from frame to frame; requires the '
        f'output {" or ".join(topics.OF_INSTANCES)}',
    )  # fmt: skip
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    keep_freed_memory()
    try:
        return _run(args)
    except (SegmentationError, OSError) as error:
        tell('segment_bag', error)
        return 1


def _run(args: argparse.Namespace) -> int:
    check_output(args.output, args.storage, args.overwrite, [args.input])
    outputs = [OUTPUTS[name] for name in args.outputs]
    if args.track and not any(output.needs_instances for output in outputs):
        raise SettingError(
            f'--track gives ids to instances, which --outputs {",".join(args.outputs)} does not '
            f'contain; add {" or ".join(topics.OF_INSTANCES)}, or leave out --track'
        )
    if args.rrd is not None:
        check_recording(args.rrd, args.overwrite, [args.input, args.output])
        import_rerun()  # an error before the model is loaded
    with open_bag(args.input, args.salvage) as bag:
        camera = find_camera(bag, args.topic)
        calibrations = calibrations_of(camera, bag)
        sink = OutputTopics(
            args.namespace, outputs, args.overlay_alpha, calibrations, outlines=args.outlines,
            tracker=InstanceTracker() if args.track else None,
        )  # fmt: skip
        sink.check_free(bag)
        segmenter = load_segmenter(args)
        frames = min(bag.count(camera.name), args.limit or sys.maxsize)
        progress = tqdm(total=frames, unit='frame', disable=args.quiet or None)
        with (
            stop_on_signal() as stop,
            BagWriter(args.output, args.storage, args.overwrite, [args.input]) as out,
            _recording(args, segmenter) as record,
            progress,
        ):
            samples = Samples(args.bits_per_sample)
            report = segment_bag(
                bag, camera, segmenter, sink, out, args.limit, lambda: bool(stop),
                progress.update, samples, watch=record,
            )  # fmt: skip
    samples.end()
    place = args.output if args.rrd is None else f'{args.output} and {args.rrd}'
    _tell(report, frames, place, interrupted=bool(stop))
    return stop.exit_status or (EXIT_INCOMPLETE if report.malformed else 0)


@contextmanager
def _recording(
    args: argparse.Namespace, segmenter: 'Segmenter'
) -> Iterator[Callable[[CameraFrame, Rendered], Any]]:
    """Yield a function that adds a frame to the recording, if there is one."""
    if args.rrd is None:
        yield lambda *_: None
        return
    with RerunRecording(args.rrd, segmenter, args.input.name) as recording:
        yield recording.add


def _tell(report: Report, frames: int, place: object, interrupted: bool) -> None:
    for line in report.malformed:
        tell('segment_bag', f'malformed: {line}')
    print(report.summary(frames, 'frames', place, interrupted=interrupted))


class OutputTopics:
    """Topics of the segmentation, and the messages of a frame on them."""

    def __init__(
        self,
        namespace: str,
        outputs: Sequence[Output],
        overlay_alpha: float,
        calibrations: Collection[Topic] = (),
        *,
        outlines: bool = False,
        tracker: InstanceTracker | None = None,
    ) -> None:
        """Name the topics.

        Args:
            namespace: beginning of their names.
            outputs: pictures to write of each frame.
            overlay_alpha: share of the colors in the overlay.
            calibrations: topics whose messages are written as the calibration of the masks.
            outlines: paint the outlines of instances in the overlay.
            tracker: gives instances ids that stay with their objects, if all frames are written
                in their order; None keeps the ids of the model.
        """
        self._tracker = tracker
        self._overlay_alpha, self._outlines = overlay_alpha, outlines
        self._calibrations = calibrations
        self._json = messages.known_topic(
            f'{namespace}/{topics.LABEL_INFO_JSON}', messages.STRING, LATCHED
        )
        self._info = messages.known_topic(
            f'{namespace}/{topics.LABEL_INFO}', messages.LABEL_INFO, LATCHED
        )
        self._camera_info = messages.known_topic(
            f'{namespace}/{topics.CAMERA_INFO}', messages.CAMERA_INFO, RELIABLE
        )
        self._topics = {
            messages.known_topic(
                f'{namespace}/{output.name}',
                _MESSAGE_TYPES[output.form],
                RELIABLE,
            ): output
            for output in outputs
        }

    def check_free(self, bag: Bag) -> None:
        """Raise BagError where the bag has one of the topics already."""
        added = [self._json, self._info, *self._topics]
        added += [self._camera_info] if self._calibrations else []
        taken = {topic.name for topic in bag.topics} & {topic.name for topic in added}
        if taken:
            raise BagError(
                f'{bag.path} already has {", ".join(sorted(taken))}; write beside them with '
                f'another --namespace, or segment the bag that they were made from'
            )

    def write_scheme(self, segmenter: 'Segmenter', stamp_ns: int, out: BagWriter) -> None:
        """Write the description of the label ids, in both forms."""
        scheme = segmenter.scheme
        header = messages.header(stamp_ns, '')
        info = messages.label_info(scheme, segmenter.min_confidence, header)
        for topic, message in (
            (self._json, messages.string(scheme.to_json())),
            (self._info, info),
        ):
            out.write(topic, stamp_ns, messages.serialize(message))

    def write_calibration(self, message: RawMessage, out: BagWriter) -> None:
        """Write a calibration again, unchanged, since a mask has the size of its image."""
        if message.topic in self._calibrations:
            out.write(self._camera_info, message.stamp_ns, message.cdr, message.sent_ns)

    def write(
        self,
        image_rgb: UInt8Array,
        segmenter: 'Segmenter',
        header: Any,
        stamp_ns: int,
        out: BagWriter,
    ) -> Rendered:
        """Segment one frame and write its outputs with the header of its camera message.

        Raises:
            ImageError: the frame cannot be segmented or an output compressed; none is written.
        """
        rendered = segmenter.render(image_rgb, self._overlay_alpha, outlines=self._outlines)
        if self._tracker is not None:
            time_ns = messages.header_stamp_ns(header)
            find = self._tracker.deferred(rendered.find_instances, time_ns)
            rendered = replace(rendered, find_instances=find)
        # All are made before the first is written: a frame has all its outputs or none.
        made = [
            (topic, messages.serialize(_message(output, rendered, header)))
            for topic, output in self._topics.items()
        ]
        for topic, cdr in made:
            out.write(topic, stamp_ns, cdr)
        return rendered


def _message(output: Output, rendered: Rendered, header: Any) -> Any:
    content = output.render(rendered)
    if output.form == DETECTIONS:
        return messages.detections(content, header)
    if output.encode is None:
        return messages.image(content, output.encoding, header)
    return messages.compressed_image(output.encode(content), output.format, header)


def segment_bag(
    bag: Bag,
    camera: Topic,
    segmenter: 'Segmenter',
    sink: OutputTopics,
    out: BagWriter,
    limit: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    done: Callable[[int], Any] = lambda _: None,
    samples: Samples | None = None,
    span: Span = ALL,
    watch: Callable[[CameraFrame, Rendered], Any] = lambda *_: None,
) -> Report:
    """Copy a bag message by message, each frame followed by its segmentation.

    The outputs of consecutive spans, one after another, equal the output of the whole bag.

    Args:
        bag: input.
        camera: its topic to segment.
        segmenter: called with one image at a time, so that results equal a direct evaluation.
        sink: topics of the segmentation.
        out: output; messages of the input are copied unchanged.
        limit: number of frames; the copy ends where the next one begins.
        stop: asked before each message.
        done: told 1 after each frame.
        samples: scales frames of 16 bits; without it all 16 are significant.
        span: messages to copy.
        watch: told of each segmented frame.
    """
    report = Report()
    frames = CameraFrames(samples)
    for topic in bag.topics:
        out.add_topic(topic)
    _catch_up(frames, bag, camera, span)
    first = span.is_first
    for message in bag.messages(span=span):
        if stop() or (message.topic.name == camera.name and report.left(limit) == 0):
            break
        if first:
            sink.write_scheme(segmenter, message.stamp_ns, out)
            first = False
        out.write(message.topic, message.stamp_ns, message.cdr, message.sent_ns)
        sink.write_calibration(message, out)
        if message.topic.name == camera.name:
            try:
                found = frames.take(message)
            except (messages.MessageError, ImageError) as error:
                _miss(report, message, error)
                done(1)
                found = []
            for frame in islice(found, report.left(limit)):
                _segment_frame(frame, segmenter, sink, out, report, watch)
                done(1)
    else:
        for frame in islice(frames.rest() if span.is_last else [], report.left(limit)):
            _segment_frame(frame, segmenter, sink, out, report, watch)
            done(1)
    return report


def _catch_up(frames: CameraFrames, bag: Bag, camera: Topic, span: Span) -> None:
    """Decode the video before a span, since its frames depend on earlier ones."""
    if not span.is_first and bag.carries_video(camera.name):
        for message in bag.messages({camera.name}, Span(end_ns=span.start_ns)):
            with suppress(messages.MessageError, ImageError):  # reported with its own span
                frames.take(message)


def _miss(report: Report, message: RawMessage, error: SegmentationError) -> None:
    report.miss(f'frame {report.images} at {message.stamp_ns} ns', error)


def _segment_frame(
    frame: CameraFrame,
    segmenter: 'Segmenter',
    sink: OutputTopics,
    out: BagWriter,
    report: Report,
    watch: Callable[[CameraFrame, Rendered], Any],
) -> None:
    try:
        rendered = sink.write(frame.decode(), segmenter, frame.header, frame.raw.stamp_ns, out)
    except (ImageError, MemoryLimitError) as error:
        _miss(report, frame.raw, error)
    else:
        report.add(rendered.out_of_domain)
        watch(frame, rendered)


if __name__ == '__main__':
    sys.exit(main())
