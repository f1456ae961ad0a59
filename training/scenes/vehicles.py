# SPDX-License-Identifier: Apache-2.0
"""Vehicles of a street, and their faces that are visible to the camera."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from training.scenes.camera import FloatArray
from training.scenes.geometry import Panel
from training.scenes.light import Light
from training.scenes.textures import Color, jitter
from training.scenes.vehicle_mesh import CABIN, CARGO, CHASSIS, WHEELS, Mesh, build_mesh
from training.scenes.vehicle_paint import draw_paint
from training.scenes.vehicle_shapes import VEHICLE_KINDS, Shape, draw_shape

_FLEET = {'car': 22, 'van': 3, 'truck': 3, 'bus': 3}
_BUS_PAINTS: list[Color] = [(176, 38, 36), (44, 86, 148), (206, 198, 120), (214, 214, 208)]
_VAN_WHITE: Color = (216, 216, 212)
# Drawing order as seen from behind the cab, which the cargo then hides.
_FROM_BEHIND = np.array([CHASSIS, CABIN, CARGO, WHEELS])


@dataclass(frozen=True)
class Body:
    """Vehicle body: dimensions and mesh."""

    shape: Shape
    mesh: Mesh = field(repr=False, compare=False)

    @property
    def label(self) -> str:
        """Name of the Cityscapes class."""
        return self.shape.label

    @property
    def length(self) -> float:
        """Length in m."""
        return self.shape.length


@dataclass(frozen=True)
class Vehicle:
    """Vehicle on the street: its middle in street coordinates, m, and its direction, +1 or -1.

    number is the k of Cityscapes' labelId * 1000 + k.
    """

    body: Body
    x: float
    t: float
    direction: int
    number: int


class Garage:
    """Vehicles of one street: a few of each kind, built on first use."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._bodies: dict[tuple[str, int], Body] = {}

    def take(self, rng: np.random.Generator, shares: Sequence[float]) -> Body:
        """Return a random vehicle; shares are the probabilities of VEHICLE_KINDS."""
        kind = VEHICLE_KINDS[int(rng.choice(len(VEHICLE_KINDS), p=shares))]
        k = int(rng.integers(_FLEET[kind]))
        if (kind, k) not in self._bodies:
            built = np.random.default_rng([self._seed, 10, VEHICLE_KINDS.index(kind), k])
            self._bodies[kind, k] = draw_body(built, kind)
        return self._bodies[kind, k]


def draw_body(rng: np.random.Generator, kind: str) -> Body:
    """Generate a random vehicle of one of VEHICLE_KINDS."""
    shape, paint = draw_shape(rng, kind), draw_paint(rng)
    if kind == 'bus':
        paint = jitter(rng, _BUS_PAINTS[int(rng.integers(len(_BUS_PAINTS)))], 0.06)
    elif kind == 'van' and rng.random() < 0.6:
        paint = _VAN_WHITE
    return Body(shape, build_mesh(rng, shape, paint))


def vehicle_panels(
    body: Body, at: FloatArray, heading: float, eye: FloatArray, light: Light
) -> tuple[Panel, ...]:
    """Return the faces of a vehicle that are visible from the eye, in drawing order.

    at: (3,) m, ground below the middle. heading: rad. eye: (3,) m, optical center of the camera.
    """
    mesh, (c, s) = body.mesh, (np.cos(heading), np.sin(heading))
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
    eye_local = turn @ (eye - at)
    facing = np.einsum('fi,fi->f', mesh.normal, eye_local - mesh.origin) > 0.0
    seen = np.flatnonzero(facing)
    ahead_of_cab = eye_local[0] > body.shape.cabin[0]
    rank = mesh.part[seen]
    if not ahead_of_cab:
        rank = _FROM_BEHIND[rank]
    seen = seen[np.argsort(rank, kind='stable')]
    origin, u, v, normal = (m[seen] @ turn for m in (mesh.origin, mesh.u, mesh.v, mesh.normal))
    origin = origin + at
    return tuple(
        Panel(origin[i], u[i], v[i], mesh.textures[f], light.gain(normal[i]), mesh.outlines[f])
        for i, f in enumerate(seen)
    )
