# SPDX-License-Identifier: Apache-2.0
"""Ground: road, sidewalks and verges, labeled as polygons and painted by ground coordinates."""

from collections.abc import Iterable
from functools import lru_cache, partial

import cv2
import numpy as np

from training.scenes.blocks import BLOCKS_KEPT, CROSSING_M, Block
from training.scenes.camera import FloatArray
from training.scenes.canvas import Canvas, Region, coverage
from training.scenes.layout import CURB_M, SIDES, Layout
from training.scenes.light import Light
from training.scenes.marks import block_marks, spans, strip
from training.scenes.plane import REPEAT, Plane, horizon_row
from training.scenes.surfaces import MATERIALS, PX_PER_M, TILE_PX, make_atlas
from training.scenes.textures import Field, Image, fractal

_FAR_M = 420.0
_MARKS_M = 130.0
_WIDE_PX = 256
_WEAR_PX = 512
# Gains are stored as bytes; this value represents 1.
_UNIT_GAIN = 128


class Ground:
    """Painter of the ground of one street."""

    def __init__(self, seed: int, layout: Layout, light: Light) -> None:
        rng = np.random.default_rng([seed, 5])
        self.layout, self.light = layout, light
        self.atlas = make_atlas(rng, layout)
        self.wide: Field = np.clip(1.0 + 0.055 * fractal(rng, _WIDE_PX, _WIDE_PX, 64, 5), 0.7, 1.3)
        worn = 0.82 + 0.3 * fractal(rng, _WEAR_PX, _WEAR_PX, 64, 6)
        self.wear: Field = np.clip(worn, 0.1, 1.0)
        self.rut = float(rng.uniform(-0.03, 0.1))
        self.patch = float(rng.uniform(-0.2, 0.1))
        self.paint = (224, 224, 218) if rng.random() < 0.85 else (208, 176, 84)
        marks_of = partial(block_marks, layout, int(rng.integers(0, 3)))
        self._marks_of = lru_cache(maxsize=BLOCKS_KEPT)(marks_of)

    def paint_frame(
        self,
        canvas: Canvas,
        blocks: list[Block],
        shadows: Iterable[FloatArray],
        contacts: Iterable[FloatArray],
    ) -> None:
        """Paint and label the ground; shadows and contacts are world polygons (N, 3)."""
        top = max(int(horizon_row(canvas.camera)) - 1, 0)
        if top >= canvas.camera.height - 2:
            return
        material = self._label(canvas, blocks)[top:]
        plane = Plane(canvas.camera, self.layout, top)
        seen = canvas.rgba[top:]
        below = cv2.inRange(material, 0, 254)
        albedo = self._materials(plane, material)
        self._paint_marks(canvas, plane, albedo, blocks)
        self._paint_light(canvas, plane, albedo, blocks, shadows, contacts)
        cv2.copyTo(albedo, below, seen)

    # Labels

    def _label(self, canvas: Canvas, blocks: list[Block]) -> Image:
        """Label the ground; return the index of the material of each pixel, 255 elsewhere."""
        layout, here = self.layout, canvas.camera.vehicle.x
        low, far = here - 4.0, here + _FAR_M
        material = np.full(canvas.label_ids.shape, 255, np.uint8)

        def fill(label: str, surface: str, world: FloatArray) -> None:
            filled = canvas.fill(label, canvas.world_polygon(world))
            if filled is not None:
                mask, region = filled
                index = np.full_like(mask, MATERIALS.index(surface))
                cv2.copyTo(index, cv2.inRange(mask, 128, 255), material[region.slices])

        wide = [(low, 900), (low + 9000, 9000), (low + 9000, -9000), (low, -900)]
        fill('terrain', 'terrain', np.array([(x, y, 0.0) for x, y in wide]))
        stretches = spans(blocks, low, far)
        for start, end in stretches:
            for side in SIDES:
                curb, walk = side * layout.curb(side), side * layout.walk(side)
                paved = layout.facade(side) if layout.kind == 'city' else layout.border(side)
                outer = side * paved
                fill('sidewalk', 'sidewalk', strip(layout, start, end, walk, outer, CURB_M))
                if walk != curb:
                    fill('terrain', 'terrain', strip(layout, start, end, curb, walk, CURB_M))
        for block in blocks:
            if block.crossing:
                fill('road', 'road', self._side_street(block))
        fill('road', 'road', strip(layout, low, far, -layout.half_road, layout.half_road))
        for start, end in stretches:
            for side in SIDES:
                curb = side * layout.curb(side)
                if layout.parking[side < 0] > 0:
                    label, lane = 'parking' if layout.bays else 'road', side * layout.half_road
                    fill(label, 'parking', strip(layout, start, end, lane, curb))
                fill('sidewalk', 'curb', self._curb_face(start, end, curb))
                edge = curb + side * 0.14
                fill('sidewalk', 'curb', strip(layout, start, end, curb, edge, CURB_M))
        return material

    def _curb_face(self, start: float, end: float, t: float) -> FloatArray:
        outline = strip(self.layout, start, end, t, t)
        outline[len(outline) // 2 :, 2] = CURB_M
        return outline

    def _side_street(self, block: Block) -> FloatArray:
        y, x0, x1 = float(self.layout.center(block.x0)), block.x0, block.x0 + CROSSING_M
        return np.array([[x0, y + 80, 0], [x1, y + 80, 0], [x1, y - 80, 0], [x0, y - 80, 0]])

    # Picture

    def _materials(self, plane: Plane, material: Image) -> Image:
        """Paint the surfaces without marks and light, (h, W, 4)."""
        out = np.zeros((*material.shape, 4), np.uint8)
        tile = np.minimum(material, len(MATERIALS) - 1)
        for band in plane.bands:
            texels = self.atlas.level(band.halvings)
            rows = slice(band.r0, band.r1)
            height = texels.shape[0] // len(MATERIALS)
            offset = np.arange(256, dtype=np.float32) * height + 1.0
            map_y = plane.across[rows] * np.float32((height - 2) / TILE_PX) + offset[tile[rows]]
            map_x = plane.along[rows] * np.float32(texels.shape[1] / TILE_PX)
            cv2.remap(
                texels, map_x, map_y, cv2.INTER_LINEAR, dst=out[rows], borderMode=cv2.BORDER_WRAP
            )
        return out

    def _paint_marks(
        self, canvas: Canvas, plane: Plane, albedo: Image, blocks: list[Block]
    ) -> None:
        """Blend worn road markings over the road."""
        here = canvas.camera.vehicle.x
        near = [b for b in blocks if b.x0 < here + _MARKS_M]
        mask = _cover(canvas, plane, (p for b in near for p in self._marks_of(b).paint))
        painted = cv2.findNonZero(mask)
        if painted is None:
            return
        cols, rows = painted.reshape(-1, 2).T
        half = np.float32(_WEAR_PX / TILE_PX)
        u, v = ((m[rows, cols] * half).astype(int) % _WEAR_PX for m in (plane.along, plane.across))
        share = (0.85 / 255.0) * mask[rows, cols] * self.wear[v, u]
        bare = albedo[rows, cols, :3]
        worn = bare + share[:, None] * (np.asarray(self.paint, np.float32) - bare)
        albedo[rows, cols, :3] = worn.astype(np.uint8)

    def _paint_light(
        self,
        canvas: Canvas,
        plane: Plane,
        albedo: Image,
        blocks: list[Block],
        shadows: Iterable[FloatArray],
        contacts: Iterable[FloatArray],
    ) -> None:
        """Apply light, shadows and haze to the ground."""
        height, width = plane.t.shape
        small = (max(width // 2, 1), max(height // 2, 1))

        def soft(polygons: Iterable[FloatArray], sigma: float) -> Field:
            mask = _cover(canvas, plane, polygons, small)
            blurred = cv2.GaussianBlur(mask, (0, 0), max(width * sigma, 0.4))
            return np.asarray(blurred, np.float32) * np.float32(1 / 255)

        coarse = self._unevenness(plane, (max(small[0] // 2, 1), max(small[1] // 2, 1)))
        level: Field = np.asarray(cv2.resize(coarse, small), np.float32)
        level *= 1.0 - 0.74 * soft(contacts, 0.0025)
        repaired = soft((p for b in blocks[:3] for p in self._marks_of(b).patches), 0.0003)
        level *= 1.0 + self.patch * repaired
        sunk = soft((p for b in blocks[:2] for p in self._marks_of(b).covers), 0.0003)
        level *= 1.0 - 0.4 * sunk
        lit = np.asarray(self.light.gain(np.array([0.0, 0.0, 1.0])), np.float32)
        gain = np.full((*level.shape, 4), _UNIT_GAIN, np.float32)
        gain[..., :3] *= lit
        if self.light.sunny:
            shade = soft(shadows, 0.0006)
            gain[..., :3] *= 1.0 - shade[..., None] * (1.0 - np.asarray(self.light.shade))
        haze = (1.0 - np.exp(-plane.depth / self.light.haze_m)).astype(np.float32)
        gain *= (level * (1.0 - cv2.resize(haze[:, None], (1, small[1]))))[..., None]
        packed = np.clip(gain, 0, 255).astype(np.uint8)
        full = np.asarray(cv2.resize(packed, (width, height)), np.uint8)
        cv2.multiply(albedo, full, dst=albedo, scale=1.0 / _UNIT_GAIN)
        veil = haze[:, None, None] * np.array([*self.light.haze_rgb, 0.0], np.float32)
        wide_veil = cv2.resize(
            veil.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
        )
        cv2.add(albedo, wide_veil, dst=albedo)

    def _unevenness(self, plane: Plane, small: tuple[int, int]) -> Field:
        """Return the brightness of large stains and wheel tracks, at a size (w, h)."""
        along, t = (
            np.asarray(cv2.resize(m, small, interpolation=cv2.INTER_NEAREST), np.float32)
            for m in (plane.along, plane.t)
        )
        scale = _WIDE_PX / (TILE_PX * REPEAT)
        wide = cv2.remap(
            self.wide,
            along * np.float32(scale),
            t * np.float32(scale * PX_PER_M),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        lane = np.abs(np.abs(np.abs(t) - self.layout.half_road / 2) - 0.75)
        track = np.exp(-((lane / np.float32(0.32)) ** 2))
        gutter = np.exp(-(((np.abs(t) - self.layout.half_road) / np.float32(0.4)) ** 2))
        level = wide * (1.0 - self.rut * track - np.float32(0.07) * gutter)
        return np.asarray(level, np.float32)


def _cover(
    canvas: Canvas,
    plane: Plane,
    polygons: Iterable[FloatArray],
    size: tuple[int, int] | None = None,
) -> Image:
    """Return the coverage of world polygons (N, 3) in the plane's rows, (h, w) uint8.

    size: (w, h) of the result; None is one cell per pixel.
    """
    height, width = plane.t.shape
    w, h = size or (width, height)
    region, mask = Region(0, 0, w, h), np.zeros((h, w), np.uint8)
    scale = np.array([w / width, h / height])
    for world in polygons:
        polygon = canvas.world_polygon(world)
        if len(polygon) >= 3 and canvas.region_of(polygon) is not None:
            # Pixel centers are integers, so scaling must keep the edges of the picture in place.
            coverage((polygon - (0, plane.top) + 0.5) * scale - 0.5, region, mask)
    return mask
