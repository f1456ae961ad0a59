# SPDX-License-Identifier: Apache-2.0
"""Painted house fronts: walls, windows, doors and shops at a fixed scale."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from training.scenes.textures import (
    Color,
    Field,
    Texture,
    grain,
    jitter,
    mottle,
    noise,
    opaque,
    tint,
)

PX_PER_M = 44
_COURSE_PX, _BRICK_PX = 4, 11

_WALLS: dict[str, list[Color]] = {
    'brick': [(142, 88, 68), (124, 76, 60), (158, 122, 92), (170, 142, 104), (112, 84, 74)],
    'plaster': [
        (206, 196, 176),
        (222, 216, 204),
        (196, 176, 140),
        (178, 172, 164),
        (214, 190, 160),
    ],
    'stone': [(172, 160, 138), (150, 142, 128), (186, 172, 146)],
    'concrete': [(148, 148, 144), (166, 164, 158), (128, 130, 130)],
    'glass': [(98, 108, 116), (120, 128, 132), (84, 92, 100)],
}
_SHOP_COLORS: list[Color] = [
    (34, 60, 110),
    (150, 34, 36),
    (30, 84, 58),
    (40, 40, 44),
    (196, 168, 60),
    (210, 206, 196),
    (92, 40, 84),
    (22, 22, 26),
    (190, 96, 40),
]
_DOOR_COLORS: list[Color] = [
    (92, 26, 26),
    (28, 44, 70),
    (24, 60, 44),
    (64, 44, 30),
    (200, 198, 190),
]


@dataclass(frozen=True)
class FacadePlan:
    """Design of a house front; lengths are in meters."""

    width: float
    floors: int
    floor_height: float
    material: str
    wall: Color
    frame: Color
    window_width: float
    window_height: float
    bay: float
    ground: str
    cornice: bool

    @property
    def height(self) -> float:
        """Height of the front up to the eaves."""
        return self.floors * self.floor_height + 0.6


def draw_plan(rng: np.random.Generator, width: float, kind: str) -> FacadePlan:
    """Generate a random house front for a kind of street: city, terrace, suburb or modern."""
    materials = {
        'city': (['brick', 'plaster', 'stone', 'concrete'], [0.35, 0.35, 0.2, 0.1]),
        'terrace': (['brick', 'plaster'], [0.75, 0.25]),
        'suburb': (['brick', 'plaster'], [0.5, 0.5]),
        'modern': (['concrete', 'glass', 'plaster', 'brick'], [0.35, 0.35, 0.15, 0.15]),
    }[kind]
    floors = {
        'city': int(rng.integers(2, 6)),
        'terrace': int(rng.integers(2, 4)),
        'suburb': int(rng.integers(1, 3)),
        'modern': int(rng.integers(3, 8)),
    }[kind]
    material = str(rng.choice(materials[0], p=materials[1]))
    walls = _WALLS[material]
    shop = {'city': 0.6, 'terrace': 0.12, 'suburb': 0.02, 'modern': 0.5}[kind]
    return FacadePlan(
        width=width,
        floors=floors,
        floor_height=float(rng.uniform(2.7, 3.4)),
        material=material,
        wall=jitter(rng, walls[int(rng.integers(len(walls)))], 0.08),
        frame=(225, 224, 218) if rng.random() < 0.65 else (48, 46, 46),
        window_width=float(rng.uniform(0.9, 1.5)) * (1.6 if material == 'glass' else 1.0),
        window_height=float(rng.uniform(1.3, 1.8)),
        bay=float(rng.uniform(2.1, 3.2)),
        ground='shop' if rng.random() < shop else 'door',
        cornice=bool(rng.random() < 0.6),
    )


def paint_facade(rng: np.random.Generator, plan: FacadePlan) -> Texture:
    """Paint a house front, PX_PER_M texels per meter."""
    rows, cols = int(plan.height * PX_PER_M), int(plan.width * PX_PER_M)
    front = paint_wall(rng, plan.material, plan.wall, rows, cols)
    bays = max(int(plan.width / plan.bay), 1)
    pitch = plan.width / bays
    for floor in range(plan.floors):
        base = plan.height - floor * plan.floor_height
        if floor == 0 and plan.ground == 'shop':
            _shop(rng, front, plan)
            continue
        door_bay = int(rng.integers(bays)) if floor == 0 else -1
        for bay in range(bays):
            center = (bay + 0.5) * pitch
            if bay == door_bay:
                _door(rng, front, center, plan)
            else:
                top = base - 0.9 - plan.window_height
                _window(rng, front, center - plan.window_width / 2, top, plan)
        if floor > 0 and plan.cornice:
            _band(front, base - 0.06, 0.12, 1.12)
    _band(front, 0.0, 0.28, 1.16 if plan.cornice else 0.8)
    _weather(rng, front)
    return opaque(front)


def paint_wall(
    rng: np.random.Generator, material: str, color: Color, rows: int, cols: int
) -> Field:
    """Paint a wall without openings, (rows, cols, 3) float32."""
    shade = 1.0 + 0.05 * mottle(rng, rows, cols) + 0.035 * grain(rng, rows, cols)
    wall = tint(color, shade)
    if material == 'brick':
        _bricks(rng, wall)
    elif material in ('stone', 'concrete'):
        course = int((0.45 if material == 'stone' else 1.4) * PX_PER_M)
        wall[::course] *= 0.8
        for i, top in enumerate(range(0, rows, course)):
            wall[top : top + course, (i % 2) * course :: course * 2] *= 0.82
    elif material == 'glass':
        wall *= (0.9 + 0.12 * noise(rng, rows, cols, 90))[..., None]
    return wall


@cache
def _brickwork() -> tuple[Field, Field]:
    """Return the brightness of bricks, and a mask of joints (1); both are tileable 2-D fields."""
    rng = np.random.default_rng(21)
    rows, cols = 256 * _COURSE_PX, 96 * _BRICK_PX
    each = 1.0 + 0.11 * rng.standard_normal((256, 97), dtype=np.float32)
    y, x = np.arange(rows)[:, None], np.arange(cols)[None]
    # Every other course is shifted by half a brick.
    shifted = x + (y // _COURSE_PX % 2) * (_BRICK_PX // 2)
    brick = each[y // _COURSE_PX, shifted // _BRICK_PX % 96]
    joint = (y % _COURSE_PX == 0) | (shifted % _BRICK_PX == 0)
    return np.where(joint, 0.8 * brick, brick), joint.astype(np.float32)


def _bricks(rng: np.random.Generator, wall: Field) -> None:
    gain, joint = _brickwork()
    top, left = int(rng.integers(256)) * _COURSE_PX, int(rng.integers(96)) * _BRICK_PX
    rows = np.arange(top, top + wall.shape[0]) % gain.shape[0]
    cols = np.arange(left, left + wall.shape[1]) % gain.shape[1]
    wall *= gain[rows][:, cols, None]
    wall += 26.0 * joint[rows][:, cols, None]


def _span(low: float, length: float) -> slice:
    start = max(int(low * PX_PER_M), 0)
    return slice(start, max(int((low + length) * PX_PER_M), start))


def _band(front: Field, top: float, thickness: float, gain: float) -> None:
    front[_span(top, thickness)] *= gain
    front[_span(top + thickness, 0.08)] *= 0.6


def _glass(rng: np.random.Generator, pane: Field) -> None:
    """Paint a pane (h, w, 3) with a dim room, curtains and a reflection of the sky."""
    rows, cols = pane.shape[:2]
    if rows < 2 or cols < 2:
        return
    depth = np.linspace(0.0, 1.0, rows, dtype=np.float32)[:, None]
    sky = rng.uniform(0.1, 1.0) ** 2
    tone = 34 + 95 * sky * (1.0 - depth) ** 1.5 + 12 * noise(rng, rows, cols, max(cols / 3, 2))
    pane[:] = np.clip(tone, 8, 230)[..., None] * np.array([0.88, 0.98, 1.1], np.float32)
    if rng.random() < 0.4:
        drop = int(rows * rng.uniform(0.15, 0.9))
        cloth = np.array([176, 170, 158], np.float32) * rng.uniform(0.5, 0.95)
        folds = 0.85 + 0.12 * np.sin(np.arange(cols, dtype=np.float32) * rng.uniform(0.5, 1.4))
        pane[:drop] = 0.35 * pane[:drop] + 0.65 * cloth * folds[None, :, None]


def _window(
    rng: np.random.Generator, front: Field, left: float, top: float, plan: FacadePlan
) -> None:
    width, height = plan.window_width, plan.window_height
    if top < 0.3:
        return
    reveal = _span(top - 0.09, height + 0.15), _span(left - 0.08, width + 0.16)
    if plan.material in ('plaster', 'brick') and plan.frame[0] > 100:
        front[reveal] = front[reveal] * 0.35 + 0.65 * np.array([196, 190, 180], np.float32)
    else:
        front[reveal] *= 0.7
    front[_span(top, height), _span(left, width)] = plan.frame
    rows = 2 if height > 1.45 else 1
    cols = 2 if width > 1.05 else 1
    bar = 0.055
    for row in range(rows):
        for col in range(cols):
            pane = front[
                _span(top + bar + row * height / rows, height / rows - 1.6 * bar),
                _span(left + bar + col * width / cols, width / cols - 1.6 * bar),
            ]
            _glass(rng, pane)
    # The lintel casts a shadow onto the upper edge; the sill catches light.
    front[_span(top, 0.1), _span(left, width)] *= 0.45
    front[_span(top, height), _span(left, 0.05)] *= 0.6
    front[_span(top + height, 0.07), _span(left - 0.08, width + 0.16)] = (190, 186, 176)
    front[_span(top + height + 0.07, 0.1), _span(left - 0.06, width + 0.12)] *= 0.66


def _door(rng: np.random.Generator, front: Field, center: float, plan: FacadePlan) -> None:
    width, height = 1.0, 2.15
    top, left = plan.height - height, center - width / 2
    front[_span(top - 0.5, height + 0.5), _span(left - 0.12, width + 0.24)] = (
        np.array(plan.frame) * 0.9
    )
    color = _DOOR_COLORS[int(rng.integers(len(_DOOR_COLORS)))]
    front[_span(top, height), _span(left, width)] = color
    _glass(rng, front[_span(top - 0.42, 0.34), _span(left, width)])
    for row in (0.18, 1.15):
        for col in (0.12, 0.56):
            front[_span(top + row, 0.75), _span(left + col, 0.32)] *= 0.72
    front[_span(top, 0.12), _span(left, width)] *= 0.5
    front[_span(plan.height - 0.12, 0.12), _span(left - 0.1, width + 0.2)] = (150, 146, 138)


def _shop(rng: np.random.Generator, front: Field, plan: FacadePlan) -> None:
    top = plan.height - plan.floor_height
    color = np.array(
        jitter(rng, _SHOP_COLORS[int(rng.integers(len(_SHOP_COLORS)))], 0.1), np.float32
    )
    front[_span(top, plan.floor_height)] = color * 0.8
    front[_span(top + 0.1, 0.62)] = color
    _lettering(rng, front, top + 0.22, plan.width, color)
    front[_span(top + 0.72, 0.14)] *= 0.45
    left, door = 0.3, rng.uniform(0.25, 0.75) * plan.width
    panes = max(int(plan.width / rng.uniform(1.3, 2.4)), 1)
    pitch = (plan.width - 0.6) / panes
    for pane in range(panes):
        start = left + pane * pitch
        is_door = start <= door < start + pitch
        height = plan.floor_height - (0.95 if is_door else 1.4)
        area = front[_span(top + 0.86, height), _span(start + 0.05, pitch - 0.1)]
        _glass(rng, area)
        if not is_door and area.size:
            _goods(rng, area)
    front[_span(top + 0.86, 0.16)] *= 0.5


def _goods(rng: np.random.Generator, pane: Field) -> None:
    """Paint lit goods and posters behind a shop window (h, w, 3)."""
    rows, cols = pane.shape[:2]
    for _ in range(int(rng.integers(3, 11))):
        h, w = int(rows * rng.uniform(0.08, 0.35)), int(cols * rng.uniform(0.06, 0.3))
        y, x = int(rng.integers(rows // 3, rows)), int(rng.integers(0, max(cols - w, 1)))
        tone = rng.uniform(30, 215, 3).astype(np.float32)
        pane[y : y + h, x : x + w] = 0.45 * pane[y : y + h, x : x + w] + 0.5 * tone


def _lettering(
    rng: np.random.Generator, front: Field, top: float, width: float, color: Field
) -> None:
    ink = (235.0, 232.0, 220.0) if color.mean() < 130 else (40.0, 38.0, 40.0)
    x, end = rng.uniform(0.1, 0.35) * width, rng.uniform(0.65, 0.92) * width
    size = rng.uniform(0.24, 0.36)
    while x < end:
        if rng.random() < 0.86:
            left, mid = int(x * PX_PER_M), int((top + size / 2) * PX_PER_M)
            half = int(size * PX_PER_M / 2)
            shape = int(rng.integers(3))
            if shape == 0:
                cv2.ellipse(front, (left + half // 2, mid), (half // 2, half), 0, 40, 330, ink, 3)
            elif shape == 1:
                cv2.line(front, (left, mid - half), (left, mid + half), ink, 3)
                cv2.line(front, (left, mid), (left + half, mid - half), ink, 3)
            else:
                cv2.rectangle(front, (left, mid - half), (left + half, mid + half), ink, 3)
        x += size * 0.85


def _weather(rng: np.random.Generator, front: Field) -> None:
    """Add dirt streaks below the eaves and splashes above the sidewalk."""
    rows, cols = front.shape[:2]
    streaks = np.maximum(noise(rng, 1, cols, 7, 1), 0.0)
    y = np.linspace(0.0, 1.0, rows, dtype=np.float32)[:, None]
    foot = np.clip((y * rows - (rows - 0.5 * PX_PER_M)) / (0.5 * PX_PER_M), 0, 1)
    front *= (1.0 - 0.06 * streaks * (1.0 - y) - 0.18 * foot)[..., None]
