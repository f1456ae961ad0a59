# SPDX-License-Identifier: Apache-2.0
"""Lots along the street: houses with roofs and gardens, and gaps between them."""

import numpy as np

from training.scenes import furniture, plants
from training.scenes.camera import FloatArray
from training.scenes.facades import (
    PX_PER_M,
    FacadePlan,
    draw_plan,
    paint_facade,
    paint_wall,
)
from training.scenes.geometry import UNIT_SQUARE, Footprint, Panel, Thing
from training.scenes.layout import CURB_M, Layout
from training.scenes.light import Light
from training.scenes.textures import Texture, jitter, opaque


class LotBuilder:
    """Builder of the lots of one street; side is +1 for the left, -1 for the right."""

    def __init__(self, seed: int, layout: Layout, light: Light) -> None:
        rng = np.random.default_rng([seed, 1])
        self.layout, self.light = layout, light
        self.trees = [plants.paint_tree(rng, layout.season) for _ in range(5)]
        self.hedges = [plants.paint_hedge(rng, layout.season) for _ in range(2)]

    def line(self, rng: np.random.Generator, x: float, end: float, side: int) -> list[Thing]:
        """Build houses and gaps along one side from x to end."""
        gap_share = {'city': 0.1, 'terrace': 0.08, 'suburb': 0.25, 'modern': 0.2}[self.layout.kind]
        widths = {'city': (6, 13), 'terrace': (5, 8), 'suburb': (9, 15), 'modern': (12, 24)}
        low, high = widths[self.layout.kind]
        things: list[Thing] = []
        while x < end - 0.5:
            width = float(rng.uniform(low, high))
            if end - x - width < low:
                width = end - x
            if rng.random() < gap_share:
                things += self._gap(rng, x, x + width, side)
            else:
                spare = float(rng.uniform(1.5, 4.0)) if self.layout.kind == 'suburb' else 0.0
                things.append(self._house(rng, x, x + max(width - spare, 4.0), side))
                things += self._garden(rng, x, x + width, side)
            x += width
        return things

    def _house(self, rng: np.random.Generator, x0: float, x1: float, side: int) -> Thing:
        plan = draw_plan(rng, x1 - x0, self.layout.kind)
        near, depth = self.layout.facade(side), float(rng.uniform(8.0, 12.0))
        pitched = self.layout.kind != 'modern' and rng.random() < 0.7
        rise = float(rng.uniform(2.0, 3.6)) if pitched else 0.0
        front = paint_facade(rng, plan)
        panels = [
            *(self._roof(rng, x0, x1, side, near, depth, plan.height, rise) if pitched else []),
            self._gable(rng, x0, side, near, depth, plan, rise),
            self._face(x0, x1, side, near, CURB_M, plan.height, front),
        ]
        inner, outer = sorted((side * near, side * (near + depth)))
        return Thing(
            'building',
            tuple(panels),
            Footprint(x0, x1, inner, outer),
            height=plan.height + 0.6 * rise,
        )

    def _face(
        self,
        x0: float,
        x1: float,
        side: int,
        t: float,
        base: float,
        height: float,
        texture: Texture,
        outline: FloatArray = UNIT_SQUARE,
        cutout: bool = False,
    ) -> Panel:
        """Return an upright face along the street at distance t that faces the road."""
        a, b = (x0, x1) if side > 0 else (x1, x0)
        start = self.layout.world(a, side * t, base + height)
        along = self.layout.world(b, side * t, base + height) - start
        normal = np.array([0.0, -float(side), 0.0])
        return Panel(
            start,
            along,
            np.array([0.0, 0.0, -height]),
            texture,
            self.light.gain(normal),
            outline,
            cutout,
        )

    def _end(
        self,
        x: float,
        side: int,
        t: float,
        depth: float,
        base: float,
        height: float,
        texture: Texture,
        outline: FloatArray = UNIT_SQUARE,
    ) -> Panel:
        """Return an upright face across the street at x that faces the camera."""
        left = t + depth if side > 0 else -t
        start = self.layout.world(x, left, base + height)
        return Panel(
            start,
            np.array([0.0, -depth, 0.0]),
            np.array([0.0, 0.0, -height]),
            texture,
            self.light.gain(np.array([-1.0, 0.0, 0.0])),
            outline,
        )

    def _gable(
        self,
        rng: np.random.Generator,
        x: float,
        side: int,
        near: float,
        depth: float,
        plan: FacadePlan,
        rise: float,
    ) -> Panel:
        tall = plan.height + rise
        rows, cols = int(tall * PX_PER_M / 2), int(depth * PX_PER_M / 2)
        wall = opaque(paint_wall(rng, plan.material, plan.wall, rows, cols))
        eaves = rise / tall
        outline = np.array([[0.0, eaves], [0.5, 0.0], [1.0, eaves], [1.0, 1.0], [0.0, 1.0]])
        return self._end(x, side, near, depth, CURB_M, tall, wall, outline)

    def _roof(
        self,
        rng: np.random.Generator,
        x0: float,
        x1: float,
        side: int,
        near: float,
        depth: float,
        eaves: float,
        rise: float,
    ) -> list[Panel]:
        tile = jitter(rng, ((112, 70, 54), (74, 76, 82), (92, 82, 74))[int(rng.integers(3))], 0.1)
        wall = paint_wall(rng, 'brick', tile, 160, 320)
        a, b = (x0, x1) if side > 0 else (x1, x0)
        eaves += CURB_M
        ridge = self.layout.world(a, side * (near + depth / 2), eaves + rise)
        along = self.layout.world(b, side * (near + depth / 2), eaves + rise) - ridge
        down = np.array([0.0, -side * (depth / 2 + 0.3), -rise * (1 + 0.6 / depth)])
        normal = np.array([0.0, -side * rise, depth / 2]) / np.hypot(rise, depth / 2)
        slope = Panel(ridge, along, down, opaque(wall), self.light.gain(normal))
        stack = opaque(paint_wall(rng, 'brick', jitter(rng, (134, 88, 70), 0.1), 60, 48))
        at, t = float(rng.uniform(x0 + 1, x1 - 1)), near + depth / 2 - 0.5
        return [
            self._end(at, side, t, 1.0, eaves + rise - 0.6, 1.7, stack),
            self._face(at, at + 0.6, side, t, eaves + rise - 0.6, 1.7, stack),
            slope,
        ]

    def _garden(self, rng: np.random.Generator, x0: float, x1: float, side: int) -> list[Thing]:
        if self.layout.setback[side < 0] < 1.2:
            return []
        things: list[Thing] = []
        if rng.random() < 0.75:
            gate = float(rng.uniform(0.9, 2.8))
            things.append(self._barrier(rng, x0, x1 - gate, side, low=True))
        room = self.layout.setback[side < 0]
        if rng.random() < self.layout.greenery and room > 2.0:
            x = float(rng.uniform(x0 + 1, x1 - 1))
            t = side * (self.layout.border(side) + float(rng.uniform(0.5, 0.8)) * room)
            things.append(self.tree(rng, x, t, float(rng.uniform(2.2, 5.0)), rank=1))
        return things

    def _gap(self, rng: np.random.Generator, x0: float, x1: float, side: int) -> list[Thing]:
        """Build a gap between houses: a barrier along the sidewalk, with trees behind it."""
        things = [self._barrier(rng, x0, x1, side, low=False)]
        for _ in range(int(rng.integers(2, 6))):
            x = float(rng.uniform(x0 + 0.5, x1 - 0.5))
            t = side * (self.layout.border(side) + float(rng.uniform(2.5, 12.0)))
            things.append(self.tree(rng, x, t, float(rng.uniform(4.0, 10.0))))
        return things

    def _barrier(
        self, rng: np.random.Generator, x0: float, x1: float, side: int, low: bool
    ) -> Thing:
        label = str(rng.choice(['vegetation', 'fence', 'wall'], p=[0.4, 0.33, 0.27]))
        tall = float(rng.uniform(0.8, 1.3) if low else rng.uniform(1.2, 2.3))
        t = self.layout.border(side) + 0.05
        depth = 0.8 if label == 'vegetation' else 0.2
        if label == 'vegetation':
            texture = self.hedges[int(rng.integers(len(self.hedges)))]
            bumps = np.linspace(0.0, 1.0, 25)
            top = np.column_stack([bumps, np.abs(rng.normal(0.0, 0.04, 25))])
            outline = np.vstack([top, [[1.0, 1.0], [0.0, 1.0]]])
        else:
            texture = furniture.fence_texture(rng, label, x1 - x0, tall)
            outline = UNIT_SQUARE
        cutout = bool(texture.rgba[..., 3].min() == 0)
        panels = [self._face(x0, x1, side, t, CURB_M, tall, texture, outline, cutout)]
        if not cutout:
            panels.insert(0, self._end(x0, side, t, depth, CURB_M, tall, texture))
        inner, outer = sorted((side * t, side * (t + depth)))
        return Thing(label, tuple(panels), Footprint(x0, x1, inner, outer), height=tall)

    def tree(
        self, rng: np.random.Generator, x: float, t: float, size: float, rank: int = 0
    ) -> Thing:
        """Build a tree of a given size in m at a place in street coordinates."""
        sprite = self.trees[int(rng.integers(len(self.trees)))]
        point = self.layout.world(x, t, 0.05)
        wide = size * float(rng.uniform(0.85, 1.1))
        mirror = float(rng.choice([-1.0, 1.0]))
        shade = float(rng.uniform(0.88, 1.12))
        side_light = self.light.gain(np.array([-0.7, 0.0, 0.714]))
        r, g, b = (c * shade for c in side_light)
        panel = Panel(
            point + np.array([0.0, mirror * wide / 2, size]),
            np.array([0.0, -mirror * wide, 0.0]),
            np.array([0.0, 0.0, -size]),
            sprite.texture,
            (r, g, b),
            sprite.outline,
            cutout=True,
        )
        return Thing(
            'vegetation',
            (panel,),
            Footprint(x - 0.2, x + 0.2, t - 0.2, t + 0.2),
            rank=rank,
            height=size,
            crown=0.33 * wide,
        )
