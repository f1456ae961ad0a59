# SPDX-License-Identifier: Apache-2.0
"""Pedestrians and cyclists: articulated figures, painted once for each phase of a step."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from training.scenes.textures import (
    Color,
    Image,
    Sprite,
    Texture,
    jitter,
    noise,
    outline_of,
)

PHASES = 8
_PX_PER_M = 84
_MARGIN = 12

Point = tuple[float, float]

_COATS: list[Color] = [
    (34, 36, 44),
    (60, 62, 68),
    (40, 50, 76),
    (104, 42, 44),
    (92, 84, 66),
    (150, 144, 134),
    (52, 66, 56),
    (150, 66, 52),
    (190, 186, 178),
    (66, 58, 80),
    (24, 24, 26),
    (30, 32, 40),
    (84, 88, 94),
    (48, 44, 42),
    (116, 104, 84),
    (44, 58, 70),
]
_TROUSERS: list[Color] = [(34, 38, 54), (28, 28, 30), (70, 66, 58), (52, 62, 86), (104, 96, 80)]
_SKIN: list[Color] = [(196, 160, 140), (172, 130, 108), (118, 84, 68), (90, 66, 54)]
_HAIR: list[Color] = [(40, 30, 24), (92, 66, 40), (22, 20, 20), (150, 144, 140), (168, 136, 84)]


@dataclass(frozen=True)
class Wardrobe:
    """Appearance of a person; height is in m, frame is the color of bicycle and backpack."""

    height: float
    coat: Color
    trousers: Color
    skin: Color
    hair: Color
    long_coat: bool
    bag: bool
    frame: Color


def draw_wardrobe(rng: np.random.Generator) -> Wardrobe:
    """Generate a random person."""

    def pick(colors: list[Color]) -> Color:
        return jitter(rng, colors[int(rng.integers(len(colors)))], 0.08)

    return Wardrobe(
        float(rng.uniform(1.55, 1.88)),
        pick(_COATS),
        pick(_TROUSERS),
        pick(_SKIN),
        pick(_HAIR),
        bool(rng.random() < 0.35),
        bool(rng.random() < 0.4),
        pick(_COATS),
    )


@dataclass(frozen=True)
class Figure:
    """Painted figure: one sprite per label, back to front; width and height are in m."""

    parts: tuple[tuple[str, Sprite], ...]
    width: float
    height: float


class _Drawing:
    """Figure being drawn; meters, x to the right from the middle, y up from the ground."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        shape = (int(height * _PX_PER_M) + _MARGIN, int(width * _PX_PER_M))
        self.rgb: Image = np.full((*shape, 3), 40, np.uint8)
        self.alpha: Image = np.zeros(shape, np.uint8)

    def at(self, point: Point) -> tuple[int, int]:
        x = (point[0] + self.width / 2) * _PX_PER_M
        return int(x * 16), int((self.rgb.shape[0] - 1 - point[1] * _PX_PER_M) * 16)

    def limb(self, points: list[Point], thickness: float, color: Color) -> None:
        """Draw a line with round ends through points."""
        line = np.array([self.at(p) for p in points], np.int32)
        width = max(int(thickness * _PX_PER_M), 1)
        cv2.polylines(self.alpha, [line], False, 255, width, cv2.LINE_AA, 4)
        cv2.polylines(self.rgb, [line], False, color, width + 2, cv2.LINE_AA, 4)

    def area(self, points: list[Point], color: Color, rounding: float = 0.05) -> None:
        """Draw a filled polygon with rounded corners."""
        polygon = np.array([self.at(p) for p in points], np.int32)
        cv2.fillPoly(self.alpha, [polygon], 255, cv2.LINE_AA, 4)
        cv2.fillPoly(self.rgb, [polygon], color, cv2.LINE_AA, 4)
        self.limb([*points, points[0]], rounding, color)

    def disc(self, center: Point, rx: float, ry: float, color: Color) -> None:
        """Draw a filled ellipse."""
        axes = (int(rx * _PX_PER_M * 16), int(ry * _PX_PER_M * 16))
        for image, value in ((self.alpha, 255), (self.rgb, color)):
            cv2.ellipse(image, self.at(center), axes, 0, 0, 360, value, -1, cv2.LINE_AA, 4)

    def ring(self, center: Point, radius: float, thickness: float, color: Color) -> None:
        """Draw a circle outline."""
        line = int(max(thickness * _PX_PER_M, 1))
        for image, value in ((self.alpha, 255), (self.rgb, color)):
            cv2.circle(
                image, self.at(center), int(radius * _PX_PER_M * 16), value, line, cv2.LINE_AA, 4
            )

    def sprite(self, seed: int, closing_px: int) -> Sprite:
        """Shade the figure with light from above and from one side, and return it as a sprite."""
        rng = np.random.default_rng(seed)
        rows, cols = self.alpha.shape
        solid = cv2.GaussianBlur(self.alpha, (0, 0), 3).astype(np.float32) / 255
        edge = cv2.GaussianBlur(solid, (0, 0), 4)
        round_shade = 0.66 + 0.42 * edge
        shift = np.roll(edge, 5, axis=1) - np.roll(edge, -5, axis=1)
        folds = 0.07 * noise(rng, rows, cols, 9, 14) + 0.02 * noise(rng, rows, cols, 2)
        tone = np.clip(round_shade + 0.22 * shift + folds, 0.25, 1.4)
        shaded = np.clip(self.rgb * tone[..., None], 0, 255).astype(np.uint8)
        texture = Texture(np.dstack([shaded, self.alpha]))
        return Sprite(texture, outline_of(self.alpha, closing_px))


@lru_cache(maxsize=512)
def walker(look: Wardrobe, phase: int, view: str) -> Figure:
    """Draw a pedestrian; phase 0..PHASES-1 of two steps, view 'side', 'front' or 'back'."""
    swing = np.sin(2 * np.pi * phase / PHASES)
    scale = look.height / 1.75
    width = 1.1 if view == 'side' else 0.95
    drawing = _Drawing(width * scale, look.height + 0.02)
    if view == 'side':
        _walk_side(drawing, look, scale, float(swing))
    else:
        _walk_front(drawing, look, scale, float(swing), view == 'back')
    sprite = drawing.sprite(phase + int(look.height * 1000), 5)
    return Figure((('person', sprite),), drawing.width, drawing.rgb.shape[0] / _PX_PER_M)


def _walk_side(d: _Drawing, look: Wardrobe, k: float, swing: float) -> None:
    hip, shoulder = 0.9 * k, 1.42 * k
    for sign, color in ((-1.0, _scaled(look.trousers, 0.7)), (1.0, look.trousers)):
        s = sign * swing
        knee = (0.17 * s * k + 0.05 * k, 0.48 * k)
        foot = (0.33 * s * k - 0.1 * k * max(-s, 0), 0.06 * k + 0.07 * k * max(-s, 0))
        d.limb([(0.0, hip), knee, foot], 0.14 * k, color)
        d.limb([foot, (foot[0] + 0.15 * k, foot[1] - 0.02)], 0.08 * k, (26, 24, 24))
    d.limb(
        [(0, shoulder - 0.05), (0.12 * swing, 1.12 * k), (0.24 * swing + 0.08, 0.9 * k)],
        0.1 * k,
        _scaled(look.coat, 0.8),
    )
    hem = 0.62 * k if look.long_coat else 0.86 * k
    d.area(
        [(-0.13 * k, hem), (0.13 * k, hem), (0.12 * k, shoulder), (-0.1 * k, shoulder)],
        look.coat,
        0.07,
    )
    if look.bag:
        d.area(
            [
                (-0.3 * k, 1.05 * k),
                (-0.14 * k, 1.05 * k),
                (-0.14 * k, 1.38 * k),
                (-0.28 * k, 1.36 * k),
            ],
            (46, 44, 48),
            0.05,
        )
    d.limb(
        [(0, shoulder - 0.06), (-0.12 * swing, 1.12 * k), (-0.22 * swing + 0.08, 0.92 * k)],
        0.1 * k,
        _scaled(look.coat, 1.1),
    )
    d.disc((-0.22 * swing + 0.09, 0.88 * k), 0.045 * k, 0.055 * k, look.skin)
    d.limb([(0.02, shoulder), (0.03, 1.52 * k)], 0.1 * k, look.skin)
    d.disc((0.04 * k, 1.62 * k), 0.1 * k, 0.125 * k, look.skin)
    d.area(
        [(-0.06 * k, 1.58 * k), (-0.05 * k, 1.7 * k), (0.08 * k, 1.72 * k), (0, 1.64 * k)],
        look.hair,
        0.05,
    )


def _walk_front(d: _Drawing, look: Wardrobe, k: float, swing: float, back: bool) -> None:
    hip, shoulder = 0.9 * k, 1.42 * k
    for side in (-1.0, 1.0):
        up = 0.1 * k * max(side * swing, 0.0)
        d.limb(
            [
                (side * 0.075 * k, hip),
                (side * 0.085 * k, 0.48 * k + 0.6 * up),
                (side * 0.08 * k, 0.09 * k + up),
            ],
            0.13 * k,
            look.trousers,
        )
        d.limb(
            [(side * 0.08 * k, 0.05 * k + up), (side * 0.1 * k, 0.035 * k + up)],
            0.085 * k,
            (26, 24, 24),
        )
        arm = 0.05 * k * side * swing
        d.disc((side * 0.225 * k, 0.86 * k + arm), 0.032 * k, 0.045 * k, look.skin)
        d.limb(
            [
                (side * 0.165 * k, shoulder - 0.03),
                (side * 0.215 * k, 1.14 * k + arm),
                (side * 0.22 * k, 0.91 * k + arm),
            ],
            0.085 * k,
            _scaled(look.coat, 0.84),
        )
    hem = 0.6 * k if look.long_coat else 0.86 * k
    d.area(
        [
            (-0.135 * k, hem),
            (0.135 * k, hem),
            (0.12 * k, 1.1 * k),
            (0.155 * k, shoulder),
            (-0.155 * k, shoulder),
            (-0.12 * k, 1.1 * k),
        ],
        look.coat,
        0.06,
    )
    d.limb([(0, shoulder), (0, 1.53 * k)], 0.085 * k, look.skin)
    d.disc((0, 1.62 * k), 0.078 * k, 0.11 * k, look.hair if back else look.skin)
    if not back:
        d.limb([(-0.045 * k, 1.7 * k), (0.045 * k, 1.7 * k)], 0.065 * k, look.hair)
        d.limb([(0, 0.92 * k), (0, shoulder - 0.04)], 0.02, _scaled(look.coat, 0.6))
    if look.bag and back:
        d.area(
            [
                (-0.11 * k, 1.04 * k),
                (0.11 * k, 1.04 * k),
                (0.1 * k, 1.36 * k),
                (-0.1 * k, 1.36 * k),
            ],
            look.frame,
            0.05,
        )


def _scaled(color: Color, gain: float) -> Color:
    return (color[0] * gain, color[1] * gain, color[2] * gain)


@lru_cache(maxsize=256)
def cyclist(look: Wardrobe, phase: int, view: str) -> Figure:
    """Draw a cyclist; phase of one turn of the pedals, view 'side', 'front' or 'back'."""
    turn = 2 * np.pi * phase / PHASES
    width, height = (1.9, 1.8) if view == 'side' else (0.9, 1.8)
    bicycle, rider = _Drawing(width, height), _Drawing(width, height)
    if view == 'side':
        _cycle_side(bicycle, rider, look, float(turn))
    else:
        _cycle_front(bicycle, rider, look, float(turn), view == 'back')
    parts = (('bicycle', bicycle.sprite(phase, 3)), ('rider', rider.sprite(phase + 1, 5)))
    return Figure(parts, width, bicycle.rgb.shape[0] / _PX_PER_M)


def _cycle_side(b: _Drawing, r: _Drawing, look: Wardrobe, turn: float) -> None:
    rear, front, crank = (-0.52, 0.34), (0.52, 0.34), (-0.06, 0.3)
    for hub in (rear, front):
        b.ring(hub, 0.33, 0.035, (28, 28, 30))
        for spoke in np.arange(8) * np.pi / 4 + turn:
            tip = (hub[0] + 0.31 * np.cos(spoke), hub[1] + 0.31 * np.sin(spoke))
            b.limb([hub, tip], 0.008, (120, 120, 124))
    seat, head = (-0.2, 0.86), (0.38, 0.84)
    b.limb([rear, crank, head, seat, rear], 0.035, look.frame)
    b.limb([crank, seat, (-0.22, 0.95)], 0.035, look.frame)
    b.limb([front, head, (0.36, 1.0), (0.46, 1.02)], 0.03, look.frame)
    b.limb([(-0.3, 0.96), (-0.12, 0.96)], 0.05, (24, 24, 26))
    hip, shoulder = (-0.2, 1.02), (0.08, 1.46)
    for offset, gain in ((np.pi, 0.7), (0.0, 1.0)):
        foot = (crank[0] + 0.17 * np.cos(turn + offset), crank[1] - 0.17 * np.sin(turn + offset))
        knee = ((hip[0] + foot[0]) / 2 + 0.24, (hip[1] + foot[1]) / 2 + 0.1)
        r.limb([hip, knee, foot], 0.13, _scaled(look.trousers, gain))
        r.limb([foot, (foot[0] + 0.14, foot[1] - 0.03)], 0.08, (26, 24, 24))
    r.limb([hip, (-0.08, 1.26), shoulder], 0.26, look.coat)
    r.limb([shoulder, (0.28, 1.2), (0.46, 1.06)], 0.09, look.coat)
    r.disc((0.47, 1.05), 0.05, 0.045, look.skin)
    r.disc((0.18, 1.66), 0.1, 0.125, look.skin)
    r.limb([(0.08, 1.7), (0.2, 1.77)], 0.1, look.hair)


def _cycle_front(b: _Drawing, r: _Drawing, look: Wardrobe, turn: float, back: bool) -> None:
    b.limb([(0, 0.03), (0, 0.66)], 0.06, (28, 28, 30))
    b.limb([(0, 0.6), (0, 1.0)], 0.04, look.frame)
    b.limb([(-0.28, 1.04), (0.28, 1.04)], 0.035, (40, 40, 44))
    for side in (-1.0, 1.0):
        foot = 0.3 + side * 0.17 * np.sin(turn)
        r.limb(
            [(side * 0.08, 1.0), (side * 0.15, foot + 0.44), (side * 0.11, foot)],
            0.13,
            look.trousers,
        )
        r.limb([(side * 0.11, foot), (side * 0.12, foot - 0.04)], 0.09, (26, 24, 24))
        r.limb([(side * 0.2, 1.42), (side * 0.31, 1.2), (side * 0.26, 1.06)], 0.1, look.coat)
    r.area([(-0.14, 0.96), (0.14, 0.96), (0.19, 1.44), (-0.19, 1.44)], look.coat, 0.07)
    r.disc((0, 1.64), 0.09, 0.125, look.hair if back else look.skin)
    r.limb([(-0.05, 1.72), (0.05, 1.72)], 0.09, look.hair)
