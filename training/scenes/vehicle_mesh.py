# SPDX-License-Identifier: Apache-2.0
"""Vehicles as low-polygon meshes of textured faces."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from training.scenes import vehicle_paint as art
from training.scenes.camera import FloatArray
from training.scenes.geometry import CIRCLE, UNIT_SQUARE
from training.scenes.textures import Color, Texture, jitter, plain, shaded
from training.scenes.vehicle_shapes import Shape

Vec = tuple[float, float, float]

# Parts of a vehicle, in drawing order as seen from in front of the cab.
CHASSIS, CARGO, CABIN, WHEELS = range(4)


@dataclass
class Mesh:
    """Faces of a vehicle in its own coordinates, one row or entry each.

    origin, u, v: (F, 3) m. normal: (F, 3) outward unit vectors. part: (F,) drawing group.
    """

    origin: FloatArray
    u: FloatArray
    v: FloatArray
    normal: FloatArray
    part: npt.NDArray[np.int64]
    textures: list[Texture]
    outlines: list[FloatArray]


class _Builder:
    """Mesh builder; faces are given by their top left, top right and bottom left corners."""

    def __init__(self) -> None:
        self.rows: list[tuple[Vec, Vec, Vec]] = []
        self.parts: list[int] = []
        self.textures: list[Texture] = []
        self.outlines: list[FloatArray] = []

    def face(
        self,
        part: int,
        texture: Texture,
        top_left: Vec,
        top_right: Vec,
        bottom_left: Vec,
        outline: FloatArray = UNIT_SQUARE,
    ) -> None:
        self.rows.append((top_left, top_right, bottom_left))
        self.parts.append(part)
        self.textures.append(texture)
        self.outlines.append(outline)

    def box(
        self, part: int, low: Vec, high: Vec, side: Texture, rear: Texture, front: Texture
    ) -> None:
        """Add the upright faces of a box between two corners."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.face(part, rear, (x0, y1, z1), (x0, y0, z1), (x0, y1, z0))
        self.face(part, front, (x1, y0, z1), (x1, y1, z1), (x1, y0, z0))
        self.face(part, side, (x0, y0, z1), (x1, y0, z1), (x0, y0, z0))
        self.face(part, side, (x1, y1, z1), (x0, y1, z1), (x1, y1, z0))

    def mesh(self) -> Mesh:
        """Return all faces as arrays."""
        corners = np.array(self.rows)
        origin = corners[:, 0]
        u, v = corners[:, 1] - origin, corners[:, 2] - origin
        normal = np.cross(v, u)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        return Mesh(origin, u, v, normal, np.array(self.parts), self.textures, self.outlines)


def build_mesh(rng: np.random.Generator, shape: Shape, paint: Color) -> Mesh:
    """Build a vehicle of given dimensions and color, with random lights, windows and wheels."""
    build = _Builder()
    _underside(build, shape)
    _walls(rng, build, shape, paint)
    _decks(rng, build, shape, paint)
    _cabin(rng, build, shape, paint)
    if shape.label == 'truck':
        cargo = jitter(rng, (208, 208, 202) if rng.random() < 0.6 else paint, 0.05)
        wall, door = art.paint_box(rng, cargo), art.paint_box(rng, cargo)
        w = shape.width / 2 + 0.04
        build.box(CARGO, (-shape.half, -w, 0.95), (1.85, w, 3.3), wall, door, wall)
    _mirrors(build, shape)
    _wheels(rng, build, shape)
    return build.mesh()


def _underside(build: _Builder, s: Shape) -> None:
    """Add the tires as seen from front and rear, and the dark underside."""
    tire, dark = shaded((24, 24, 25), [0.7, 1.1, 1.1, 0.7]), plain((12, 12, 13))
    w = s.width / 2
    build.box(
        CHASSIS,
        (s.axles[0], -w + 0.1, 0.12),
        (s.axles[1], w - 0.1, s.sill + 0.05),
        dark,
        dark,
        dark,
    )
    for x in s.axles:
        for low, high in ((-w + 0.02, -w + 0.23), (w - 0.23, w - 0.02)):
            reach = s.wheel * 0.8
            build.box(
                CHASSIS, (x - reach, low, 0.0), (x + reach, high, s.wheel * 1.5), dark, tire, tire
            )


def _plan(s: Shape) -> list[tuple[float, float]]:
    """Return the body outline from above, counterclockwise from the right rear, (x, y) m."""
    w, c = s.width / 2, s.cut
    right = [
        (-s.half, -w + 0.9 * c),
        (-s.half + 0.8 * c, -w),
        (s.half - 1.5 * c, -w),
        (s.half, -w + 1.5 * c),
    ]
    return right + [(x, -y) for x, y in reversed(right)]


def _walls(rng: np.random.Generator, build: _Builder, s: Shape, paint: Color) -> None:
    highest = max(s.belt, s.nose, s.tail)
    doors = (s.cabin[0] + 0.6, (s.cabin[1] + s.cabin[2]) / 2 + 0.1, s.cabin[3] - 0.15)
    flank = art.SidePlan(
        s.length, highest - s.sill, s.sill, s.wheel, s.axles, doors, s.label == 'bus'
    )
    painted = {
        'flank': (art.paint_side(rng, flank, paint), highest),
        'rear': (art.paint_rear(rng, paint, s.height > 1.6), s.tail),
        'front': (art.paint_front(rng, paint), s.nose),
    }
    plan = _plan(s)
    for i, a in enumerate(plan):
        b = plan[(i + 1) % len(plan)]
        wall, low, high = _slice_of(s, a, b)
        texture, top = painted[wall]
        stations = np.linspace(0.0, 1.0, 11 if wall == 'flank' else 2)
        edge = np.array([s.shoulder(a[0] + k * (b[0] - a[0])) for k in stations])
        outline = np.vstack(
            [
                np.column_stack(
                    [low + stations * (high - low), np.maximum(top - edge, 0.0) / (top - s.sill)]
                ),
                [[high, 1.0], [low, 1.0]],
            ]
        )
        # The face spans the whole texture; the outline limits it to the slice between a and b.
        step = (np.array(b) - a) / (high - low)
        x, y = np.array(a) - low * step
        # Textures of flanks run from tail to nose, so on the left they run against the outline.
        if high < low:
            x, y, step = x + step[0], y + step[1], -step
            outline[:, 0] = 1.0 - outline[:, 0]
        build.face(
            CHASSIS,
            texture,
            (x, y, top),
            (x + step[0], y + step[1], top),
            (x, y, s.sill),
            outline,
        )


def _slice_of(
    s: Shape, a: tuple[float, float], b: tuple[float, float]
) -> tuple[str, float, float]:
    """Return the wall that contains the edge a to b, and its ends as shares of the wall."""
    if abs(b[0] - a[0]) > 1.0:
        return 'flank', (a[0] + s.half) / s.length, (b[0] + s.half) / s.length
    if a[0] + b[0] < 0:
        return 'rear', 0.5 - a[1] / s.width, 0.5 - b[1] / s.width
    return 'front', 0.5 + a[1] / s.width, 0.5 + b[1] / s.width


def _decks(rng: np.random.Generator, build: _Builder, s: Shape, paint: Color) -> None:
    """Add the hood and the trunk lid."""
    w, c = s.width / 2, s.cut
    if s.half - s.cabin[3] > 0.15:
        nose = s.half - 0.02
        share = 1.3 * c / s.width
        outline = np.array([[0, 0], [1, 0], [1, 0.75], [1 - share, 1], [share, 1], [0, 0.75]])
        build.face(
            CHASSIS,
            art.gloss(rng, paint, 1.08, 1.0),
            (s.cabin[3] - 0.1, -w, s.belt),
            (s.cabin[3] - 0.1, w, s.belt),
            (nose, -w, s.nose - 0.02),
            outline,
        )
    if s.cabin[0] + s.half > 0.15 and s.label == 'car':
        share = 0.8 * c / s.width
        outline = np.array([[0, 0], [1, 0], [1, 0.8], [1 - share, 1], [share, 1], [0, 0.8]])
        build.face(
            CHASSIS,
            art.gloss(rng, paint, 1.04, 0.98),
            (s.cabin[0] + 0.1, w, s.belt),
            (s.cabin[0] + 0.1, -w, s.belt),
            (-s.half + 0.02, w, s.tail - 0.05),
            outline,
        )


def _panes(s: Shape) -> tuple[list[tuple[float, float]], float, float]:
    """Return the side windows along the cabin, and their upper and lower edges, as shares."""
    if s.label == 'bus':
        edges = np.linspace(0.02, 0.99, 9)
        return [(a + 0.006, b - 0.006) for a, b in pairwise(edges)], 0.22, 0.9
    if s.label == 'truck':
        return [(0.12, 0.8)], 0.2, 0.8
    if s.height > 2.0:
        return [(0.74, 0.93)], 0.14, 0.8
    return [(0.04, 0.3), (0.32, 0.58), (0.6, 0.94)], 0.1, 0.95


def _cabin(rng: np.random.Generator, build: _Builder, s: Shape, paint: Color) -> None:
    wb = s.width / 2 - (0.05 if s.label == 'car' and s.height < 2 else 0.0)
    wr = wb * s.roof
    x0, x1, x2, x3 = s.cabin
    # The cabin starts below the shoulder; otherwise the street would show through the gap.
    z0, z1 = s.belt - (0.08 if s.height > 2.0 else 0.03), s.height
    panes, top, bottom = _panes(s)
    glass = art.paint_windows(rng, paint, panes, top, bottom)
    mirrored = art.paint_windows(rng, paint, [(1 - b, 1 - a) for a, b in panes], top, bottom)
    tall = s.height > 2.0
    screen = art.paint_screen(rng, paint, 0.3 if tall else 0.05, 0.96, not tall)
    back = art.paint_screen(rng, paint, 0.12, 0.6 if tall else 0.94, not tall)
    share = (wb - wr) / (2 * wb)
    end = np.array([[share, 0.0], [1 - share, 0.0], [1.0, 1.0], [0.0, 1.0]])
    a, b = (x1 - x0) / (x3 - x0), (x2 - x0) / (x3 - x0)
    right = np.array([[a, 0.0], [b, 0.0], [1.0, 1.0], [0.0, 1.0]])
    left = np.array([[1 - b, 0.0], [1 - a, 0.0], [1.0, 1.0], [0.0, 1.0]])
    build.face(CABIN, back, (x1, wb, z1), (x1, -wb, z1), (x0, wb, z0), end)
    build.face(CABIN, screen, (x2, -wb, z1), (x2, wb, z1), (x3, -wb, z0), end)
    build.face(CABIN, glass, (x0, -wr, z1), (x3, -wr, z1), (x0, -wb, z0), right)
    build.face(CABIN, mirrored, (x3, wr, z1), (x0, wr, z1), (x3, wb, z0), left)
    build.face(CABIN, art.gloss(rng, paint, 1.0, 1.0), (x1, -wr, z1), (x1, wr, z1), (x2, -wr, z1))


def _mirrors(build: _Builder, s: Shape) -> None:
    dark = plain((34, 35, 38))
    x, z, w = s.cabin[3] - 0.55 * (s.height < 2), s.belt + 0.04, s.width / 2
    for low, high in ((-w - 0.17, -w + 0.02), (w - 0.02, w + 0.17)):
        build.box(
            CHASSIS,
            (x - 0.05, low, z),
            (x + 0.05, high, z + 0.15 * s.height / 1.5),
            dark,
            dark,
            dark,
        )


def _wheels(rng: np.random.Generator, build: _Builder, s: Shape) -> None:
    texture = art.paint_wheel(rng)
    w, r = s.width / 2, s.wheel
    for x in s.axles:
        for y, sign in ((-w - 0.005, 1.0), (w + 0.005, -1.0)):
            build.face(
                WHEELS,
                texture,
                (x - sign * r, y, 2 * r),
                (x + sign * r, y, 2 * r),
                (x - sign * r, y, 0.0),
                CIRCLE,
            )
