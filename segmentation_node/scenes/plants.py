# SPDX-License-Identifier: Apache-2.0
"""Foliage: tree sprites in leaf, in autumn and bare, and hedge textures."""

from dataclasses import dataclass

import cv2
import numpy as np

from segmentation_node.scenes.camera import FloatArray
from segmentation_node.scenes.textures import Color, Image, Texture, jitter, noise

SEASONS = ('summer', 'autumn', 'bare')
_SIZE = 448
_LEAF: dict[str, list[Color]] = {
    'summer': [(84, 100, 56), (72, 92, 50), (104, 114, 64), (66, 86, 58)],
    'autumn': [(150, 112, 48), (138, 86, 40), (116, 108, 50), (92, 98, 48)],
    'bare': [(74, 66, 56)],
}


@dataclass(frozen=True)
class Sprite:
    """A cut-out picture and the outline (N, 2) in uv that its label covers."""

    texture: Texture
    outline: FloatArray


def paint_tree(rng: np.random.Generator, season: str) -> Sprite:
    """A tree from the side, crown and trunk, filling a unit square that stands on the ground."""
    rgb = np.zeros((_SIZE, _SIZE, 3), np.uint8)
    alpha = np.zeros((_SIZE, _SIZE), np.uint8)
    bark = jitter(rng, (78, 68, 56), 0.12)
    bare = season == 'bare'
    _grow(rng, rgb, alpha, np.array([_SIZE / 2, _SIZE - 1.0]), -np.pi / 2, bark, bare)
    if not bare:
        _leaves(rng, rgb, alpha, season)
    grain = 1.0 + (0.1 if bare else 0.2) * noise(rng, _SIZE, _SIZE, 2)
    backdrop = bark if bare else _LEAF[season][0]
    rgb[alpha == 0] = backdrop
    shaded = np.clip(rgb * grain[..., None], 0, 255).astype(np.uint8)
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.6)
    return Sprite(Texture(np.dstack([shaded, soft])), outline_of(alpha, 17 if bare else 7))


def outline_of(alpha: Image, closing_px: int) -> FloatArray:
    """The largest outline of a cut-out (H, W) after closing gaps, (N, 2) in uv."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (closing_px, closing_px))
    padded = cv2.copyMakeBorder(alpha, 20, 20, 20, 20, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[20:-20, 20:-20]
    contours = cv2.findContours(
        cv2.compare(closed, 127, cv2.CMP_GT), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )[0]
    largest = max(contours, key=cv2.contourArea)
    points = cv2.approxPolyDP(largest, 1.2, True)[:, 0]
    height, width = alpha.shape
    outline: FloatArray = (points + 0.5) / np.array([width, height], float)
    return outline


def _grow(
    rng: np.random.Generator, rgb: Image, alpha: Image, root: FloatArray, angle: float,
    bark: Color, bare: bool,
) -> None:
    """Draw trunk and branches, each splitting into thinner ones."""
    queue = [(root, angle, _SIZE * rng.uniform(0.26, 0.34), _SIZE * 0.042, 0)]
    depth_limit = 7 if bare else 3
    while queue:
        start, heading, length, thickness, depth = queue.pop()
        end = start + length * np.array([np.cos(heading), np.sin(heading)])
        a, b = (int(v) for v in start), (int(v) for v in end)
        line = (tuple(a), tuple(b))
        tone = tuple(c * rng.uniform(0.8, 1.15) for c in bark)
        width = max(int(round(thickness)), 1)
        cv2.line(rgb, *line, tone, width, cv2.LINE_AA)
        cv2.line(alpha, *line, 255 if thickness > 1 else 200, width, cv2.LINE_AA)
        if depth >= depth_limit or thickness < 0.5:
            continue
        for _ in range(int(rng.integers(2, 4)) if depth else 4):
            bend = rng.normal(0.0, 0.42) + rng.choice([-0.25, 0.25])
            shrink = rng.uniform(0.62, 0.86)
            queue.append((end, heading + bend, length * shrink, thickness * 0.62, depth + 1))


def _leaves(rng: np.random.Generator, rgb: Image, alpha: Image, season: str) -> None:
    """Cover the crown with clumps, dark ones behind, light ones on top and above."""
    palette = _LEAF[season]
    base = np.array(jitter(rng, palette[int(rng.integers(len(palette)))], 0.1))
    boughs = int(rng.integers(9, 16))
    angle = rng.uniform(0, 2 * np.pi, boughs)
    reach = np.sqrt(rng.uniform(0.0, 1.0, boughs))
    spread = _SIZE * np.array([rng.uniform(0.27, 0.34), rng.uniform(0.24, 0.31)])
    middle = np.array([_SIZE * 0.5, _SIZE * 0.38])
    bough = middle + np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None] * spread
    radius = _SIZE * rng.uniform(0.09, 0.17, boughs)
    count = 4200
    which = rng.integers(0, boughs, count)
    offset = rng.normal(0, 0.48, (count, 2))
    # No clump floats free of its bough.
    offset /= np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1.0)
    center = bough[which] + offset * radius[which, None]
    # Light falls from above: clumps high in the crown and high on their bough are lighter.
    height = 1.0 - center[:, 1] / _SIZE
    on_bough = -offset[:, 1]
    layer = np.linspace(0.0, 1.0, count)
    tone = 0.42 + 0.5 * layer * (0.55 + 0.5 * height + 0.22 * on_bough) + rng.normal(0, 0.06, count)
    size = _SIZE * (0.022 - 0.0155 * layer) * rng.uniform(0.7, 1.3, count)
    for i in np.flatnonzero((center.min(1) > 4) & (center.max(1) < _SIZE - 4)):
        color = tuple(float(v) for v in np.clip(base * tone[i] * 1.5, 0, 255))
        at = (int(center[i, 0]), int(center[i, 1]))
        axes = (max(int(size[i]), 1), max(int(size[i] * 0.66), 1))
        turn = float(360 * (i * 0.618 % 1))
        cv2.ellipse(rgb, at, axes, turn, 0, 360, color, -1)
        cv2.ellipse(alpha, at, axes, turn, 0, 360, 255, -1)


def paint_hedge(rng: np.random.Generator, season: str) -> Texture:
    """Dense foliage from close by, 4 m by 2 m, opaque."""
    rows, cols = 160, 320
    color = _LEAF['summer' if season == 'bare' else season]
    base = np.array(jitter(rng, color[int(rng.integers(len(color)))], 0.12), np.float32)
    tone = 0.75 + 0.16 * noise(rng, rows, cols, 20) + 0.2 * noise(rng, rows, cols, 3)
    tone = tone * np.linspace(1.15, 0.62, rows, dtype=np.float32)[:, None]
    rgb = np.clip(base * np.clip(tone, 0.15, 2)[..., None], 0, 255).astype(np.uint8)
    return Texture(np.dstack([rgb, np.full((rows, cols), 255, np.uint8)]))
