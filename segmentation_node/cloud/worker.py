# SPDX-License-Identifier: Apache-2.0
"""Thread that builds clouds of matched messages and publishes them."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy.typing as npt

from segmentation_node.arrays import UInt8Array
from segmentation_node.cloud.camera import CameraInfoMessage, Pinhole
from segmentation_node.cloud.geometry import CloudGeometry, DepthGeometry, PointSource
from segmentation_node.cloud.points import CloudBuilder, Pixels, Points
from segmentation_node.cloud.selection import PointSelection
from segmentation_node.errors import (
    CalibrationError,
    CloudError,
    ImageError,
    SegmentationError,
    SettingError,
    one_line,
)
from segmentation_node.labels import LabelScheme
from segmentation_node.pipeline.frames import FRAME_ERRORS, Accounts
from segmentation_node.pipeline.outputs import ShutDown
from segmentation_node.pipeline.slots import Slots
from segmentation_node.pipeline.timings import StageTimings

STAGES: Final = ('wait', 'build', 'publish', 'total')


@dataclass(frozen=True)
class Recipe:
    """Settings and latched inputs that clouds are built with; None if not received yet."""

    selection: PointSelection = field(default_factory=PointSelection)
    organized: bool = False
    intrinsics: str = 'P'
    scheme: LabelScheme | None = None
    camera_info: CameraInfoMessage | None = None

    def ids(self) -> UInt8Array | None:
        """Return the table of the selected ids; None for all; raises SettingError."""
        if not self.selection.needs_scheme:
            return None
        return self.selection.ids(self._scheme())

    def palette(self) -> UInt8Array:
        """Return the color of each id, (256, 3) uint8; raises SettingError."""
        return self._scheme().palette

    def geometry(self, source: npt.NDArray[Any] | CloudGeometry) -> PointSource:
        """Return the coordinates of a depth image or cloud; raises CalibrationError."""
        if isinstance(source, CloudGeometry):
            return source
        if self.camera_info is None:
            raise CalibrationError('no calibration has arrived yet; publish camera_info')
        return DepthGeometry(source, Pinhole.from_info(self.camera_info, self.intrinsics))

    def _scheme(self) -> LabelScheme:
        if self.scheme is None:
            raise SettingError(
                'no label scheme has arrived yet; publish label_info_json, which names classes '
                'and colors'
            )
        return self.scheme


@dataclass
class MatchedFrame:
    """Decoded images of one moment; `header` is that of the depth message."""

    header: Any
    #: Depth, (H, W) uint16 or float32, or the coordinates of a cloud.
    source: npt.NDArray[Any] | CloudGeometry
    labels: UInt8Array
    confidence: UInt8Array | None = None
    instances: npt.NDArray[Any] | None = None
    #: Decodes the color image, (H, W, 3) uint8; None to use the colors of the scheme.
    image_rgb: Callable[[], UInt8Array] | None = None
    arrived_s: float = field(default_factory=time.monotonic)
    #: All frames have one slot.
    camera: str = ''


class MatchAccounts:
    """Counts the fate of a matched frame for its depth message and for its label mask."""

    def __init__(self, depth: Accounts, masks: Accounts) -> None:
        self._both = (depth, masks)

    def settle(self, fate: str) -> None:
        """Count both messages, which were in flight, under a fate."""
        for accounts in self._both:
            accounts.settle(fate)


class CloudWorker:
    """Builds the cloud of the newest matched frame; `recipe` may be replaced at any time."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        depth_accounts: Accounts,
        mask_accounts: Accounts,
        publish: Callable[[Points, Any], None],
        age_ms: Callable[[Any], float],
        report: Callable[[str], None],
    ) -> None:
        """Prepare the thread; `start` starts it.

        Args:
            recipe: settings of the clouds.
            depth_accounts: receives the fate of each depth message.
            mask_accounts: receives the fate of each label mask.
            publish: publishes points with a header; may raise ShutDown.
            age_ms: returns the age of the stamp of a frame.
            report: receives the text of a problem with a frame.
        """
        self.recipe = recipe
        self.timings = StageTimings(STAGES)
        self.failure: BaseException | None = None
        #: Time of the last published cloud, in seconds of the monotonic clock.
        self.published_s = -math.inf
        #: Number of points of the newest cloud.
        self.points = 0
        self._all_accounts = (depth_accounts, mask_accounts)
        self._accounts = MatchAccounts(*self._all_accounts)
        self.slots: Slots[MatchedFrame] = Slots(self._accounts)
        self._publish, self._age_ms, self._report = publish, age_ms, report
        self._builder = CloudBuilder()
        self._thread = threading.Thread(target=self._run, name='cloud', daemon=True)

    def start(self) -> None:
        """Start to process frames."""
        self._thread.start()

    def stop(self, timeout_s: float = threading.TIMEOUT_MAX) -> None:
        """Drop the waiting frame and finish the one in progress, or wait until the timeout."""
        self.slots.close()
        self._thread.join(timeout_s)

    def drain(self) -> None:
        """Drop the waiting frame and return when the one in progress is settled.

        No message may arrive meanwhile, and none may wait for a match.
        """
        self.slots.clear()
        for accounts in self._all_accounts:
            accounts.wait_until_settled()

    def _run(self) -> None:
        try:
            while frames := self.slots.take():
                self._process(*frames)
        except BaseException as error:
            # A bug of ours: the node reads it and ends with this reason.
            self.failure = error
            self.slots.close()
            for accounts in self._all_accounts:
                accounts.abandon()
            raise

    def _process(self, frame: MatchedFrame) -> None:
        begun_s = time.monotonic()
        self.timings.stages['wait'].add(1000 * (begun_s - frame.arrived_s))
        try:
            with self.timings.stage('build'):
                points = self._build(frame)
            with self.timings.stage('publish'):
                self._publish(points, frame.header)
        except ShutDown:
            self._accounts.settle('failed')
        except FRAME_ERRORS as error:
            self._accounts.settle(self._report_error(error))
        else:
            self._note_published(frame, begun_s, points.size)
            self._accounts.settle('published')

    def _build(self, frame: MatchedFrame) -> Points:
        recipe = self.recipe
        image_rgb = None if frame.image_rgb is None else frame.image_rgb()
        pixels = Pixels(
            frame.labels,
            recipe.palette() if image_rgb is None else None,
            frame.confidence, frame.instances, image_rgb,
        )  # fmt: skip
        return self._builder.build(
            recipe.geometry(frame.source), pixels, recipe.selection, recipe.ids(),
            organized=recipe.organized,
        )  # fmt: skip

    def _note_published(self, frame: MatchedFrame, begun_s: float, points: int) -> None:
        now_s = self.published_s = time.monotonic()
        self.points = points
        self.timings.stages['total'].add(1000 * (now_s - begun_s))
        self.timings.latency.add(self._age_ms(frame))
        self.timings.publications.add(now_s)

    def _report_error(self, error: Exception) -> str:
        """Report why a cloud cannot be built and return the fate of its frame."""
        if isinstance(error, ImageError | CloudError):
            self._report(f'malformed frame: {error}')
            return 'malformed'
        if isinstance(error, SegmentationError):
            self._report(f'cannot build a cloud: {error}')
        else:
            self._report(f'{type(error).__name__} while building a cloud: {one_line(error)}')
        return 'failed'
