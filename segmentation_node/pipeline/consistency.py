# SPDX-License-Identifier: Apache-2.0
"""Temporal consistency: share of the labels that agree with those of the frame before.

The labels of the frame before are moved along the optical flow between the images and compared
with the new ones. This needs no truth. A wrong label that stays is consistent, and flow has errors
of its own, so the figure is read as a trend.

Varghese et al., "Unsupervised Temporal Consistency Metric for Video Segmentation in
Highly-Automated Driving", CVPR Workshops 2020, and Liu et al., "Efficient Semantic Video
Segmentation with Per-frame Inference", ECCV 2020, compare labels in this way with flow from a
network, and report the mean IoU. Here the flow is that of Kroeger et al., "Fast Optical Flow using
Dense Inverse Search", ECCV 2016, on a small image, and the figure is the share of pixels.
"""

from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from segmentation_node.arrays import UInt8Array

#: Images are scaled to this size, (width, height), whatever their shape: the flow of OpenCV 5.0
#: ends the process on narrow images, such as 17 x 300.
FLOW_WH: Final = (320, 240)
#: Frames that are further apart are not compared.
MAX_GAP_NS: Final = 1_000_000_000
#: Mean difference in gray levels, after moving the image along the flow, of a change of scene.
#: Frames of CamVid and of rendered streets stay below 7 at 30 Hz and 10 Hz and below 23 at 2 Hz;
#: different streets begin at 44.
CUT_LEVELS: Final = 25.0


@dataclass(frozen=True)
class _SmallFrame:
    stamp_ns: int
    image_hw: tuple[int, ...]
    gray: UInt8Array  # (h, w)
    labels: UInt8Array  # (h, w)


class TemporalConsistency:
    """Compares the labels of each frame of one camera with those of the frame before."""

    def __init__(self) -> None:
        self._flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._previous: _SmallFrame | None = None
        #: Number of frames that could not be compared with the frame before.
        self.resets = 0

    def measure(self, stamp_ns: int, image_rgb: UInt8Array, labels: UInt8Array) -> float | None:
        """Return the share of pixels, in [0, 1], whose label agrees with the frame before.

        Pixels that were outside the image before do not count. The result is None for a first
        frame: after a start, a jump of the stamps, a change of the image size, or a change of
        scene.

        Args:
            stamp_ns: time of the image.
            image_rgb: (H, W, 3) uint8.
            labels: label ids, (H, W) uint8.
        """
        frame = _shrunk(stamp_ns, image_rgb, labels)
        previous, self._previous = self._previous, frame
        share = None
        if previous is not None and _follows(frame, previous):
            share = self._agreement(frame, previous)
        self.resets += share is None
        return share

    def _agreement(self, frame: _SmallFrame, previous: _SmallFrame) -> float | None:
        """Return the share of pixels that agree; None after a change of scene."""
        # From each pixel of the new frame to where it was before.
        flow = self._flow.calc(frame.gray, previous.gray, None)  # (h, w, 2)
        height, width = frame.gray.shape
        x = flow[..., 0] + np.arange(width, dtype=np.float32)
        y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        if not inside.any():
            return None
        gray = cv2.remap(previous.gray, x, y, cv2.INTER_LINEAR)
        if cv2.absdiff(gray, frame.gray)[inside].mean() > CUT_LEVELS:
            return None
        labels = cv2.remap(previous.labels, x, y, cv2.INTER_NEAREST)
        return float((labels == frame.labels)[inside].mean())


def _shrunk(stamp_ns: int, image_rgb: UInt8Array, labels: UInt8Array) -> _SmallFrame:
    small = cv2.resize(image_rgb, FLOW_WH, interpolation=cv2.INTER_AREA)
    return _SmallFrame(
        stamp_ns,
        labels.shape,
        np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8),
        np.asarray(cv2.resize(labels, FLOW_WH, interpolation=cv2.INTER_NEAREST), np.uint8),
    )


def _follows(frame: _SmallFrame, previous: _SmallFrame) -> bool:
    gap_ns = frame.stamp_ns - previous.stamp_ns
    return 0 < gap_ns <= MAX_GAP_NS and frame.image_hw == previous.image_hw
