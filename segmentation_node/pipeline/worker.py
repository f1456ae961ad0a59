# SPDX-License-Identifier: Apache-2.0
"""The threads that carry frames from their slot to their topics, off the executor.

    slots ─ decode ─► decoded ─ infer ─► hand-off ─ publish ─► topics

While the network runs on one frame, the masks of the frame before are painted, compressed and
published. Where the network has a device of its own, the newest frames are decoded meanwhile, too;
on a CPU that would gain nothing and make them older, so a frame is decoded when the network waits.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import cv2

from segmentation_node.errors import ImageError, SegmentationError, one_line
from segmentation_node.images.encodings import ImageRgb
from segmentation_node.images.rendering import Rendered
from segmentation_node.pipeline.frames import Accounts, Frame, HandOff, Slots, Window
from segmentation_node.pipeline.outputs import Output

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

#: `wait` is from a frame's arrival to its decoding; `infer` is of its whole batch; `total` is from
#: decoding to publication, with what a frame waits for the network and for the frame before.
STAGES = ('wait', 'decode', 'infer', 'publish', 'total')
#: How long a frame waits for those of other cameras to go through the network with it; cameras
#: that are triggered together differ by less.
COMPANY_S: Final = 0.005

#: What costs frames and is no bug: beside what is wrong with an image, what cv_bridge, OpenCV and
#: torch raise where memory runs out or a device is lost.
_TROUBLES: Final = (SegmentationError, RuntimeError, MemoryError, cv2.error)


class ShutDown(Exception):  # noqa: N818 (an end, not an error)
    """The middleware was shut down: nothing can be published any more."""


class MaskPublisher(Protocol):
    """Publishes the pictures of one camera; all methods may raise `ShutDown`."""

    def wanted(self) -> list[Output]:
        """Return the outputs that have a subscriber now."""
        ...

    def canvas(self, topic: str, size_hw: tuple[int, int]) -> ImageRgb:
        """Return memory to paint a picture of a topic in; valid until the next image's."""
        ...

    def publish(self, outputs: list[Output], rendered: Rendered, header: Any) -> None:
        """Publish outputs of one image with the header of its camera message."""
        ...


class Timings:
    """Milliseconds of the newest frames by stage; `latency` is stamp to publication."""

    def __init__(self) -> None:
        self.stages = {stage: Window() for stage in STAGES}
        self.batch = Window()
        self.latency = Window()
        self.arrivals = Window()
        self.publications = Window()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a with statement as one stage."""
        started = time.perf_counter()
        yield
        self.stages[name].add(1000 * (time.perf_counter() - started))


@dataclass
class Decoded:
    """A frame that is ready for the network, and what is wanted of it."""

    frame: Frame
    wanted: list[Output]
    image_rgb: ImageRgb
    begun_s: float

    @property
    def camera(self) -> str:
        """Which camera."""
        return self.frame.camera


class Worker:
    """Takes the newest frames, segments them and publishes what is wanted of them.

    `segmenter` and `overlay_alpha` may be replaced at any time: each batch reads them once.
    """

    def __init__(
        self,
        *,
        segmenter: 'Segmenter',
        overlay_alpha: float,
        publishers: Mapping[str, MaskPublisher],
        accounts: Accounts,
        decode: Callable[[object], ImageRgb],
        latency_ms: Callable[[object], float],
        report: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            segmenter: what to run.
            overlay_alpha: share of the colour mask in the overlay.
            publishers: by camera.
            accounts: where every frame's fate is written.
            decode: camera message to (H, W, 3) uint8 RGB; raises ImageError.
            latency_ms: age of a message's stamp now.
            report: takes the text of a problem with one frame.
        """
        self.segmenter = segmenter
        self.overlay_alpha = overlay_alpha
        self.timings = Timings()
        self.slots: Slots[Frame] = Slots(accounts)
        self._decoded: Slots[Decoded] = Slots(accounts)
        self._segmented: HandOff[list[tuple[Decoded, Rendered]]] = HandOff()
        self.failure: BaseException | None = None
        #: When the last mask was published, in seconds of the monotonic clock.
        self.published_s = -math.inf
        self._image_hw: dict[str, tuple[int, int]] = {}
        self._publishers, self._accounts = publishers, accounts
        self._decode, self._latency_ms, self._report = decode, latency_ms, report
        # Daemons: a network cannot be interrupted, and the process must not wait for one.
        self._threads = [
            threading.Thread(target=self._run, args=(work, end), name=name, daemon=True)
            for name, work, end in (
                ('decode', self._decode_frames, self._decoded.close),
                ('infer', self._segment_frames, self._segmented.close),
                ('publish', self._publish_frames, self.slots.close),
            )
        ]

    @property
    def image_sizes_hw(self) -> set[tuple[int, int]]:
        """Heights and widths of the newest images that were segmented, of all cameras."""
        return set(self._image_hw.copy().values())

    def start(self) -> None:
        """Begin to take frames."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = threading.TIMEOUT_MAX) -> bool:
        """Drop what waits, let the frames in work finish; False if not all did within the time."""
        until_s = time.monotonic() + timeout_s
        self.slots.close()
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def drain(self) -> None:
        """Drop what waits and return when the frames in work have met their fates.

        None may arrive meanwhile.
        """
        self.slots.clear()
        self._accounts.wait_until_settled()

    def _run(self, work: Callable[[], None], end: Callable[[], None]) -> None:
        """Do a stage's work until there is no more, then end the next stage."""
        try:
            work()
        except BaseException as error:
            # A bug of ours. The node sees it and ends with this as its reason; without the
            # record the thread would be gone and the node alive but deaf.
            self.failure = error
            for hand_over in (self.slots, self._decoded, self._segmented):
                hand_over.close()
            self._accounts.abandon()
            raise
        end()

    def _decode_frames(self) -> None:
        while True:
            if not self.segmenter.offloads:
                self._decoded.wait_until_awaited()
            if not (frames := self.slots.take()):
                return
            self._decode_frame(*frames)

    def _decode_frame(self, frame: Frame) -> None:
        begun_s = time.monotonic()
        self.timings.stages['wait'].add(1000 * (begun_s - frame.arrived_s))
        try:
            wanted = self._publishers[frame.camera].wanted()
            if not wanted:
                self._accounts.settle('not_wanted')
                return
        except ShutDown:
            self._accounts.settle('failed')
            return
        try:
            with self.timings.stage('decode'):
                image_rgb = self._decode(frame.message)
        except _TROUBLES as error:
            self._accounts.settle(self._trouble(error))
            return
        self._decoded.put(Decoded(frame, wanted, image_rgb, begun_s))

    def _segment_frames(self) -> None:
        while frames := self._decoded.take(self._batch_limit(), COMPANY_S):
            for batch in _by_size(frames):
                self._segment(batch)

    def _batch_limit(self) -> int:
        return len(self._publishers) if self.segmenter.offloads else 1

    def _segment(self, batch: list[Decoded]) -> None:
        """Send frames of one size through the network together and hand them on."""
        segmenter, alpha = self.segmenter, self.overlay_alpha
        try:
            with self.timings.stage('infer'):
                found = segmenter.segment([decoded.image_rgb for decoded in batch])
        except _TROUBLES as error:
            self._settle_all(batch, self._trouble(error))
            return
        self.timings.batch.add(len(batch))
        for decoded in batch:
            self._image_hw[decoded.camera] = found.labels.shape[1:]
        rendered = [
            Rendered(
                decoded.image_rgb, found.labels[index], partial(found.confidence_of, index),
                segmenter.scheme, alpha, self._publishers[decoded.camera].canvas,
            )
            for index, decoded in enumerate(batch)
        ]  # fmt: skip
        if not self._segmented.give(list(zip(batch, rendered, strict=True))):
            self._settle_all(batch, 'failed')

    def _publish_frames(self) -> None:
        while (batch := self._segmented.take()) is not None:
            for decoded, rendered in batch:
                self._publish(decoded, rendered)

    def _publish(self, decoded: Decoded, rendered: Rendered) -> None:
        message, timings = decoded.frame.message, self.timings
        try:
            with timings.stage('publish'):
                self._publishers[decoded.camera].publish(decoded.wanted, rendered, message.header)
        except ImageError as error:
            self._report(f'cannot publish a frame: {error}')
            self._accounts.settle('failed')
            return
        except ShutDown:
            self._accounts.settle('failed')
            return
        now_s = self.published_s = time.monotonic()
        timings.stages['total'].add(1000 * (now_s - decoded.begun_s))
        timings.latency.add(self._latency_ms(message))
        timings.publications.add(now_s)
        self._accounts.settle('published')

    def _trouble(self, error: Exception) -> str:
        """Report why frames cannot be segmented; returns their fate."""
        if isinstance(error, ImageError):
            self._report(f'malformed frame: {error}')
            return 'malformed'
        if isinstance(error, SegmentationError):  # a graph for a new size that cannot be made
            self._report(f'cannot segment a frame: {error}')
        else:
            self._report(f'{type(error).__name__} while segmenting: {one_line(error)}')
        return 'failed'

    def _settle_all(self, batch: list[Decoded], fate: str) -> None:
        for _ in batch:
            self._accounts.settle(fate)


def _by_size(frames: list[Decoded]) -> list[list[Decoded]]:
    """Frames whose images have one size together; a network takes no others in a batch."""
    batches: dict[tuple[int, ...], list[Decoded]] = {}
    for decoded in frames:
        batches.setdefault(decoded.image_rgb.shape, []).append(decoded)
    return list(batches.values())
