# SPDX-License-Identifier: Apache-2.0
"""Blur by focus, glass and motion."""

from dataclasses import replace

import cv2
import numpy as np

from training.corruptions.sample import LabeledPixels, Pixels, blurred, filtered, scale_of


def defocus_blur(image: Pixels, radius: float, _: np.random.Generator) -> Pixels:
    """Average over a disk, the image of a point out of focus; its edge is one pixel wide."""
    radius_px = radius * scale_of(image)
    reach = int(radius_px + 1)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius_px + 0.5 - np.hypot(x, y), 0, 1).astype(np.float32)
    return filtered(image, disk / disk.sum())


def glass_blur(image: Pixels, level: tuple[float, int, int], rng: np.random.Generator) -> Pixels:
    """Scatter pixels around their place between two blurs; level: sigma, reach, rounds.

    The displacement is random for each pixel and zero on average, so the labels stay.
    """
    sigma, reach, rounds = level
    scale = scale_of(image)
    reach_px = max(1, round(reach * scale))
    height, width = image.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    seen = blurred(image, sigma * scale)
    for _ in range(rounds):
        dx, dy = rng.integers(-reach_px, reach_px + 1, (2, height, width)).astype(np.float32)
        moved = cv2.remap(
            seen, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101
        )
        seen = np.asarray(moved, np.float32)
    return blurred(seen, sigma * scale)


def motion_blur(image: Pixels, level: tuple[float, float], rng: np.random.Generator) -> Pixels:
    """Smear along a line within 45 degrees of horizontal; level: radius and sigma of the trail.

    The trail is centered on its mean, so the labels stay.
    """
    radius, sigma = (value * scale_of(image) for value in level)
    return filtered(image, trail(radius, sigma, float(rng.uniform(-45, 45))))


def trail(radius_px: float, sigma_px: float, angle_deg: float) -> Pixels:
    """Return the kernel of a trail that fades like one half of a Gaussian, with sum 1.

    The trail is 2 radii long; the mean of its weights is the middle of the kernel.
    """
    along = np.linspace(0, 2 * radius_px, int(8 * radius_px) + 2)
    weights = np.exp(-0.5 * (along / sigma_px) ** 2)
    along = along - np.average(along, weights=weights)
    reach = int(np.abs(along).max()) + 2
    x = along * np.cos(np.radians(angle_deg)) + reach
    y = along * np.sin(np.radians(angle_deg)) + reach
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    left, top = x.astype(int), y.astype(int)
    # Each point is shared among its four neighbors.
    for column, x_weights in ((left, left + 1 - x), (left + 1, x - left)):
        for row, y_weights in ((top, top + 1 - y), (top + 1, y - top)):
            np.add.at(kernel, (row, column), weights * x_weights * y_weights)
    return np.asarray(kernel / kernel.sum(), np.float32)


def zoom_blur(
    sample: LabeledPixels, level: tuple[float, float], _: np.random.Generator
) -> LabeledPixels:
    """Average over zooms from 1 to a maximum; level: maximum and step.

    The truth is zoomed by the mean of the zooms, about which the image is smeared.
    """
    greatest, step = level
    zooms = np.arange(1, greatest + step / 2, step)
    total = sum((_zoomed(sample, zoom).image for zoom in zooms[1:]), sample.image)
    image = np.asarray(total / np.float32(len(zooms)), np.float32)
    return replace(sample, image=image, truth=_zoomed(sample, zooms.mean()).truth)


def _zoomed(sample: LabeledPixels, zoom: float) -> LabeledPixels:
    """Enlarge a frame about its center."""
    height, width = sample.size_hw
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / zoom + (width - 1) / 2
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / zoom + (height - 1) / 2
    grid_x, grid_y = np.meshgrid(x.astype(np.float32), y.astype(np.float32))
    return sample.sampled(grid_x, grid_y)
