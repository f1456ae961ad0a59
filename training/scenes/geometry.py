# SPDX-License-Identifier: Apache-2.0
"""Planar panels, from which the world is built, and clipping of their outlines."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from training.scenes.camera import FloatArray
from training.scenes.textures import Texture

Rgb = tuple[float, float, float]

UNIT_SQUARE: FloatArray = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE: FloatArray = 0.5 + 0.5 * np.column_stack([np.cos(_TURN), np.sin(_TURN)])


@dataclass(frozen=True, eq=False)
class Panel:
    """Textured planar panel: the point at (u, v) is origin + u * u_axis + v * v_axis.

    origin, u_axis, v_axis: (3,) m; v points down the texture. outline: (N, 2) in uv. gain: light
    on the panel, one factor per color channel. With cutout, the texture's alpha defines the
    visible area and the outline only bounds the label.
    """

    origin: FloatArray
    u_axis: FloatArray
    v_axis: FloatArray
    texture: Texture
    gain: Rgb = (1.0, 1.0, 1.0)
    outline: FloatArray = field(default_factory=lambda: UNIT_SQUARE)
    cutout: bool = False
    label: str | None = None


@dataclass(frozen=True)
class Footprint:
    """Ground area of an object in street coordinates: x0..x1 along, t0..t1 across, in m."""

    x0: float
    x1: float
    t0: float
    t1: float


@dataclass(frozen=True, eq=False)
class Thing:
    """Object of the street: panels in drawing order with one label.

    number is the k of Cityscapes' labelId * 1000 + k, None for labels without instances. rank
    breaks ties between overlapping footprints: higher ranks are drawn later. height, shadow (width
    of a post) and crown (radius of a tree), in m, define the shadow on the ground; base is the
    height of the ground below the object.
    """

    label: str
    panels: tuple[Panel, ...]
    footprint: Footprint
    number: int | None = None
    rank: int = 0
    height: float = 0.0
    shadow: float = 0.0
    crown: float = 0.0
    base: float = 0.0

    @cached_property
    def corners(self) -> FloatArray:
        """Points whose convex hull contains all panels, (4 P, 3) m."""
        origin, u, v = (
            np.array([getattr(panel, name) for panel in self.panels]).reshape(-1, 3)
            for name in ('origin', 'u_axis', 'v_axis')
        )
        return np.concatenate([origin, origin + u, origin + v, origin + u + v])


def clip_half_space(points: FloatArray, distance: FloatArray) -> FloatArray:
    """Clip a polygon (N, D) to the part where distance (N,) is not negative, (M, D)."""
    low = distance.min()
    if low >= 0.0:
        return points
    if distance.max() < 0.0:
        return points[:0]
    kept: list[FloatArray] = []
    gap = distance.tolist()
    for i, here in enumerate(gap):
        j = (i + 1) % len(gap)
        if here >= 0.0:
            kept.append(points[i])
        if (here >= 0.0) != (gap[j] >= 0.0):
            kept.append(points[i] + here / (here - gap[j]) * (points[j] - points[i]))
    return np.array(kept)


def clip_to_image(polygon: FloatArray, width: int, height: int) -> FloatArray:
    """Clip a polygon (N, 2) in pixels to the pixel centers of an image, (M, 2)."""
    if polygon.min() >= 0.0:
        right, bottom = polygon.max(axis=0).tolist()
        if right <= width - 1.0 and bottom <= height - 1.0:
            return polygon
    for axis, limit in ((0, width - 1.0), (1, height - 1.0)):
        if len(polygon):
            polygon = clip_half_space(polygon, polygon[:, axis])
        if len(polygon):
            polygon = clip_half_space(polygon, limit - polygon[:, axis])
    return polygon
