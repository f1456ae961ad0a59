# SPDX-License-Identifier: Apache-2.0
"""Threads that take frames from their slots to their topics, outside the executor's threads.

    slots ─ decode ─► decoded ─ infer ─► hand-off ─ publish ─► topics

While the network processes one frame, the masks of the previous frame are painted, compressed and
published. If the network runs on a GPU, the newest frames are also decoded meanwhile. On a CPU
that would save no time and make frames older, so a frame is decoded when the network is free.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import ImageError, SegmentationError, one_line
from segmentation_node.images.rendering import Rendered
from segmentation_node.pipeline.domain import DomainCount
from segmentation_node.pipeline.frames import FRAME_ERRORS, Accounts, LiveFrame
from segmentation_node.pipeline.live_scores import LiveScores, PublishedFrame
from segmentation_node.pipeline.outputs import Output, OutputPublisher, ShutDown
from segmentation_node.pipeline.slots import HandOff, Slots
from segmentation_node.pipeline.timings import StageTimings
from segmentation_node.pipeline.tracking import InstanceTracker
from segmentation_node.pipeline.truth import ScoredModel

if TYPE_CHECKING:
    from segmentation_node.segmenter import Prediction, Segmenter

#: How long a frame waits for frames of other cameras to share a batch with; cameras that are
#: triggered together differ by less.
BATCH_WAIT_S: Final = 0.005


@dataclass
class ReadyFrame:
    """A decoded frame with the outputs to publish for it."""

    frame: LiveFrame
    wanted: list[Output]
    image_rgb: UInt8Array
    begun_s: float
    #: True if the scores that need no truth are wanted.
    measured: bool
    #: What is scored; None before the frame is segmented, and if nothing is.
    scored: PublishedFrame | None = None

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.frame.camera


class Worker:
    """Takes the newest frames, segments them and publishes the wanted outputs.

    `segmenter`, `overlay_alpha`, `outlines` and `track_instances` may be replaced at any time:
    each batch reads them once.
    """

    def __init__(
        self,
        *,
        segmenter: 'Segmenter',
        overlay_alpha: float,
        publishers: Mapping[str, OutputPublisher],
        accounts: Accounts,
        decode: Callable[[object], UInt8Array],
        latency_ms: Callable[[object], float],
        report: Callable[[str], None],
        outlines: bool = False,
        track_instances: bool = False,
        scores: LiveScores | None = None,
    ) -> None:
        """Prepare the threads; `start` starts them.

        Args:
            segmenter: model to run.
            overlay_alpha: share of the color mask in the overlay.
            publishers: publisher of each camera.
            accounts: receives the fate of every frame.
            decode: converts a camera message to (H, W, 3) uint8 RGB; raises ImageError.
            latency_ms: returns the age of a message's stamp.
            report: receives the text of a problem with a frame.
            outlines: paint the outlines of instances in the overlay.
            track_instances: give instances ids that stay with their objects.
            scores: scores the published frames; None for no scores.
        """
        self.segmenter = segmenter
        self.overlay_alpha, self.outlines = overlay_alpha, outlines
        self.track_instances = track_instances
        # Used by the thread that publishes, which gets the frames of a camera in their order.
        self._trackers = {camera: InstanceTracker() for camera in publishers}
        self.timings = StageTimings()
        self.domain = DomainCount()
        self.slots: Slots[LiveFrame] = Slots(accounts)
        self._decoded: Slots[ReadyFrame] = Slots(accounts)
        self._segmented: HandOff[list[tuple[ReadyFrame, Rendered]]] = HandOff()
        self.failure: BaseException | None = None
        #: Time of the last published mask, in seconds of the monotonic clock.
        self.published_s = -math.inf
        self._image_hw: dict[str, tuple[int, int]] = {}
        self._publishers, self._accounts = publishers, accounts
        self.scores = scores
        self._decode, self._latency_ms, self._report = decode, latency_ms, report
        # Daemons: a network cannot be interrupted, and the process must not wait for one.
        self._threads = [
            threading.Thread(target=self._run, args=(work, close_next), name=name, daemon=True)
            for name, work, close_next in (
                ('decode', self._decode_frames, self._decoded.close),
                ('infer', self._segment_frames, self._segmented.close),
                ('publish', self._publish_frames, self.slots.close),
            )
        ]

    @property
    def image_sizes_hw(self) -> set[tuple[int, int]]:
        """Height and width of the newest segmented image of each camera."""
        return set(self._image_hw.copy().values())

    def start(self) -> None:
        """Start to process frames."""
        if self.scores is not None:
            self.scores.start()
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = threading.TIMEOUT_MAX) -> bool:
        """Drop waiting frames and finish those in progress; return False on timeout."""
        deadline_s = time.monotonic() + timeout_s
        self.slots.close()
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        scored = self.scores is None or self.scores.stop(deadline_s - time.monotonic())
        return scored and not any(thread.is_alive() for thread in self._threads)

    def drain(self) -> None:
        """Drop waiting frames and return when those in progress are settled.

        No frame may arrive meanwhile.
        """
        self.slots.clear()
        self._accounts.wait_until_settled()

    def _run(self, work: Callable[[], None], close_next: Callable[[], None]) -> None:
        """Run one stage until its input is closed, then close the input of the next stage."""
        try:
            work()
        except BaseException as error:
            # A bug of ours. The node reads it and ends with this reason; otherwise the thread
            # would be gone and the node would go on without processing any frame.
            self.failure = error
            for connection in (self.slots, self._decoded, self._segmented):
                connection.close()
            self._accounts.abandon()
            raise
        close_next()

    # Stage 1: decode

    def _decode_frames(self) -> None:
        while True:
            if not self.segmenter.offloads:
                self._decoded.wait_for_taker()
            if not (frames := self.slots.take()):
                return
            self._decode_frame(*frames)

    def _decode_frame(self, frame: LiveFrame) -> None:
        begun_s = time.monotonic()
        self.timings.stages['wait'].add(1000 * (begun_s - frame.arrived_s))
        if (wanted := self._wanted(frame)) is None:
            return
        outputs, measured = wanted
        try:
            with self.timings.stage('decode'):
                image_rgb = self._decode(frame.message)
        except FRAME_ERRORS as error:
            self._accounts.settle(self._report_error(error))
            return
        self._decoded.put(ReadyFrame(frame, outputs, image_rgb, begun_s, measured))

    def wanted(self, camera: str) -> tuple[list[Output], bool]:
        """Return the outputs of a camera that have a subscriber, and whether its scores have.

        Raises ShutDown.
        """
        outputs = self._publishers[camera].wanted()
        return outputs, self.scores is not None and self.scores.wanted(camera)

    def _wanted(self, frame: LiveFrame) -> tuple[list[Output], bool] | None:
        """Return what is wanted of a frame; settles the frame if that is nothing."""
        try:
            wanted = self.wanted(frame.camera)
        except ShutDown:
            self._accounts.settle('failed')
            return None
        if not any(wanted):
            self._accounts.settle('not_wanted')
            return None
        return wanted

    # Stage 2: infer

    def _segment_frames(self) -> None:
        while frames := self._decoded.take(self._batch_limit(), BATCH_WAIT_S):
            for batch in _batches_by_size(frames):
                self._segment(batch)

    def _batch_limit(self) -> int:
        return len(self._publishers) if self.segmenter.offloads else 1

    def _segment(self, batch: list[ReadyFrame]) -> None:
        """Segment frames of one size as a batch and hand them on."""
        segmenter, alpha = self.segmenter, self.overlay_alpha
        try:
            with self.timings.stage('infer'):
                prediction = segmenter.segment([ready.image_rgb for ready in batch])
        except FRAME_ERRORS as error:
            self._settle_all(batch, self._report_error(error))
            return
        self.timings.batch.add(len(batch))
        self.domain = self.domain.after(prediction)
        for ready in batch:
            self._image_hw[ready.camera] = ready.image_rgb.shape[:2]
        rendered = self._rendered(batch, prediction, segmenter, alpha)
        if self.scores is not None:
            model = ScoredModel(segmenter.checkpoint.name, segmenter.scheme)
            self._prepare_scores(batch, prediction, rendered, model)
        if not self._segmented.give(list(zip(batch, rendered, strict=True))):
            self._settle_all(batch, 'failed')

    def _rendered(
        self,
        batch: list[ReadyFrame],
        prediction: 'Prediction',
        segmenter: 'Segmenter',
        alpha: float,
    ) -> list[Rendered]:
        outlines, track = self.outlines, self.track_instances
        rendered = [
            Rendered(
                ready.image_rgb, prediction.labels[index],
                partial(prediction.confidence_of, index),
                segmenter.scheme, alpha, self._publishers[ready.camera].canvas,
                find_instances=partial(prediction.instances_of, index), outlines=outlines,
            )
            for index, ready in enumerate(batch)
        ]  # fmt: skip
        if track:
            model = segmenter.checkpoint.folder, segmenter.scheme
            for ready, picture in zip(batch, rendered, strict=True):
                picture.find_instances = self._trackers[ready.camera].deferred(
                    picture.find_instances, ready.frame.stamp_ns, model
                )
        return rendered

    def _prepare_scores(
        self,
        batch: list[ReadyFrame],
        prediction: 'Prediction',
        rendered: list[Rendered],
        model: ScoredModel,
    ) -> None:
        distances = prediction.distances or [None] * len(batch)
        for ready, picture, distance in zip(batch, rendered, distances, strict=True):
            ready.scored = PublishedFrame(
                ready.camera, ready.frame.stamp_ns, ready.image_rgb, picture.label_mask,
                partial(getattr, picture, 'confidence'), model, distance, prediction.max_distance,
            )  # fmt: skip

    # Stage 3: publish

    def _publish_frames(self) -> None:
        while (batch := self._segmented.take()) is not None:
            for ready, rendered in batch:
                self._publish(ready, rendered)

    def _publish(self, ready: ReadyFrame, rendered: Rendered) -> None:
        header = ready.frame.message.header
        try:
            with self.timings.stage('publish'):
                self._publishers[ready.camera].publish(ready.wanted, rendered, header)
        except ImageError as error:
            self._report(f'cannot publish a frame: {error}')
            self._accounts.settle('failed')
        except ShutDown:
            self._accounts.settle('failed')
        else:
            self._note_published(ready)
            self._accounts.settle('published')
            if self.scores is not None and ready.scored is not None:
                self.scores.add(ready.scored, ready.measured)

    def _note_published(self, ready: ReadyFrame) -> None:
        timings = self.timings
        now_s = self.published_s = time.monotonic()
        timings.stages['total'].add(1000 * (now_s - ready.begun_s))
        timings.latency.add(self._latency_ms(ready.frame.message))
        timings.publications.add(now_s)

    # Failures

    def _report_error(self, error: Exception) -> str:
        """Report why frames cannot be segmented and return their fate."""
        if isinstance(error, ImageError):
            self._report(f'malformed frame: {error}')
            return 'malformed'
        if isinstance(error, SegmentationError):  # such as a graph that cannot be compiled
            self._report(f'cannot segment a frame: {error}')
        else:
            self._report(f'{type(error).__name__} while segmenting: {one_line(error)}')
        return 'failed'

    def _settle_all(self, batch: list[ReadyFrame], fate: str) -> None:
        for _ in batch:
            self._accounts.settle(fate)


def _batches_by_size(frames: list[ReadyFrame]) -> list[list[ReadyFrame]]:
    """Group frames by image size, because the images of a batch must have one size."""
    batches: dict[tuple[int, ...], list[ReadyFrame]] = {}
    for ready in frames:
        batches.setdefault(ready.image_rgb.shape, []).append(ready)
    return list(batches.values())
