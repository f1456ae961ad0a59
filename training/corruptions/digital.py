# SPDX-License-Identifier: Apache-2.0
"""Low contrast, elastic deformation, coarse pixels and JPEG."""

import cv2
import numpy as np

from training.corruptions.sample import LabeledPixels, Pixels, blurred, scale_of


def contrast(image: Pixels, share: float, _: np.random.Generator) -> Pixels:
    """Reduce the contrast of each color to a share."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * share + mean, np.float32)


def elastic(
    sample: LabeledPixels, level: tuple[float, float, float], rng: np.random.Generator
) -> LabeledPixels:
    """Deform image and truth; level: strength, smoothness and shear, as shares of the side.

    A smooth field displaces the pixels, and three points of a random affine map move by up to
    the shear.
    """
    strength, smoothness, shear = level
    height, width = sample.size_hw
    side = min(height, width)
    center, arm = np.array([width, height]) / 2, side / 3
    corners = center + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-shear, shear, corners.shape) * side
    inverse = cv2.getAffineTransform(moved.astype(np.float32), corners.astype(np.float32))
    dx, dy = (
        strength * side * _smooth_noise((height, width), smoothness * side, rng) for _ in range(2)
    )
    y, x = np.mgrid[:height, :width].astype(np.float32)
    positions = cv2.transform(np.dstack([x + dx, y + dy]), inverse)
    return sample.sampled(*(np.ascontiguousarray(positions[..., i], np.float32) for i in (0, 1)))


def _smooth_noise(size_hw: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> Pixels:
    """Return uniform noise from -1 to 1 after a Gaussian blur, computed on a coarser grid."""
    height, width = size_hw
    cell = max(1, int(sigma_px / 4))
    rows, columns = -(-height // cell) + 1, -(-width // cell) + 1
    # The mean over a cell deviates less than single values do.
    grid = rng.uniform(-1, 1, (rows, columns)).astype(np.float32) / np.float32(cell)
    smooth = blurred(grid, sigma_px / cell)
    return np.asarray(cv2.resize(smooth, (width, height)), np.float32)


def pixelate(image: Pixels, share: float, _: np.random.Generator) -> Pixels:
    """Reduce the resolution to a share of that of the paper's images."""
    height, width = image.shape[:2]
    factor = share / scale_of(image)
    small_wh = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(image, small_wh, interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), np.float32
    )


def jpeg(image: Pixels, quality: int, _: np.random.Generator) -> Pixels:
    """Compress as JPEG of a quality from 1 to 100."""
    bgr = cv2.cvtColor(np.rint(image * 255).astype(np.uint8), cv2.COLOR_RGB2BGR)
    done, content = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise AssertionError('OpenCV encodes every 8-bit image as JPEG')
    decoded = np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.float32)
    return np.ascontiguousarray(decoded[..., ::-1]) / np.float32(255)
