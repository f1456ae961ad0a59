# SPDX-License-Identifier: Apache-2.0
"""Textures of vehicle faces: sides, front and rear with lights and plates, glass, wheels."""

from dataclasses import dataclass

import cv2
import numpy as np

from training.scenes.textures import Color, Field, Texture, jitter, noise, opaque, tint

_PAINTS: list[tuple[Color, float]] = [
    ((186, 189, 192), 0.2),
    ((124, 128, 133), 0.15),
    ((36, 37, 40), 0.19),
    ((224, 224, 221), 0.15),
    ((40, 56, 98), 0.1),
    ((136, 28, 32), 0.08),
    ((84, 106, 128), 0.05),
    ((42, 70, 54), 0.02),
    ((160, 150, 128), 0.04),
    ((186, 142, 52), 0.02),
]
_SIDE_PX_PER_M = 64


@dataclass(frozen=True)
class SidePlan:
    """Dimensions for painting a side; in m, x forward from the middle of the vehicle."""

    length: float
    depth: float
    below: float
    wheel: float
    axles: tuple[float, float]
    doors: tuple[float, ...]
    stripe: bool


def draw_paint(rng: np.random.Generator) -> Color:
    """Choose a random car color, weighted by how common it is."""
    weights = np.array([w for _, w in _PAINTS])
    pick = int(rng.choice(len(_PAINTS), p=weights / weights.sum()))
    return jitter(rng, _PAINTS[pick][0], 0.06)


def gloss(rng: np.random.Generator, paint: Color, top: float, bottom: float) -> Texture:
    """Paint horizontal metal under the sky, lighter away from the viewer."""
    rows = np.linspace(top, bottom, 16, dtype=np.float32)[:, None].repeat(16, 1)
    sky = np.linspace(34, 8, 16, dtype=np.float32)[:, None]
    reflection = sky + 8 * np.clip(noise(rng, 16, 16, 5), -1, 1)
    return opaque(tint(paint, rows) + reflection[..., None])


def _metal(paint: Color, rows: int, cols: int) -> Field:
    """Paint a curved side that reflects sky above and street below, (rows, cols, 3)."""
    y = np.linspace(0.0, 1.0, rows, dtype=np.float32)[:, None]
    shape = 1.06 - 0.3 * y - 0.14 * np.exp(-(((y - 0.42) / 0.06) ** 2))
    wall = tint(paint, shape.repeat(cols, 1))
    sky = np.exp(-(((y - 0.1) / 0.1) ** 2)) * 46.0 + np.exp(-(((y - 0.3) / 0.08) ** 2)) * 12.0
    metal: Field = wall + sky[..., None]
    return metal


def paint_side(rng: np.random.Generator, plan: SidePlan, paint: Color) -> Texture:
    """Paint a side, from tail to nose along u and from shoulder to sill along v."""
    px = _SIDE_PX_PER_M
    rows, cols = int(plan.depth * px), int(plan.length * px)
    wall = _metal(paint, rows, cols)
    wall[int(rows * 0.86) :] *= 0.38
    if plan.stripe:
        wall[int(rows * 0.3) : int(rows * 0.5)] = rng.uniform(60, 225, 3).astype(np.float32)
    half = plan.length / 2
    for door in plan.doors:
        x = int((door + half) * px)
        wall[: int(rows * 0.88), x : x + 2] *= 0.4
        wall[int(rows * 0.17) : int(rows * 0.22), max(x - 17, 0) : max(x - 6, 0)] *= 0.45
    for axle in plan.axles:
        center = (int((axle + half) * px), rows + int((plan.below - plan.wheel) * px))
        cv2.circle(wall, center, int(plan.wheel * 1.22 * px), (11, 11, 12), -1)
    tail, nose = slice(0, int(0.14 * px)), slice(cols - int(0.3 * px), cols)
    top = int(rows * 0.2)
    wall[top : top + int(0.18 * px), tail] = (132, 20, 22)
    wall[int(rows * 0.36) : int(rows * 0.36) + int(0.12 * px), nose] = (184, 188, 194)
    return opaque(wall)


def paint_rear(rng: np.random.Generator, paint: Color, boxy: bool) -> Texture:
    """Paint the rear: lights, license plate, trunk lid and bumper."""
    rows, cols = 112, 224
    wall = _metal(paint, rows, cols)
    wall[int(rows * 0.56) : int(rows * 0.59)] *= 0.45
    wall[: int(rows * 0.56), (30, 31, cols - 32, cols - 31)] *= 0.7
    wall[int(rows * 0.85) :] = (24, 24, 26)
    upright = boxy or rng.random() < 0.4
    lamp = (22, 46) if upright else (int(rng.integers(36, 54)), int(rng.integers(20, 30)))
    red = (238.0, 52.0, 40.0) if rng.random() < 0.25 else (150.0, 24.0, 26.0)
    for left, outward in ((5, 1), (cols - 5 - lamp[0], -1)):
        patch = wall[12 : 12 + lamp[1], left : left + lamp[0]]
        fade = np.linspace(0.8, 1.1, lamp[0], dtype=np.float32)[None, ::outward, None]
        patch[:] = np.asarray(red, np.float32) * fade
        patch[lamp[1] // 2 : lamp[1] // 2 + 6] = (206, 150, 120)
        patch[:2] *= 0.5
    _plate(rng, wall, 0.3 if rng.random() < 0.6 else 0.66, (214, 186, 60))
    wall[int(rows * 0.13) : int(rows * 0.18), cols // 2 - 8 : cols // 2 + 8] = (184, 186, 190)
    return opaque(wall)


def paint_front(rng: np.random.Generator, paint: Color) -> Texture:
    """Paint the front: headlights, grille, license plate and bumper."""
    rows, cols = 112, 224
    wall = _metal(paint, rows, cols)
    wide = int(rng.integers(58, 84))
    top, bottom = int(rows * 0.16), int(rows * 0.38)
    wall[top:bottom, wide : cols - wide] = (24, 24, 26)
    wall[top + 2 : bottom : 5, wide + 2 : cols - wide - 2] = (84, 86, 90)
    wall[int(rows * 0.74) : int(rows * 0.9), 40 : cols - 40] = (26, 26, 28)
    wall[int(rows * 0.9) :] = (28, 28, 30)
    on = 252.0 if rng.random() < 0.3 else 186.0
    deep = int(rng.integers(18, 30))
    for left in (6, cols - 6 - 48):
        patch = wall[top : top + deep, left : left + 48]
        patch[:] = (70, 72, 76)
        patch[3 : deep - 3, 4:44] = (on * 0.86, on * 0.88, on * 0.92)
        patch[5 : deep - 5, 12:22] = patch[5 : deep - 5, 28:38] = (on, on, on)
    _plate(rng, wall, 0.52, (220, 220, 212))
    return opaque(wall)


def _plate(rng: np.random.Generator, wall: Field, at: float, color: Color) -> None:
    rows, cols = wall.shape[:2]
    top, left = int(rows * at), cols // 2 - 32
    wall[top - 1 : top + 16, left - 1 : left + 65] = (40, 40, 42)
    wall[top : top + 15, left : left + 64] = color
    x = left + 5
    while x < left + 56:
        wall[top + 4 : top + 11, x : x + int(rng.integers(3, 6))] = (34, 34, 36)
        x += int(rng.integers(6, 9))


def paint_windows(
    rng: np.random.Generator,
    paint: Color,
    panes: list[tuple[float, float]],
    top: float,
    bottom: float,
) -> Texture:
    """Paint a side with windows between the given shares along u, from top to bottom along v."""
    rows, cols = 64, 256
    wall = _metal(paint, rows, cols) * np.float32(0.96)
    y0, y1 = int(rows * top), int(rows * bottom)
    for start, end in panes:
        pane = wall[y0:y1, int(cols * start) : int(cols * end)]
        if pane.size:
            _glaze(rng, pane)
    return opaque(wall)


def paint_screen(
    rng: np.random.Generator, paint: Color, top: float, bottom: float, inside: bool
) -> Texture:
    """Paint a windshield or rear window across the vehicle; inside shows dim seats."""
    rows, cols = 72, 144
    wall = _metal(paint, rows, cols) * np.float32(0.98)
    y0, y1 = int(rows * top), int(rows * bottom)
    pane = wall[y0:y1, 6 : cols - 6]
    _glaze(rng, pane)
    if inside:
        seats = np.zeros(pane.shape[:2], np.float32)
        for seat in (0.27, 0.73):
            center = (int(pane.shape[1] * seat), int(pane.shape[0] * 0.66))
            cv2.ellipse(seats, center, (10, 9), 0, 0, 360, 1.0, -1)
            cv2.ellipse(seats, (center[0], center[1] + 20), (17, 15), 0, 0, 360, 1.0, -1)
        pane *= (1.0 - 0.4 * cv2.GaussianBlur(seats, (0, 0), 1.6))[..., None]
    return opaque(wall)


def paint_box(rng: np.random.Generator, paint: Color) -> Texture:
    """Paint the wall of a cargo box, sometimes with a colored band."""
    rows, cols = 96, 192
    wall = tint(paint, (1.0 + 0.03 * noise(rng, rows, cols, 30)).astype(np.float32))
    wall[:, ::32] *= 0.93
    wall[:3] *= 0.8
    wall[-4:] *= 0.5
    if rng.random() < 0.6:
        top = int(rng.integers(20, 50))
        band = wall[top : top + int(rng.integers(14, 34)), 20 : cols - 20]
        band[:] = rng.uniform(30, 200, 3).astype(np.float32)
    return opaque(wall)


def _glaze(rng: np.random.Generator, pane: Field) -> None:
    """Paint glass into a pane (h, w, 3): dark interior, sky toward the top, dark edges."""
    rows, cols = pane.shape[:2]
    y = np.linspace(1.0, 0.0, rows, dtype=np.float32)[:, None]
    sky = rng.uniform(35, 120) * y**1.4 + 8 * noise(rng, rows, cols, 11)
    pane[:] = np.array((36, 42, 48), np.float32) + sky[..., None]
    pane[:2] *= 0.5
    pane[-2:] *= 0.6
    pane[:, :2] *= 0.6
    pane[:, -2:] *= 0.6


def paint_wheel(rng: np.random.Generator) -> Texture:
    """Paint a wheel from the side that fills a square."""
    disc = np.full((64, 64, 3), 25, np.uint8)
    metal = float(rng.uniform(100, 176))
    cv2.circle(disc, (32, 32), 22, (metal * 0.5, metal * 0.5, metal * 0.52), -1, cv2.LINE_AA)
    spokes = int(rng.integers(5, 11))
    for angle in np.arange(spokes) * 2 * np.pi / spokes:
        tip = (int(32 + 20 * np.cos(angle)), int(32 + 20 * np.sin(angle)))
        cv2.line(disc, (32, 32), tip, (metal, metal, metal * 1.03), 5, cv2.LINE_AA)
    cv2.circle(disc, (32, 32), 21, (metal, metal, metal * 1.03), 2, cv2.LINE_AA)
    cv2.circle(disc, (32, 32), 4, (metal * 0.6,) * 3, -1, cv2.LINE_AA)
    return opaque(disc)
