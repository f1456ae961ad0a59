# SPDX-License-Identifier: Apache-2.0
"""Layout of a street: kind, cross-section and course, and the motion of the camera along it.

Street coordinates are x along the world's x axis, and t to the left of the center line, in m.
"""

from dataclasses import dataclass

import numpy as np

from segmentation_node.arrays import Float32Array
from training.scenes.camera import Extrinsic, FloatArray, VehiclePose

CURB_M = 0.12
BLOCK_M = 48.0
SIDES = (1, -1)


@dataclass(frozen=True)
class Layout:
    """Cross-section and course of a street; pairs are (left, right), lengths in m.

    drive_side is -1 if traffic drives on the right, +1 if on the left. lane is the width of one of
    the two lanes. greenery, traffic and footfall are about 0 to 1; speed is that of the camera in
    m/s.
    """

    kind: str
    season: str
    drive_side: int
    lane: float
    parking: tuple[float, float]
    bays: bool
    verge: tuple[float, float]
    sidewalk: tuple[float, float]
    setback: tuple[float, float]
    greenery: float
    traffic: float
    footfall: float
    bend: float
    bend_length: float
    bend_phase: float
    speed: float
    mark: str
    paving: str

    @property
    def half_road(self) -> float:
        """Distance from the center line to the edge of the lane."""
        return self.lane + 0.25

    def curb(self, side: int) -> float:
        """Return the distance of the curb from the center line on a side (+1 left, -1 right)."""
        return self.half_road + self.parking[side < 0]

    def walk(self, side: int) -> float:
        """Return the distance of the sidewalk's inner edge."""
        return self.curb(side) + self.verge[side < 0]

    def border(self, side: int) -> float:
        """Return the distance of the sidewalk's outer edge, where private property begins."""
        return self.walk(side) + self.sidewalk[side < 0]

    def facade(self, side: int) -> float:
        """Return the distance of the house fronts."""
        return self.border(side) + self.setback[side < 0]

    def center(self, x: FloatArray | float) -> FloatArray:
        """Return the world y of the center line at x, of any shape."""
        wave = 2 * np.pi * np.asarray(x, float) / self.bend_length + self.bend_phase
        return np.asarray(self.bend * np.sin(wave))

    def center_of(self, x: Float32Array, start: float) -> Float32Array:
        """Return the world y of the center line at start + x, in single precision."""
        turn = np.float32(2 * np.pi / self.bend_length)
        phase = np.float32((2 * np.pi * start / self.bend_length + self.bend_phase) % (2 * np.pi))
        y: Float32Array = np.float32(self.bend) * np.sin(turn * x + phase)
        return y

    def heading(self, x: float) -> float:
        """Return the direction of the center line at x, in rad."""
        wave = 2 * np.pi * x / self.bend_length + self.bend_phase
        return float(np.arctan(self.bend * 2 * np.pi / self.bend_length * np.cos(wave)))

    def world(self, x: float, t: float, z: float = 0.0) -> FloatArray:
        """Convert street coordinates to a world point (3,)."""
        return np.array([x, t + float(self.center(x)), z])

    def rectangle(self, x0: float, x1: float, t0: float, t1: float, z: float = 0.0) -> FloatArray:
        """Return the corners, in order, of a rectangle in street coordinates as points (4, 3)."""
        y0, y1 = self.center(np.array([x0, x1])).tolist()
        return np.array([[x0, y0 + t0, z], [x0, y0 + t1, z], [x1, y1 + t1, z], [x1, y1 + t0, z]])


def draw_layout(rng: np.random.Generator) -> Layout:
    """Generate a random street."""
    kinds = ['city', 'terrace', 'suburb', 'modern']
    kind = str(rng.choice(kinds, p=[0.38, 0.22, 0.24, 0.16]))
    green = {'city': 0.3, 'terrace': 0.35, 'suburb': 0.8, 'modern': 0.5}[kind]
    sidewalk = (1.8, 2.8) if kind in ('terrace', 'suburb') else (2.4, 4.6)
    garden = {'city': 0.0, 'terrace': 1.5, 'suburb': 5.0, 'modern': 1.5}[kind]
    lane = float(rng.uniform(3.0, 3.7))

    def pair(chance: float, low: float, high: float) -> tuple[float, float]:
        left, right = (float(rng.uniform(low, high)) * (rng.random() < chance) for _ in range(2))
        return left, right

    length = float(rng.uniform(160.0, 320.0))
    return Layout(
        kind=kind,
        season=str(rng.choice(['summer', 'autumn', 'bare'], p=[0.58, 0.17, 0.25])),
        drive_side=-1 if rng.random() < 0.6 else 1,
        lane=lane,
        parking=pair(0.68, 2.1, 2.4),
        bays=bool(rng.random() < 0.3),
        verge=pair(0.15 + 0.5 * (kind == 'suburb'), 1.4, 3.0),
        sidewalk=pair(1.0, *sidewalk),
        setback=pair(0.9, 0.4 * garden, 1.4 * garden),
        greenery=float(np.clip(green * rng.uniform(0.4, 1.6), 0.05, 1.0)),
        traffic=float(rng.uniform(0.3, 1.0)),
        footfall=float(rng.uniform(0.3, 1.0)) * (1.4 if kind == 'city' else 0.8),
        bend=float(rng.uniform(-1.0, 1.0)) * length * 0.012,
        bend_length=length,
        bend_phase=float(rng.uniform(0, 2 * np.pi)),
        speed=float(rng.uniform(6.5, 10.5)),
        mark=str(rng.choice(['dashed', 'solid', 'double', 'none'], p=[0.62, 0.16, 0.1, 0.12])),
        paving=str(rng.choice(['slabs', 'asphalt', 'setts'], p=[0.6, 0.25, 0.15])),
    )


@dataclass(frozen=True)
class Ride:
    """Motion of the vehicle and its camera, in m, s and rad.

    focal is the focal length divided by the width of the picture. sway, rate (Hz) and phase each
    have values for the drift within the lane, the steering and the pitching of the body.
    """

    speed: float
    focal: float
    height: float
    lateral: float
    mount_yaw: float
    pitch: float
    sway: tuple[float, float, float]
    rate: tuple[float, float, float]
    phase: tuple[float, float, float]

    def vehicle(self, layout: Layout, time_s: float) -> VehiclePose:
        """Return the pose of the vehicle on the road at a time."""
        x = self.speed * time_s
        drift = self.sway[0] * np.sin(2 * np.pi * self.rate[0] * time_s + self.phase[0])
        t = layout.drive_side * layout.half_road / 2 + self.lateral + drift
        turn = self.sway[1] * np.sin(2 * np.pi * self.rate[1] * time_s + self.phase[1])
        point = layout.world(x, float(t))
        yaw = layout.heading(x) + float(turn)
        return VehiclePose(x, round(float(point[1]), 6), round(yaw, 6))

    def extrinsic(self, time_s: float) -> Extrinsic:
        """Return the camera pose at a time, including pitch and roll of the suspension."""
        nod = self.sway[2] * np.sin(2 * np.pi * self.rate[2] * time_s + self.phase[2])
        roll = 0.4 * self.sway[2] * np.sin(2 * np.pi * 0.61 * time_s + self.phase[1])
        return Extrinsic(
            x=1.7,
            y=0.1,
            z=self.height,
            yaw=self.mount_yaw,
            pitch=round(self.pitch + float(nod), 6),
            roll=round(float(roll), 6),
        )


def draw_ride(rng: np.random.Generator, layout: Layout) -> Ride:
    """Generate a random camera and driving style."""

    def triple(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[float, float, float]:
        a, b, c = (float(v) for v in rng.uniform(low, high))
        return a, b, c

    return Ride(
        speed=round(layout.speed, 3),
        focal=round(float(rng.uniform(0.86, 1.12)), 3),
        height=round(float(rng.uniform(1.2, 1.5)), 3),
        lateral=float(rng.uniform(-0.25, 0.25)),
        mount_yaw=round(float(rng.uniform(-0.02, 0.02)), 4),
        pitch=round(float(rng.uniform(0.0, 0.05)), 4),
        sway=triple((0.05, 0.002, 0.001), (0.2, 0.008, 0.005)),
        rate=triple((0.05, 0.1, 0.7), (0.12, 0.25, 1.4)),
        phase=triple((0, 0, 0), (6.28, 6.28, 6.28)),
    )
