# SPDX-License-Identifier: Apache-2.0
"""Worker that segments parts of bags; it knows no Ray."""

import argparse
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2

from segmentation_node import __version__
from segmentation_node.bags.camera_frames import CameraFrame
from segmentation_node.bags.camera_topic import calibrations_of, find_camera
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.segment_bag import OutputTopics, segment_bag
from segmentation_node.bags.topic import Span
from segmentation_node.bags.writer import BagWriter, DataFileSummary
from segmentation_node.cli import Report, load_segmenter
from segmentation_node.errors import CheckpointError, SettingError
from segmentation_node.fleet.inputs import BagInput, fetch
from segmentation_node.fleet.parts import BagPlan, cut
from segmentation_node.fleet.scratch import ScratchFolder
from segmentation_node.fleet.statistics import LabelStatistics
from segmentation_node.fleet.store import Store
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.rendering import Rendered
from segmentation_node.pipeline.outputs import OUTPUTS
from segmentation_node.runtimes.memory import keep_freed_memory

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

#: Malformed frames of a part that are listed.
MAX_LISTED: Final = 100


class BagWorker:
    """Segments parts of bags with a model that is loaded once."""

    def __init__(self, args: argparse.Namespace, threads: int) -> None:
        """Keep the settings; `load` loads the model.

        Args:
            args: options of label_fleet.
            threads: number of threads of the network and of OpenCV; 0 is no limit.
        """
        self._args, self._threads = args, threads
        self._frames = 0
        self._segmenter: Segmenter | None = None
        #: Bag that is on this machine, and its path.
        self._fetched: tuple[BagInput, Path] | None = None
        self._scratch = ScratchFolder()

    def load(self, version: str, digest: str) -> str:
        """Load the model, which must be that of the command; returns the name of this worker.

        Raises:
            CheckpointError, SchemeError, SettingError: it cannot be loaded, or it is another one.
        """
        if version != __version__:
            raise SettingError(
                f'{_place()} has segmentation_node {__version__}, but label_fleet is of '
                f'{version}; install the same version everywhere'
            )
        keep_freed_memory()
        cv2.setNumThreads(self._threads or -1)
        self._segmenter = load_segmenter(self._args, self._threads)
        if self._segmenter.checkpoint.content_digest != digest:
            raise CheckpointError(
                f'model {self._args.model!r} on {_place()} differs from that of label_fleet; '
                f'copy the same folder to all machines'
            )
        return _place()

    def inspect(self, bag: BagInput) -> BagPlan:
        """Find the camera of a bag and cut it into parts; raises BagError."""
        with self._open(bag) as (opened, sink):
            sink.check_free(opened)
            camera = find_camera(opened, self._args.topic)
            # A salvaged bag may end anywhere, so its parts could not be checked.
            can_be_cut = not self._args.salvage
            return BagPlan(
                camera.name,
                opened.count(camera.name),
                opened.message_count,
                cut(opened.time_range_ns() if can_be_cut else None, self._args.part_minutes * 60),
            )

    def segment(self, bag: BagInput, span: Span, output: str, name: str) -> dict[str, Any]:
        """Segment a part and write it as a data file of the output; returns its report, for JSON.

        Args:
            bag: bag to segment.
            span: part of it.
            output: folder of all results.
            name: data file in it.

        Raises:
            BagError: the bag cannot be read, or the file cannot be written.
        """
        started_s = time.monotonic()
        self._frames = 0
        segmenter = self._loaded()
        statistics = LabelStatistics()

        def watch(frame: CameraFrame, rendered: Rendered) -> None:
            nonlocal statistics
            statistics += LabelStatistics.of_frame(frame.raw.stamp_ns, rendered)

        samples = Samples(self._args.bits_per_sample)
        with (
            _warnings() as warnings,
            self._open(bag) as (opened, sink),
            Store(output).new_file(name) as path,
        ):
            camera = find_camera(opened, self._args.topic)
            with BagWriter(path) as out:
                report = segment_bag(
                    opened, camera, segmenter, sink, out, done=self._count, samples=samples,
                    span=span, watch=watch,
                )  # fmt: skip
            samples.end()
            summary = out.summary
            copied = _copied(summary, opened)
            if not summary.message_count:
                path.unlink()
        return {
            'span_ns': list(span),
            'file': list(summary) if summary.message_count else None,
            'messages': copied,
            **_counts(report),
            'warnings': warnings,
            'statistics': statistics.to_json(),
            'seconds': round(time.monotonic() - started_s, 3),
            'worker': _place(),
            'runtime': f'{segmenter.runtime} {segmenter.precision} on {segmenter.device}',
        }

    def frames_done(self) -> int:
        """Return the number of frames of the part that is being segmented."""
        return self._frames

    def close(self) -> None:
        """Remove the copy of a bag."""
        self._scratch.remove()

    def _count(self, frames: int) -> None:
        self._frames += frames

    def _loaded(self) -> 'Segmenter':
        if self._segmenter is None:
            raise RuntimeError('load() must be called first')
        return self._segmenter

    @contextmanager
    def _open(self, bag: BagInput) -> Iterator[tuple[Bag, OutputTopics]]:
        with open_bag(self._fetch(bag), self._args.salvage) as opened:
            camera = find_camera(opened, self._args.topic)
            outputs = [OUTPUTS[name] for name in self._args.outputs]
            calibrations = calibrations_of(camera, opened)
            yield (
                opened,
                OutputTopics(
                    self._args.namespace,
                    outputs,
                    self._args.overlay_alpha,
                    calibrations,
                    outlines=self._args.outlines,
                ),
            )

    def _fetch(self, bag: BagInput) -> Path:
        """Return the path of a bag; one from an object store stays here until the next one."""
        if self._fetched is None or self._fetched[0] != bag:
            self._fetched = None
            self._fetched = bag, fetch(bag, self._scratch.empty)
        return self._fetched[1]


def _place() -> str:
    return f'{socket.gethostname()}:{os.getpid()}'


def _copied(summary: DataFileSummary, bag: Bag) -> int:
    """Return the number of messages in a data file that are those of the bag."""
    names = {topic.name for topic in bag.topics}
    return sum(
        topic['message_count']
        for topic in summary.topics
        if topic['topic_metadata']['name'] in names
    )


def _counts(report: Report) -> dict[str, Any]:
    return {
        'segmented': report.segmented,
        'malformed': len(report.malformed),
        'malformed_frames': report.malformed[:MAX_LISTED],
    }


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what is logged as a warning, once each; nobody sees the log of a worker."""
    texts: dict[str, None] = {}
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.setdefault(record.getMessage())  # type: ignore[method-assign]
    found: list[str] = []
    logging.getLogger('segmentation_node').addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger('segmentation_node').removeHandler(handler)
        found += texts
