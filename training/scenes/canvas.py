# SPDX-License-Identifier: Apache-2.0
"""Canvas that draws panels and polygons to picture, labels, instances and polygons at once."""

from dataclasses import dataclass
from functools import lru_cache
from math import floor, hypot, log2
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.labels import LabelScheme
from training.scenes.camera import NEAR_M, Camera, FloatArray
from training.scenes.geometry import (
    Panel,
    Rgb,
    Thing,
    clip_half_space,
    clip_to_image,
)
from training.scenes.textures import Image

_SHIFT = 4
_GUARD = 1 << 24
_SMALL_PX = 3000
_FLAT_PX = 110
_NEGLIGIBLE_PX = 20


@dataclass(frozen=True)
class Region:
    """Rectangle in the picture: x0 <= x < x1, y0 <= y < y1 in pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices of the region."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.x1 - self.x0, self.y1 - self.y0

    def empty_mask(self) -> Image:
        """Return a mask of zeros, (h, w)."""
        return np.zeros((self.y1 - self.y0, self.x1 - self.x0), np.uint8)


@dataclass(frozen=True)
class Glimpse:
    """Visible part of a panel.

    pixels, uv: (N, 2) outline in the picture and on the panel. homography: (3, 3) from uv to
    pixels. region: pixels that the panel may touch.
    """

    panel: Panel
    pixels: FloatArray
    uv: FloatArray
    homography: FloatArray
    region: Region


@dataclass(frozen=True)
class _Part:
    """Part of a thing from one panel: outline (N, 2) in pixels, and coverage of the region."""

    pixels: FloatArray
    region: Region
    mask: Image


def _around(regions: list[Region]) -> Region:
    """Return the smallest region that contains all given ones."""
    return Region(
        min(r.x0 for r in regions),
        min(r.y0 for r in regions),
        max(r.x1 for r in regions),
        max(r.y1 for r in regions),
    )


def coverage(polygon: FloatArray, region: Region, onto: Image | None = None) -> Image:
    """Return the share of each pixel of a region that a polygon (N, 2) covers, (h, w) uint8.

    255 is full coverage. With onto, a mask of the region, the polygon is added to it.
    """
    mask = region.empty_mask() if onto is None else onto
    shifted = (polygon - (region.x0, region.y0)) * (1 << _SHIFT)
    points = np.rint(np.clip(shifted, -_GUARD, _GUARD)).astype(np.int32)
    cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, _SHIFT)
    return mask


def light_table(gain: Rgb, haze: float, haze_rgb: Rgb) -> Image:
    """Return a look-up table (1, 256, 4) uint8 that applies light and haze to RGBA values."""
    # Steps of 1/128 are finer than a byte can show, and let similar panels share a table.
    r, g, b = (round(v * 128) for v in gain)
    return _light_table(r, g, b, round(haze * 128), haze_rgb)


@lru_cache(maxsize=4096)
def _light_table(r: int, g: int, b: int, haze: int, haze_rgb: Rgb) -> Image:
    share = haze / 128.0
    levels = np.arange(256, dtype=np.float64)[:, None]
    lit = levels * (np.array([r, g, b]) / 128.0) * (1.0 - share) + np.asarray(haze_rgb) * share
    table = np.empty((1, 256, 4), np.uint8)
    table[0, :, :3] = np.clip(lit, 0.0, 255.0)
    table[0, :, 3] = np.arange(256)
    return table


def blend(target: Image, source: Image, mask: Image) -> None:
    """Blend source over target (h, w, 4) in place, weighted by mask (h, w) uint8."""
    if mask.size < _SMALL_PX:
        mask4 = cv2.merge([mask, mask, mask, mask])
        over = cv2.multiply(source, mask4, scale=1.0 / 255.0)
        under = cv2.multiply(target, cv2.bitwise_not(mask4), scale=1.0 / 255.0)
        cv2.add(over, under, dst=target)
        return
    # Most pixels of large regions are fully inside or outside: copy those, blend only the edge.
    cv2.copyTo(source, cv2.inRange(mask, 255, 255), target)
    edge = cv2.findNonZero(cv2.inRange(mask, 1, 254))
    if edge is not None:
        cols, rows = edge.reshape(-1, 2).T
        share = mask[rows, cols].astype(np.int32)[:, None]
        mixed = source[rows, cols] * share + target[rows, cols] * (255 - share)
        target[rows, cols] = (mixed + 127) // 255


class Canvas:
    """Frame being drawn.

    rgba: (H, W, 4) uint8. label_ids: (H, W) uint8. instance_ids: (H, W) int32. objects: polygons
    in the format of Cityscapes, in drawing order.
    """

    def __init__(self, camera: Camera, scheme: LabelScheme) -> None:
        height, width = camera.height, camera.width
        self.camera = camera
        self.scheme = scheme
        self.rgba: Image = np.zeros((height, width, 4), np.uint8)
        self.label_ids: Image = np.zeros((height, width), np.uint8)
        self.instance_ids: npt.NDArray[np.int32] = np.zeros((height, width), np.int32)
        self.objects: list[dict[str, Any]] = []

    def region_of(self, polygon: FloatArray) -> Region | None:
        """Return the region that a polygon (N, 2) may touch; None if it is outside the picture."""
        left, top = polygon.min(axis=0).tolist()
        right, bottom = polygon.max(axis=0).tolist()
        x0, y0 = int(max(left - 1.0, 0.0)), int(max(top - 1.0, 0.0))
        x1 = int(min(right + 2.0, self.camera.width))
        y1 = int(min(bottom + 2.0, self.camera.height))
        return Region(x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def project(self, panel: Panel) -> Glimpse | None:
        """Return the visible part of a panel; None if it is outside the picture."""
        camera = self.camera
        axes = np.stack([panel.u_axis, panel.v_axis, panel.origin - camera.center], axis=1)
        homography: FloatArray = camera.projection @ axes
        uv = panel.outline
        q = uv @ homography[:, :2].T + homography[:, 2]
        depth = q[:, 2]
        if depth.min() < NEAR_M:
            cut = np.concatenate([q, uv], axis=1)
            cut = clip_half_space(cut, cut[:, 2] - NEAR_M)
            if len(cut) < 3:
                return None
            q, uv, depth = cut[:, :3], cut[:, 3:], cut[:, 2]
        pixels = q[:, :2] / depth[:, None]
        region = self.region_of(pixels)
        return None if region is None else Glimpse(panel, pixels, uv, homography, region)

    def world_polygon(self, points: FloatArray) -> FloatArray:
        """Project a world polygon (N, 3) m to pixels (M, 2), clipped at the near plane.

        The result is empty if the polygon is behind the camera.
        """
        q = self.camera.homogeneous(points)
        q = clip_half_space(q, q[:, 2] - NEAR_M)
        pixels: FloatArray = q[:, :2] / q[:, 2:3]
        return pixels

    def mark(self, label: str, mask: Image, region: Region, number: int | None) -> None:
        """Set the label of pixels that the mask (h, w) covers by at least half."""
        inside = cv2.inRange(mask, 128, 255)
        label_id = self.scheme.id_of(label)
        instance = label_id if number is None else label_id * 1000 + number
        rows, cols = region.slices
        cv2.copyTo(np.full_like(mask, label_id), inside, self.label_ids[rows, cols])
        cv2.copyTo(np.full(mask.shape, instance, np.int32), inside, self.instance_ids[rows, cols])

    def add_polygon(self, label: str, polygon: FloatArray) -> None:
        """Append a polygon (N, 2) in pixels, clipped to the picture, to the list."""
        cut = np.rint(clip_to_image(polygon, self.camera.width, self.camera.height))
        if len(cut) >= 3:
            self.objects.append({'label': label, 'polygon': cut.astype(int).tolist()})

    def fill(self, label: str, polygon: FloatArray) -> tuple[Image, Region] | None:
        """Label a polygon (N, 2) in pixels; return its coverage for painting the picture."""
        region = self.region_of(polygon) if len(polygon) >= 3 else None
        if region is None:
            return None
        mask = coverage(polygon, region)
        self.mark(label, mask, region, None)
        self.add_polygon(label, polygon)
        return mask, region

    def glimpses(self, thing: Thing) -> list[Glimpse]:
        """Return the visible parts of a thing's panels, in drawing order."""
        seen: list[Glimpse] = []
        for panel in thing.panels:
            glimpse = self.project(panel)
            if glimpse is None or (len(thing.panels) > 4 and glimpse.region.area < _NEGLIGIBLE_PX):
                continue
            seen.append(glimpse)
        return seen

    def paint(self, thing: Thing, glimpses: list[Glimpse], haze: float, haze_rgb: Rgb) -> None:
        """Paint a thing's glimpses in order and label the area that they cover together."""
        by_label: dict[str, list[_Part]] = {}
        for glimpse in glimpses:
            panel, region = glimpse.panel, glimpse.region
            mask = coverage(glimpse.pixels, region)
            self._paint_panel(glimpse, mask, light_table(panel.gain, haze, haze_rgb))
            part = _Part(glimpse.pixels, region, mask)
            by_label.setdefault(panel.label or thing.label, []).append(part)
        for label, parts in by_label.items():
            self._label_parts(label, thing.number, parts)

    def _label_parts(self, label: str, number: int | None, parts: list[_Part]) -> None:
        """Label the union of several outlines and add its polygons."""
        if len(parts) == 1:
            self.mark(label, parts[0].mask, parts[0].region, number)
            self.add_polygon(label, parts[0].pixels)
            return
        region = _around([part.region for part in parts])
        mask = region.empty_mask()
        for part in parts:
            rows = slice(part.region.y0 - region.y0, part.region.y1 - region.y0)
            cols = slice(part.region.x0 - region.x0, part.region.x1 - region.x0)
            cv2.max(mask[rows, cols], part.mask, dst=mask[rows, cols])
        self.mark(label, mask, region, number)
        inside = cv2.inRange(mask, 128, 255)
        corner = np.array([region.x0, region.y0], float)
        for contour in cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
            if len(contour) >= 3:
                self.add_polygon(label, contour.reshape(-1, 2) + corner)

    def _paint_panel(self, glimpse: Glimpse, mask: Image, table: Image) -> None:
        """Warp the panel's lit texture into the region and blend it by coverage."""
        panel, region = glimpse.panel, glimpse.region
        target = self.rgba[region.slices]
        if mask.size <= _FLAT_PX and not panel.cutout:
            color = table[0, panel.texture.mean.astype(int), np.arange(3)]
            source = np.empty_like(target)
            source[:] = (*color, 255)
            blend(target, source, mask)
            return
        texels = _level_for(glimpse)
        height, width = texels.shape[:2]
        border = cv2.BORDER_CONSTANT if panel.cutout else cv2.BORDER_REPLICATE
        lit = texels
        if texels.size <= 4 * target.size:
            lit = panel.texture.lit(texels, table)
        source = np.asarray(
            cv2.warpPerspective(
                lit,
                _texel_homography(glimpse.homography, width, height, region),
                region.size,
                flags=cv2.INTER_LINEAR,
                borderMode=border,
            ),
            np.uint8,
        )
        if lit is texels:
            source = np.asarray(cv2.LUT(source, table), np.uint8)
        blend(target, source, np.ascontiguousarray(source[..., 3]) if panel.cutout else mask)


def _texel_homography(
    homography: FloatArray, width: int, height: int, region: Region
) -> FloatArray:
    """Return the homography, (3, 3), from texel centers of a texture to pixels of a region."""
    columns = homography[:, 0] / width, homography[:, 1] / height
    out = np.stack([*columns, homography[:, 2] + 0.5 * (columns[0] + columns[1])], axis=1)
    out[0] -= region.x0 * out[2]
    out[1] -= region.y0 * out[2]
    return out


def _level_for(glimpse: Glimpse) -> Image:
    """Return the texture level whose texels are about as large as the pixels that show it."""
    texture = glimpse.panel.texture
    u, v = glimpse.uv.mean(axis=0).tolist()
    (a, b, c), (d, e, f), (g, h, i) = glimpse.homography.tolist()
    w = g * u + h * v + i
    if w <= NEAR_M:
        return texture.rgba
    x, y = (a * u + b * v + c) / w, (d * u + e * v + f) / w
    span_u = max(hypot(a - x * g, d - y * g) / w, 1e-3)
    span_v = max(hypot(b - x * h, e - y * h) / w, 1e-3)
    height, width = texture.rgba.shape[:2]
    # A bias of 0.3 avoids blur, and keeps a little aliasing, as real sensors do.
    return texture.level(floor(log2(width / span_u) + 0.3), floor(log2(height / span_v) + 0.3))
