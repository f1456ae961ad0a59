# SPDX-License-Identifier: Apache-2.0
"""The thread that carries frames from their slot to their topics, off the executor."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2

from segmentation_node.codec import ImageRgb
from segmentation_node.errors import ImageError, SegmentationError
from segmentation_node.frames import Accounts, Frame, Slots, Window
from segmentation_node.rendering import Rendered
from segmentation_node.ros.outputs import CameraOutputs

if TYPE_CHECKING:
    from segmentation_node.segmenter import Segmenter

STAGES = ('wait', 'decode', 'infer', 'publish', 'total')


class Timings:
    """Milliseconds of the newest frames by stage; `latency` is stamp to publication."""

    def __init__(self) -> None:
        self.stages = {stage: Window() for stage in STAGES}
        self.latency = Window()
        self.arrivals = Window()
        self.publications = Window()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the body of a with statement as one stage."""
        started = time.perf_counter()
        yield
        self.stages[name].add(1000 * (time.perf_counter() - started))


class Worker:
    """Takes the newest frame, segments it and publishes what is wanted of it.

    `segmenter` and `overlay_alpha` may be replaced at any time: each frame reads them once.
    """

    def __init__(
        self,
        *,
        segmenter: 'Segmenter',
        overlay_alpha: float,
        outputs: dict[str, CameraOutputs],
        accounts: Accounts,
        decode: Callable[[object], ImageRgb],
        latency_ms: Callable[[object], float],
        report: Callable[[str], None],
        is_up: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            segmenter: what to run.
            overlay_alpha: share of the colour mask in the overlay.
            outputs: publishers by camera.
            accounts: where every frame's fate is written.
            decode: camera message to (H, W, 3) uint8 RGB; raises ImageError.
            latency_ms: age of a message's stamp now.
            report: takes the text of a problem with one frame.
            is_up: whether there still is a ROS to publish to.
        """
        self.segmenter = segmenter
        self.overlay_alpha = overlay_alpha
        self.timings = Timings()
        self.slots = Slots(accounts)
        self.failure: BaseException | None = None
        self._outputs, self._accounts = outputs, accounts
        self._decode, self._latency_ms, self._report = decode, latency_ms, report
        self._is_up = is_up
        self._idle = threading.Event()
        self._idle.set()
        # A daemon: a network cannot be interrupted, and the process must not wait for one.
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)

    def start(self) -> None:
        """Begin to take frames."""
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Drop what waits, let the frame in work finish; False if it did not within the time."""
        self.slots.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def drain(self) -> None:
        """Drop what waits and return when the frame in work has met its fate."""
        self.slots.clear()
        self._idle.wait()

    def _run(self) -> None:
        try:
            while (frame := self.slots.take(self._idle)) is not None:
                self._accounts.settle(self._fate(frame))
                self._idle.set()
        except BaseException as error:
            # A bug of ours. The node sees it and ends with this as its reason; without the
            # record the thread would be gone and the node alive but deaf.
            self.failure = error
            self._idle.set()
            raise

    def _fate(self, frame: Frame) -> str:
        try:
            return self._process(frame)
        except RuntimeError:  # of rclpy, as all its errors are
            if self._is_up():
                raise
            return 'failed'  # ROS went down while the frame waited or was worked on

    def _process(self, frame: Frame) -> str:
        """Carry one frame through; returns its fate."""
        timings = self.timings
        timings.stages['wait'].add(1000 * (time.monotonic() - frame.arrived_s))
        started = time.perf_counter()
        outputs = self._outputs[frame.camera]
        wanted = outputs.wanted()
        if not wanted:
            return 'not_wanted'
        segmenter, alpha = self.segmenter, self.overlay_alpha
        try:
            with timings.stage('decode'):
                image_rgb = self._decode(frame.message)
            with timings.stage('infer'):
                found = segmenter.segment([image_rgb])
        except ImageError as error:
            self._report(f'malformed frame: {error}')
            return 'malformed'
        except SegmentationError as error:  # a graph for a new size that cannot be made or kept
            self._report(f'cannot segment a frame: {error}')
            return 'failed'
        except (RuntimeError, MemoryError, cv2.error) as error:
            # What cv_bridge and torch raise where memory runs out or a device is lost.
            self._report(f'{type(error).__name__} while segmenting: {error}')
            return 'failed'
        rendered = Rendered(
            image_rgb, found.labels[0], lambda: found.confidence[0], segmenter.scheme, alpha
        )
        try:
            with timings.stage('publish'):
                outputs.publish(wanted, rendered, frame.message.header)
        except ImageError as error:
            self._report(f'cannot publish a frame: {error}')
            return 'failed'
        timings.stages['total'].add(1000 * (time.perf_counter() - started))
        timings.latency.add(self._latency_ms(frame.message))
        timings.publications.add(time.monotonic())
        return 'published'
