# SPDX-License-Identifier: Apache-2.0
"""Moving objects: cars in their lanes, cyclists, pedestrians and people crossing the road."""

from dataclasses import dataclass

import numpy as np

from training.scenes.layout import CURB_M, SIDES, Layout, Ride
from training.scenes.people import PHASES, Wardrobe, draw_wardrobe
from training.scenes.vehicles import Body, Garage, Vehicle

# Instance numbers of moving and parked vehicles must not overlap.
_FIRST_MOVING, _FIRST_LEAD = 500, 900
_STEP_M = 1.45
_LOOKS = 24


@dataclass(frozen=True)
class Walking:
    """Moving pedestrian or cyclist; view is the painted one, mirrored if they move to the left."""

    look: Wardrobe
    x: float
    t: float
    z: float
    phase: int
    view: str
    mirrored: bool
    cyclist: bool
    number: int


@dataclass(frozen=True)
class _Stream:
    """Evenly spaced agents on a line that moves at one speed; spacing and t in m, speed in m/s."""

    key: int
    t: float
    speed: float
    spacing: float

    def seen(self, time_s: float, low: float, high: float) -> list[tuple[int, float]]:
        """Return the number and x of each slot within low..high."""
        traveled = self.speed * time_s
        first = int(np.ceil((low - traveled) / self.spacing))
        last = int(np.floor((high - traveled) / self.spacing))
        return [(k, k * self.spacing + traveled) for k in range(first, last + 1)]


class Traffic:
    """Moving agents of a street at any time."""

    def __init__(self, seed: int, layout: Layout, ride: Ride, garage: Garage) -> None:
        self.seed, self.layout, self.ride, self._garage = seed, layout, ride, garage
        rng = np.random.default_rng([seed, 3])
        own, half = layout.drive_side, layout.half_road
        pace = float(rng.uniform(7.0, 12.0))
        self._lead_gap = float(rng.uniform(11.0, 40.0)) if rng.random() < 0.75 else None
        self._oncoming = _Stream(1, -own * half * 0.52, -pace, 15.0 + 34.0 * float(rng.random()))
        self._walkers = [
            _Stream(
                10 + 2 * (side > 0) + (way > 0),
                side * lane,
                way * float(rng.uniform(1.0, 1.6)),
                float(rng.uniform(6.0, 16.0)) / layout.footfall,
            )
            for side in SIDES
            for way, share in ((1, 0.38), (-1, 0.66))
            for lane in [layout.walk(side) + share * layout.sidewalk[side < 0] + 0.1]
        ]
        self._cyclists = [
            _Stream(
                20, own * (half - 0.55), float(rng.uniform(3.8, 5.5)), float(rng.uniform(26, 70))
            ),
            _Stream(
                21, -own * (half - 0.5), -float(rng.uniform(3.8, 5.5)), float(rng.uniform(30, 90))
            ),
        ]
        self._looks = [draw_wardrobe(rng) for _ in range(_LOOKS)]

    def _slot(self, key: int, k: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, 4, key, k + 100_000])

    def _body(self, key: int, k: int) -> Body:
        return self._garage.take(self._slot(key, k), (0.8, 0.08, 0.06, 0.06))

    def _look(self, key: int, k: int) -> Wardrobe:
        return self._looks[int(self._slot(key, k).integers(len(self._looks)))]

    def vehicles(self, time_s: float, low: float, high: float) -> list[Vehicle]:
        """Return the driving vehicles whose middle is within low..high."""
        out = []
        for k, x in self._oncoming.seen(time_s, low, high):
            rng = self._slot(2, k)
            x += float(rng.uniform(-3.0, 3.0))
            if rng.random() < 0.45 + 0.5 * self.layout.traffic:
                out.append(
                    Vehicle(self._body(1, k), x, self._oncoming.t, -1, _FIRST_MOVING + k % 400)
                )
        if self._lead_gap is not None:
            own = self.layout.drive_side * self.layout.half_road * 0.5
            x = self.ride.speed * time_s + 4.0
            for k, gap in enumerate((self._lead_gap, self._lead_gap * 2.3 + 9.0)):
                sway = 0.09 * gap * float(np.sin(0.35 * time_s + k + self.seed))
                body = self._body(5, k)
                at = x + gap + sway + body.length / 2
                if low < at < high:
                    out.append(Vehicle(body, at, own, 1, _FIRST_LEAD + k))
        return out

    def people(self, time_s: float, low: float, high: float) -> list[Walking]:
        """Return the pedestrians on the sidewalks and cyclists on the road within low..high."""
        out = []
        for stream in self._walkers:
            for k, x in stream.seen(time_s, low, high):
                rng = self._slot(stream.key, k)
                offset, aside = rng.uniform((-2.5, -0.3), (2.5, 0.3))
                phase = int((x + offset) / _STEP_M * PHASES) % PHASES
                out.append(
                    Walking(
                        self._look(stream.key, k),
                        x + float(offset),
                        stream.t + float(aside),
                        CURB_M,
                        phase,
                        'back' if stream.speed > 0 else 'front',
                        False,
                        False,
                        (stream.key - 10) * 200 + k % 200,
                    )
                )
        for stream in self._cyclists:
            for k, x in stream.seen(time_s, low, high):
                if self._slot(stream.key + 50, k).random() < 0.5:
                    phase = int(x / 4.0 * PHASES) % PHASES
                    out.append(
                        Walking(
                            self._look(stream.key, k),
                            x,
                            stream.t,
                            0.0,
                            phase,
                            'back' if stream.speed > 0 else 'front',
                            False,
                            True,
                            (stream.key - 20) * 200 + k % 200,
                        )
                    )
        return out + self._crossers(time_s, low, high)

    def _crossers(self, time_s: float, low: float, high: float) -> list[Walking]:
        """Return the people who cross the road well ahead of the camera."""
        out = []
        every = 30.0 / self.layout.footfall
        for k in range(int(np.ceil(low / every)), int(high / every) + 1):
            rng = self._slot(30, k)
            x = k * every + float(rng.uniform(-6.0, 6.0))
            pace, side = float(rng.uniform(1.2, 1.8)), 1 if rng.random() < 0.5 else -1
            start, end = (self.layout.curb(s) + 0.7 for s in (side, -side))
            width = start + end
            lead = max(self._lead_gap or 0.0, 4.0)
            arrival = (x - lead) / self.ride.speed
            begin = arrival - width / pace - float(rng.uniform(1.0, 3.0))
            walked = float(np.clip((time_s - begin) * pace, 0.0, width))
            if not self._clear(x, begin, begin + width / pace):
                continue
            on_road = 0.6 < walked < width - 0.6
            moving = 0.0 < walked < width
            phase = int(walked / _STEP_M * PHASES) % PHASES if moving else 0
            out.append(
                Walking(
                    self._look(30, k),
                    x,
                    side * (start - walked),
                    0.0 if on_road else CURB_M,
                    phase,
                    'side',
                    side < 0,
                    False,
                    800 + k % 200,
                )
            )
        return out

    def _clear(self, x: float, begin: float, end: float) -> bool:
        """Return whether no oncoming vehicle reaches x while someone crosses there."""
        margin = 9.0
        # In the frame of the moving lane, the place of the crossing sweeps over a range.
        swept = sorted((x - self._oncoming.speed * begin, x - self._oncoming.speed * end))
        return not self._oncoming.seen(0.0, swept[0] - margin, swept[1] + margin)
