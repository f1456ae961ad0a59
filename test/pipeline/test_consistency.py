# SPDX-License-Identifier: Apache-2.0
"""Tests of the temporal consistency; images have the size of the flow, so no pixel is mixed."""

import numpy as np
import pytest

from segmentation_node.arrays import UInt8Array
from segmentation_node.pipeline.consistency import TemporalConsistency

SECOND_NS = 10**9


def texture(seed: int) -> UInt8Array:
    """Smooth random image, (280, 360, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (35, 45, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def test_labels_that_move_with_the_image_are_consistent() -> None:
    image = texture(0)
    labels = (image[..., 0] // 64).astype(np.uint8)
    temporal = TemporalConsistency()
    before, after = (slice(20, 260), slice(20, 340)), (slice(24, 264), slice(26, 346))
    assert temporal.measure(1, image[before], labels[before]) is None
    moved = temporal.measure(2, image[after], labels[after])
    still = TemporalConsistency()
    still.measure(1, image[before], labels[before])
    assert moved is not None
    assert moved > 0.97
    # The same labels compared in place agree less.
    assert (labels[before] == labels[after]).mean() < 0.9


def test_the_share_of_pixels_that_change_their_label_is_missing() -> None:
    image, labels = texture(1)[:240, :320], np.zeros((240, 320), np.uint8)
    temporal = TemporalConsistency()
    temporal.measure(1, image, labels)
    assert temporal.measure(2, image, labels) == 1.0
    changed = labels.copy()
    changed[:60] = 5
    assert temporal.measure(3, image, changed) == pytest.approx(0.75, abs=1e-3)
    assert temporal.measure(4, image, changed) == 1.0


@pytest.mark.parametrize(
    ('stamp_ns', 'image', 'height'),
    [
        (5 * SECOND_NS, texture(2), 240),  # the same image, but late
        (SECOND_NS, texture(2), 240),  # earlier than the frame before
        (2 * SECOND_NS, texture(2), 200),
        (2 * SECOND_NS, 255 - texture(2) // 4, 240),  # another scene
    ],
    ids=['gap', 'backwards', 'size', 'cut'],
)
def test_frames_that_do_not_follow_each_other_are_not_compared(
    stamp_ns: int, image: UInt8Array, height: int
) -> None:
    temporal = TemporalConsistency()
    first = texture(2)[:240, :320]
    temporal.measure(round(1.5 * SECOND_NS), first, first[..., 0])
    other = image[:height, :320]
    assert temporal.measure(stamp_ns, other, other[..., 0]) is None
    assert temporal.resets == 2
    assert temporal.measure(stamp_ns + 1, other, other[..., 0]) == 1.0


@pytest.mark.parametrize('size_hw', [(1, 1), (1, 999), (17, 300), (300, 17), (5, 7)])
def test_images_of_any_shape_are_compared(size_hw: tuple[int, int]) -> None:
    temporal = TemporalConsistency()
    image = np.zeros((*size_hw, 3), np.uint8)
    temporal.measure(1, image, image[..., 0].copy())
    assert temporal.measure(2, image, image[..., 0].copy()) == 1.0
