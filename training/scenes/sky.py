# SPDX-License-Identifier: Apache-2.0
"""Sky with clouds, and the skyline that closes the view at the end of the street."""

from dataclasses import replace

import cv2
import numpy as np

from training.scenes.canvas import Canvas
from training.scenes.facades import draw_plan, paint_facade
from training.scenes.geometry import UNIT_SQUARE, Footprint, Panel, Thing
from training.scenes.layout import Layout
from training.scenes.light import Light
from training.scenes.textures import Image, Sprite, fractal

_PANORAMA_PX = (384, 1024)
_PX_PER_RAD = 420.0
_HORIZON_PX = 340
BACKDROP_M = 185.0


class Sky:
    """Painted dome of sky, and a far skyline at a constant distance."""

    def __init__(self, seed: int, layout: Layout, light: Light, trees: list[Sprite]) -> None:
        rng = np.random.default_rng([seed, 6])
        self.layout, self.light = layout, light
        self.dome = self._dome(rng)
        self.skyline = self._skyline(rng, trees)

    def _dome(self, rng: np.random.Generator) -> Image:
        rows, cols = _PANORAMA_PX
        light = self.light
        up = np.clip((_HORIZON_PX - np.arange(rows, dtype=np.float32)) / _HORIZON_PX, 0, 1)
        blend = (1.0 - np.exp(-3.2 * up))[:, None, None]
        clear = np.asarray(light.horizon_rgb) * (1 - blend) + np.asarray(light.zenith_rgb) * blend
        field = fractal(rng, rows, cols, 170, 6)
        # Clouds become flatter toward the horizon.
        squeeze = np.clip(up * 1.2 + 0.25, 0, 1)[:, None]
        threshold = 1.1 - 2.4 * light.cloud_cover
        amount = np.clip((field - threshold) * 1.1, 0, 1) * squeeze
        amount = np.maximum(amount, 0.92 * (light.cloud_cover >= 1.0))[..., None]
        relief = 1.0 + 0.05 * fractal(rng, rows, cols, 90, 5) - 0.05 * np.clip(field, 0, 2)
        cloud = np.asarray(light.cloud_rgb, np.float32) * relief[..., None]
        dome = clear * (1 - amount) + cloud * amount
        painted: Image = np.clip(dome, 0, 255).astype(np.uint8)
        return painted

    def paint(self, canvas: Canvas) -> None:
        """Fill the whole picture with sky; objects in front of it are painted later."""
        camera = canvas.camera
        forward = camera.world_from_mount[:, 0]
        yaw, pitch = np.arctan2(forward[1], forward[0]), -np.arcsin(forward[2])
        scale = _PX_PER_RAD / camera.intrinsic.fx
        k = camera.intrinsic
        # Inverse map, from picture to panorama; the small-angle approximation suffices for clouds.
        to_dome = np.array(
            [
                [scale, 0.0, _PANORAMA_PX[1] / 2 - yaw * _PX_PER_RAD - scale * k.u0],
                [0.0, scale, _HORIZON_PX + pitch * _PX_PER_RAD - scale * k.v0],
            ]
        )
        size = (camera.width, camera.height)
        rgb = cv2.warpAffine(
            self.dome,
            to_dome,
            size,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA, dst=canvas.rgba)
        whole = np.array([[0, 0], [size[0] - 1, 0], [size[0] - 1, size[1] - 1], [0, size[1] - 1]])
        canvas.add_polygon('sky', whole.astype(float))
        canvas.label_ids[:] = canvas.instance_ids[:] = canvas.scheme.id_of('sky')

    def _skyline(self, rng: np.random.Generator, trees: list[Sprite]) -> list[tuple[float, Thing]]:
        """Build houses and trees across the end of the street, with their lateral places in m."""
        fronts = [paint_facade(rng, draw_plan(rng, 12.0, self.layout.kind)) for _ in range(3)]
        gain = self.light.gain(np.array([-1.0, 0.0, 0.0]))
        skyline: list[tuple[float, Thing]] = []
        y = -150.0
        houses = 0.3 if self.layout.kind == 'suburb' else 0.6
        while y < 150.0:
            built = rng.random() < houses
            width = float(rng.uniform(10, 24) if built else rng.uniform(6, 12))
            tall = float(rng.uniform(6, 15) if built else width * rng.uniform(0.8, 1.0))
            sprite = trees[int(rng.integers(len(trees)))]
            panel = Panel(
                np.array([0.0, width / 2, tall]),
                np.array([0.0, -width, 0.0]),
                np.array([0.0, 0.0, -tall]),
                fronts[int(rng.integers(3))] if built else sprite.texture,
                gain,
                UNIT_SQUARE if built else sprite.outline,
                cutout=not built,
            )
            label = 'building' if built else 'vegetation'
            thing = Thing(label, (panel,), Footprint(0, 0, 0, 0))
            skyline.append((y, thing))
            y += width * (0.95 if built else 0.6)
        return skyline

    def far_end(self, x: float) -> list[Thing]:
        """Return the houses and trees of the skyline as seen from x, back to front."""
        here = x + BACKDROP_M
        far_end = []
        for y, thing in self.skyline:
            place = np.array([here, y + float(self.layout.center(here)), 0.0])
            panels = tuple(replace(p, origin=p.origin + place) for p in thing.panels)
            far_end.append(Thing(thing.label, panels, Footprint(here, here, y, y)))
        return far_end
