# SPDX-License-Identifier: Apache-2.0
"""Renderer of a frame of a street: picture, labels, instances and polygons."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segmentation_node.errors import SettingError
from segmentation_node.labels import load_scheme
from training.scenes.blocks import Block
from training.scenes.camera import Camera, FloatArray, Intrinsic
from training.scenes.canvas import Canvas, blend
from training.scenes.geometry import Footprint, Panel, Thing
from training.scenes.light import cast_shadows, contact_shadows
from training.scenes.people import Figure, cyclist, walker
from training.scenes.sensor import Sensor
from training.scenes.street import Street
from training.scenes.textures import Image
from training.scenes.traffic import Walking
from training.scenes.vehicles import Vehicle, vehicle_panels
from training.scenes.visibility import back_to_front, visible

SCHEME = 'cityscapes34'
_MIN_SIZE = 64
_SIGHT_M = 180.0
_SIGHT_PEOPLE_M = 65.0
_SIGHT_PARKED_M = 95.0
_SIGHT_DRIVING_M = 140.0
_BEHIND_M = 2.0


@dataclass(frozen=True)
class RenderedFrame:
    """Rendered frame.

    image_rgb: (H, W, 3) uint8. label_ids: (H, W) uint8, Cityscapes labelIds. instance_ids:
    (H, W) int32, labelId or labelId * 1000 + k. polygons: content of a Cityscapes
    gtFine_polygons.json. camera: camera of the picture.
    """

    image_rgb: Image
    label_ids: Image
    instance_ids: npt.NDArray[np.int32]
    polygons: dict[str, Any]
    camera: Camera


def check_size(width: int, height: int) -> None:
    """Raise SettingError if pictures of this size would be too small to show a street."""
    if min(width, height) < _MIN_SIZE:
        raise SettingError(
            f'size {width}x{height} is too small, expected at least {_MIN_SIZE}x{_MIN_SIZE}; '
            'choose a larger size'
        )


class Renderer:
    """Renderer of frames of one size, with the same dash camera for all frames of a street.

    Raises:
        SettingError: the size is too small.
    """

    def __init__(self, width: int, height: int) -> None:
        check_size(width, height)
        self.width, self.height = width, height
        self.scheme = load_scheme(SCHEME)
        self._street: Street | None = None

    def _prepare(self, street: Street) -> None:
        if street is self._street:
            return
        self._street = street
        self._sensor = Sensor(street.seed, self.width, self.height)
        self._hood = _Hood(street.seed)

    def camera(self, street: Street, time_s: float) -> Camera:
        """Return the camera of the street's vehicle at a time."""
        focal = round(street.ride.focal * self.width, 3)
        intrinsic = Intrinsic(focal, focal, self.width * 0.5, round(self.height * 0.47, 3))
        vehicle = street.ride.vehicle(street.layout, time_s)
        return Camera(self.width, self.height, intrinsic, street.ride.extrinsic(time_s), vehicle)

    def render(self, street: Street, time_s: float) -> RenderedFrame:
        """Render the street as seen time_s seconds after the start of the drive."""
        self._prepare(street)
        camera = self.camera(street, time_s)
        canvas = Canvas(camera, self.scheme)
        here = camera.vehicle.x
        blocks = street.blocks(here - _BEHIND_M, here + _SIGHT_M)
        moving = list(_moving(street, blocks, camera, time_s))
        things = [*_standing(blocks, camera), *moving]
        street.sky.paint(canvas)
        street.ground.paint_frame(
            canvas,
            blocks,
            _shadows(street, blocks, moving),
            contact_shadows(moving, street.layout),
        )
        t_eye = float(camera.center[1] - street.layout.center(camera.center[0]))
        ordered = [*street.sky.far_end(here), *back_to_front(things, t_eye)]
        for thing, glimpses in visible(canvas, ordered):
            distance = (thing.footprint.x0 + thing.footprint.x1) / 2 - here
            haze = street.light.haze(distance)
            canvas.paint(thing, glimpses, haze, street.light.haze_rgb)
        self._hood.paint(canvas, street)
        image = self._sensor.expose(canvas.rgba, round(time_s * 1e6))
        polygons = {'imgHeight': self.height, 'imgWidth': self.width, 'objects': canvas.objects}
        return RenderedFrame(image, canvas.label_ids, canvas.instance_ids, polygons, camera)


def _standing(blocks: list[Block], camera: Camera) -> Iterator[Thing]:
    """Yield the houses, plants and furniture within sight."""
    low, high = camera.vehicle.x + _BEHIND_M, camera.vehicle.x + _SIGHT_M
    for block in blocks:
        for thing in block.things:
            if thing.footprint.x1 > low and thing.footprint.x0 < high:
                yield thing


def _moving(street: Street, blocks: list[Block], camera: Camera, time_s: float) -> Iterator[Thing]:
    """Yield the vehicles, including parked ones, and people within sight."""
    here = camera.vehicle.x
    for block in blocks:
        for car in block.parked:
            if here - _BEHIND_M < car.x < here + _SIGHT_PARKED_M:
                yield _vehicle(street, car, camera.center)
    for driving in street.traffic.vehicles(time_s, here - 4.0, here + _SIGHT_DRIVING_M):
        yield _vehicle(street, driving, camera.center)
    for person in street.traffic.people(time_s, here + _BEHIND_M, here + _SIGHT_PEOPLE_M):
        yield _person(street, person)


def _shadows(street: Street, blocks: list[Block], moving: list[Thing]) -> Iterator[FloatArray]:
    """Yield the shadows on the ground that are near enough to be visible."""
    for block in blocks[:3]:
        yield from block.shadows
    yield from cast_shadows(moving, street.layout, street.light)


def _vehicle(street: Street, car: Vehicle, eye: FloatArray) -> Thing:
    at = street.layout.world(car.x, car.t)
    heading = street.layout.heading(car.x) + (0.0 if car.direction > 0 else np.pi)
    panels = vehicle_panels(car.body, at, heading, eye, street.light)
    half_length, half_width = car.body.length / 2, car.body.shape.width / 2
    footprint = Footprint(
        car.x - half_length, car.x + half_length, car.t - half_width, car.t + half_width
    )
    return Thing(car.body.label, panels, footprint, car.number, height=car.body.shape.height * 0.9)


def _person(street: Street, person: Walking) -> Thing:
    figure: Figure = (cyclist if person.cyclist else walker)(
        person.look, person.phase, person.view
    )
    point = street.layout.world(person.x, person.t, person.z)
    gain = street.light.gain(np.array([-0.8, 0.0, 0.6]))
    mirror = -1.0 if person.mirrored else 1.0
    panels = tuple(
        Panel(
            point + np.array([0.0, mirror * figure.width / 2, figure.height]),
            np.array([0.0, -mirror * figure.width, 0.0]),
            np.array([0.0, 0.0, -figure.height]),
            sprite.texture,
            gain,
            sprite.outline,
            True,
            label,
        )
        for label, sprite in figure.parts
    )
    footprint = Footprint(person.x - 0.2, person.x + 0.2, person.t - 0.25, person.t + 0.25)
    return Thing(
        'person', panels, footprint, person.number, height=1.7, shadow=0.42, base=person.z
    )


class _Hood:
    """Hood of the ego vehicle at the lower edge of the picture."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 9])
        self.rise = float(rng.uniform(0.03, 0.1))
        self.color = [(26, 28, 32), (120, 122, 126), (90, 22, 24), (40, 56, 92)][
            int(rng.integers(4))
        ]
        self.round = float(rng.uniform(0.35, 0.6))

    def paint(self, canvas: Canvas, street: Street) -> None:
        """Paint and label the hood."""
        width, height = canvas.camera.width, canvas.camera.height
        s = np.linspace(-1.0, 1.0, 41)
        edge = height * (1.0 - self.rise * (1.0 - self.round * np.abs(s) ** 3.0))
        x = (s + 1.0) * 0.5 * (width - 1)
        polygon = np.vstack([np.column_stack([x, edge]), [[width - 1, height], [0, height]]])
        filled = canvas.fill('ego vehicle', polygon)
        if filled is None:
            return
        mask, region = filled
        rows = region.size[1]
        depth = np.linspace(1.0, 0.0, rows)[:, None, None]
        sky = np.asarray(street.light.horizon_rgb) * 0.45 * depth**2
        lit = np.asarray(self.color) * np.asarray(street.light.gain(np.array([0.0, 0.0, 1.0])))
        shade = np.clip(lit * 0.75 + sky, 0, 255).repeat(region.size[0], axis=1)
        source = np.dstack([shade, np.full(shade.shape[:2], 255.0)]).astype(np.uint8)
        blend(canvas.rgba[region.slices], source, mask)
