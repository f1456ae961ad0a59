# SPDX-License-Identifier: Apache-2.0
"""Plants: tree sprites in summer, in autumn and without leaves, and hedge textures."""

import cv2
import numpy as np

from training.scenes.camera import FloatArray
from training.scenes.textures import (
    Color,
    Image,
    Sprite,
    Texture,
    grain,
    jitter,
    noise,
    outline_of,
)

_SIZE = 448
_LEAF: dict[str, list[Color]] = {
    'summer': [(84, 100, 56), (72, 92, 50), (104, 114, 64), (66, 86, 58)],
    'autumn': [(150, 112, 48), (138, 86, 40), (116, 108, 50), (92, 98, 48)],
    'bare': [(74, 66, 56)],
}


def paint_tree(rng: np.random.Generator, season: str) -> Sprite:
    """Paint a tree from the side, crown and trunk, in a unit square that stands on the ground."""
    rgb = np.zeros((_SIZE, _SIZE, 3), np.uint8)
    alpha = np.zeros((_SIZE, _SIZE), np.uint8)
    bark = jitter(rng, (88, 82, 72), 0.1)
    bare = season == 'bare'
    _grow(rng, rgb, alpha, np.array([_SIZE / 2, _SIZE - 1.0]), -np.pi / 2, bark, bare)
    if not bare:
        _leaves(rng, rgb, alpha, season)
        _ragged(rng, alpha)
    speckle = 1.0 + (0.06 if bare else 0.09) * grain(rng, _SIZE, _SIZE)
    backdrop = bark if bare else _LEAF[season][0]
    rgb[alpha == 0] = backdrop
    shaded = np.clip(rgb * speckle[..., None], 0, 255).astype(np.uint8)
    soft = cv2.GaussianBlur(alpha, (0, 0), 0.6)
    return Sprite(Texture(np.dstack([shaded, soft])), outline_of(alpha, 17 if bare else 7))


def _grow(
    rng: np.random.Generator,
    rgb: Image,
    alpha: Image,
    root: FloatArray,
    angle: float,
    bark: Color,
    bare: bool,
) -> None:
    """Draw trunk and branches, each of which splits into thinner ones."""
    queue = [(root, angle, _SIZE * rng.uniform(0.24, 0.3), _SIZE * 0.034, 0)]
    depth_limit = 7 if bare else 3
    while queue:
        start, heading, length, thickness, depth = queue.pop()
        # Branches grow upward and stay within the picture.
        heading = float(np.clip(heading, -np.pi / 2 - 1.15, -np.pi / 2 + 1.15))
        end = start + length * np.array([np.cos(heading), np.sin(heading)])
        if depth and (end.min() < 5 or end[0] > _SIZE - 6):
            continue
        a, b = (int(start[0]), int(start[1])), (int(end[0]), int(end[1]))
        tone = rng.uniform(0.85, 1.1)
        width = max(round(thickness), 1)
        cv2.line(alpha, a, b, 255 if thickness > 1 else 200, width, cv2.LINE_AA)
        # Bark is lighter on one side.
        for share, gain in ((1.0, 0.72), (0.65, 1.0), (0.3, 1.2))[: 3 if width > 3 else 1]:
            shift = int(0.2 * (1.0 - share) * width)
            color = tuple(c * tone * (gain if width > 3 else 1.0) for c in bark)
            cv2.line(
                rgb,
                (a[0] - shift, a[1]),
                (b[0] - shift, b[1]),
                color,
                max(int(width * share), 1) + 2 * (share == 1.0),
                cv2.LINE_AA,
            )
        if depth >= depth_limit or thickness < 0.5:
            continue
        for _ in range(int(rng.integers(2, 4)) if depth else 4):
            # Below leaves, branches must stay within the crown.
            wide = 1.0 if bare else 0.55
            bend = wide * (rng.normal(0.0, 0.36) + rng.choice([-0.27, 0.27]))
            shrink = rng.uniform(0.6, 0.84) * (1.0 if bare else 0.75)
            queue.append((end, heading + bend, length * shrink, thickness * 0.62, depth + 1))


def _leaves(rng: np.random.Generator, rgb: Image, alpha: Image, season: str) -> None:
    """Cover the crown with clumps of leaves, dark ones behind, light ones in front and above."""
    palette = _LEAF[season]
    base = np.array(jitter(rng, palette[int(rng.integers(len(palette)))], 0.1))
    boughs = int(rng.integers(9, 16))
    angle = rng.uniform(0, 2 * np.pi, boughs)
    reach = np.sqrt(rng.uniform(0.0, 1.0, boughs))
    spread = _SIZE * np.array([rng.uniform(0.27, 0.34), rng.uniform(0.24, 0.31)])
    middle = np.array([_SIZE * 0.5, _SIZE * 0.41])
    bough = middle + np.column_stack([np.cos(angle), np.sin(angle)]) * reach[:, None] * spread
    radius = _SIZE * rng.uniform(0.09, 0.17, boughs)
    count = 3300
    which = rng.integers(0, boughs, count)
    offset = rng.normal(0, 0.48, (count, 2))
    # Limits the offset so that no clump is separate from its bough.
    offset /= np.maximum(np.linalg.norm(offset, axis=1, keepdims=True), 1.0)
    center = bough[which] + offset * radius[which, None]
    # Light falls from above: clumps high in the crown and high on their bough are lighter.
    height = 1.0 - center[:, 1] / _SIZE
    on_bough = -offset[:, 1]
    layer = np.linspace(0.0, 1.0, count)
    tone = 0.42 + 0.5 * layer * (0.55 + 0.5 * height + 0.22 * on_bough)
    tone += rng.normal(0, 0.06, count)
    size = _SIZE * (0.024 - 0.017 * layer) * rng.uniform(0.7, 1.3, count)
    for i in np.flatnonzero((center.min(1) > 4) & (center.max(1) < _SIZE - 4)):
        color = tuple(float(v) for v in np.clip(base * tone[i] * 1.65, 0, 255))
        at = (int(center[i, 0]), int(center[i, 1]))
        axes = (max(int(size[i]), 1), max(int(size[i] * 0.66), 1))
        turn = float(360 * (i * 0.618 % 1))
        cv2.ellipse(rgb, at, axes, turn, 0, 360, color, -1)
        cv2.ellipse(alpha, at, axes, turn, 0, 360, 255, -1)


def _ragged(rng: np.random.Generator, alpha: Image) -> None:
    """Cut small gaps into the edge of a crown, which would otherwise be too smooth."""
    inside = cv2.distanceTransform(alpha, cv2.DIST_L2, 3)
    bite = 3.0 * noise(rng, _SIZE, _SIZE, 5) + 3.5 * grain(rng, _SIZE, _SIZE) - 2.0
    crown = np.arange(_SIZE)[:, None] < _SIZE * 0.68
    alpha[crown & (bite > inside)] = 0
    holes = (noise(rng, _SIZE, _SIZE, 7) + 0.6 * grain(rng, _SIZE, _SIZE)) > 2.5
    alpha[crown & holes] = 0


def paint_hedge(rng: np.random.Generator, season: str) -> Texture:
    """Paint dense foliage seen from close by, 4 m by 2 m, opaque."""
    rows, cols = 160, 320
    color = _LEAF['summer' if season == 'bare' else season]
    base = np.array(jitter(rng, color[int(rng.integers(len(color)))], 0.12), np.float32)
    tone = 0.75 + 0.16 * noise(rng, rows, cols, 20) + 0.2 * noise(rng, rows, cols, 3)
    tone = tone * np.linspace(1.15, 0.62, rows, dtype=np.float32)[:, None]
    rgb = np.clip(base * np.clip(tone, 0.15, 2)[..., None], 0, 255).astype(np.uint8)
    return Texture(np.dstack([rgb, np.full((rows, cols), 255, np.uint8)]))
