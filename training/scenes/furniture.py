# SPDX-License-Identifier: Apache-2.0
"""Street furniture: lamps, traffic lights, signs, fences, walls, bins and bollards."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from training.scenes.camera import FloatArray
from training.scenes.facades import paint_wall
from training.scenes.geometry import CIRCLE, UNIT_SQUARE, Footprint, Panel, Rgb, Thing
from training.scenes.light import Light
from training.scenes.textures import (
    Color,
    Field,
    Texture,
    jitter,
    noise,
    opaque,
    plain,
    shaded,
    tint,
)

_ROUND = [0.62, 0.8, 0.98, 1.08, 0.98, 0.8, 0.6]
_TRIANGLE: FloatArray = np.array([[0.5, 0.0], [1.0, 0.9], [0.95, 1.0], [0.05, 1.0], [0.0, 0.9]])


@dataclass(frozen=True)
class Spot:
    """Place in world and street coordinates; panels placed there face the traffic."""

    point: FloatArray
    x: float
    t: float
    light: Light

    @property
    def gain(self) -> Rgb:
        """Light on a surface that faces the camera, one factor per color channel."""
        return self.light.gain(np.array([-1.0, 0.0, 0.0]))

    def board(
        self,
        left: float,
        top: float,
        width: float,
        height: float,
        texture: Texture,
        outline: FloatArray = UNIT_SQUARE,
        label: str | None = None,
    ) -> Panel:
        """Return an upright panel that faces the camera; left and top are from the spot, in m."""
        return Panel(
            self.point + np.array([0.0, -left, top]),
            np.array([0.0, -width, 0.0]),
            np.array([0.0, 0.0, -height]),
            texture,
            self.gain,
            outline,
            label=label,
        )

    def footprint(self, half: float = 0.15) -> Footprint:
        """Return a small square around the spot."""
        return Footprint(self.x - half, self.x + half, self.t - half, self.t + half)


@lru_cache(maxsize=64)
def _metal(color: Color) -> Texture:
    return shaded(color, _ROUND)


def lamp(spot: Spot, rng: np.random.Generator, toward: int) -> Thing:
    """Build a street lamp with its arm toward the road; toward: +1 is left, -1 is right."""
    tall = float(rng.uniform(5.5, 8.5))
    pipe = _metal(jitter(rng, (112, 116, 116) if rng.random() < 0.6 else (46, 50, 48), 0.1))
    panels = [spot.board(-0.07, tall, 0.14, tall, pipe), spot.board(-0.1, 1.3, 0.2, 1.3, pipe)]
    reach = float(rng.uniform(0.8, 1.9))
    left = -reach if toward > 0 else 0.0
    panels.append(spot.board(left, tall + 0.05, reach, 0.09, pipe))
    head = -reach - 0.5 if toward > 0 else reach - 0.1
    panels.append(spot.board(head, tall + 0.1, 0.6, 0.16, shaded((150, 150, 148), [0.8, 1.1])))
    return Thing('pole', tuple(panels), spot.footprint(), height=tall, shadow=0.14)


def traffic_light(spot: Spot, rng: np.random.Generator) -> Thing:
    """Build a traffic light on its post."""
    post = _metal((70, 74, 74))
    low = float(rng.uniform(2.1, 2.6))
    panels = (
        spot.board(-0.06, low + 0.3, 0.12, low + 0.3, post),
        spot.board(
            -0.19, low + 1.05, 0.38, 1.05, _signal(int(rng.integers(3))), label='traffic light'
        ),
    )
    return Thing('pole', panels, spot.footprint(), height=low + 1, shadow=0.2)


@lru_cache(maxsize=3)
def _signal(lit: int) -> Texture:
    box = np.full((120, 44, 3), (24, 25, 26), np.float32)
    colors = [(228.0, 40.0, 34.0), (240.0, 170.0, 40.0), (50.0, 226.0, 150.0)]
    for i, color in enumerate(colors):
        shown = color if i == lit else tuple(0.22 * c for c in color)
        center = (22, 22 + 38 * i)
        cv2.circle(box, center, 16, (12, 12, 12), -1, cv2.LINE_AA)
        cv2.circle(box, center, 13, shown, -1, cv2.LINE_AA)
        if i == lit:
            cv2.circle(box, center, 5, tuple(min(c * 1.25 + 40, 255) for c in color), -1)
    return opaque(box)


def sign(spot: Spot, rng: np.random.Generator) -> Thing:
    """Build a traffic sign on its post."""
    tall = float(rng.uniform(2.1, 2.9))
    size = float(rng.uniform(0.55, 0.85))
    kind = str(rng.choice(['limit', 'ban', 'must', 'warn', 'plate', 'park']))
    outline = {'warn': _TRIANGLE, 'plate': UNIT_SQUARE, 'park': UNIT_SQUARE}.get(kind, CIRCLE)
    wide = size * (1.5 if kind == 'plate' else 1.0)
    panels = (
        spot.board(-0.035, tall, 0.07, tall, _metal((140, 142, 142))),
        spot.board(
            -wide / 2, tall + size * 0.4, wide, size, _sign_face(kind), outline, 'traffic sign'
        ),
    )
    return Thing('pole', panels, spot.footprint(), height=tall, shadow=0.12)


@lru_cache(maxsize=8)
def _sign_face(kind: str) -> Texture:
    face = np.full((96, 96, 3), 228, np.uint8)
    red, blue, black = (186.0, 28.0, 34.0), (24.0, 74.0, 160.0), (26.0, 26.0, 28.0)
    if kind in ('limit', 'ban'):
        cv2.circle(face, (48, 48), 40, red, 15, cv2.LINE_AA)
        if kind == 'limit':
            cv2.putText(face, '30', (24, 62), cv2.FONT_HERSHEY_SIMPLEX, 1.3, black, 6)
        else:
            cv2.line(face, (20, 20), (76, 76), red, 11, cv2.LINE_AA)
    elif kind == 'must':
        face[:] = blue
        cv2.arrowedLine(face, (48, 78), (48, 20), (232, 232, 232), 10, cv2.LINE_AA, 0, 0.4)
    elif kind == 'warn':
        cv2.polylines(face, [np.array([[48, 8], [90, 90], [6, 90]])], True, red, 14, cv2.LINE_AA)
        cv2.line(face, (48, 44), (48, 68), black, 8, cv2.LINE_AA)
        cv2.circle(face, (48, 79), 5, black, -1)
    elif kind == 'plate':
        face[:] = (18, 92, 62)
        for row in (22, 48, 72):
            cv2.line(face, (10, row), (70, row), (226, 226, 226), 7)
    else:
        face[:] = blue
        cv2.putText(face, 'P', (24, 76), cv2.FONT_HERSHEY_SIMPLEX, 2.4, (236, 236, 236), 11)
    return opaque(face)


def bollard(spot: Spot, rng: np.random.Generator) -> Thing:
    """Build a bollard."""
    tall = float(rng.uniform(0.8, 1.05))
    post = _metal(jitter(rng, (48, 50, 50), 0.2))
    return Thing(
        'pole',
        (spot.board(-0.07, tall, 0.14, tall, post),),
        spot.footprint(),
        height=tall,
        shadow=0.14,
    )


def litter_bin(spot: Spot, rng: np.random.Generator) -> Thing:
    """Build a litter bin."""
    color = jitter(rng, ((44, 64, 50), (60, 62, 64), (110, 110, 106))[int(rng.integers(3))], 0.1)
    panels = (
        spot.board(-0.28, 1.05, 0.56, 1.05, _metal(color)),
        spot.board(-0.2, 0.9, 0.4, 0.16, plain((16, 16, 16))),
    )
    return Thing('static', panels, spot.footprint(0.28), height=1.05, shadow=0.56)


def _boards(rng: np.random.Generator, rows: int, cols: int) -> Texture:
    """Paint a wooden fence without gaps."""
    wall = tint(jitter(rng, (120, 96, 70), 0.15), 1.0 + 0.08 * noise(rng, rows, cols, 3, 60))
    each = 1.0 + 0.12 * rng.standard_normal(cols // 10 + 1).astype(np.float32)
    wall *= each[np.arange(cols) // 10][None, :, None]
    wall[:, ::10] *= 0.45
    return opaque(wall)


def _railings(rng: np.random.Generator, rows: int, cols: int) -> Texture:
    """Paint iron railings with transparent gaps."""
    color = jitter(rng, (36, 38, 40) if rng.random() < 0.7 else (150, 152, 150), 0.1)
    rgb: Field = np.full((rows, cols, 3), color, np.float32)
    alpha = np.zeros((rows, cols), np.uint8)
    alpha[:, ::8] = alpha[:, 1::8] = alpha[:, 2::8] = 255
    alpha[4:9] = alpha[rows - 12 : rows - 7] = 255
    return Texture(np.dstack([rgb.astype(np.uint8), alpha]))


def fence_texture(rng: np.random.Generator, label: str, length: float, tall: float) -> Texture:
    """Paint the face of a fence or wall, length by tall in m."""
    rows, cols = max(int(tall * 50), 20), max(int(length * 50), 20)
    if label == 'wall':
        material = str(rng.choice(['brick', 'stone', 'concrete']))
        color = {'brick': (138, 92, 74), 'stone': (150, 140, 122), 'concrete': (150, 150, 146)}
        wall = paint_wall(rng, material, jitter(rng, color[material], 0.1), rows, cols)
        wall[: max(rows // 14, 2)] *= 1.25
        return opaque(wall)
    return _boards(rng, rows, cols) if rng.random() < 0.5 else _railings(rng, rows, cols)
