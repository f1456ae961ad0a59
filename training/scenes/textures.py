# SPDX-License-Identifier: Apache-2.0
"""Textures with mipmaps, cut-out sprites, and the noise that textures are made from."""

from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
import numpy.typing as npt

from segmentation_node.arrays import Float32Array, UInt8Array
from training.scenes.camera import FloatArray

Image = UInt8Array
Field = Float32Array
Color = tuple[float, float, float]


class Texture:
    """RGBA image (H, W, 4) uint8 with lazily computed mipmap levels for each axis."""

    def __init__(self, rgba: Image) -> None:
        if rgba.ndim != 3 or rgba.shape[2] != 4 or rgba.dtype != np.uint8:
            raise ValueError(
                f'texture has shape {rgba.shape}, {rgba.dtype}, expected (H, W, 4) uint8; '
                'add alpha with textures.opaque()'
            )
        self.rgba = rgba
        self._levels: dict[tuple[int, int], Image] = {(0, 0): rgba}
        self._lit: dict[int, tuple[Image, Image]] = {}

    def level(self, halvings_u: int, halvings_v: int) -> Image:
        """Return the texture halved the given number of times per axis, (h, w, 4) uint8."""
        height, width = self.rgba.shape[:2]
        key = (
            min(max(halvings_u, 0), width.bit_length() - 1),
            min(max(halvings_v, 0), height.bit_length() - 1),
        )
        if key not in self._levels:
            size = (max(width >> key[0], 1), max(height >> key[1], 1))
            self._levels[key] = np.asarray(
                cv2.resize(self.rgba, size, interpolation=cv2.INTER_AREA), np.uint8
            )
        return self._levels[key]

    def lit(self, texels: Image, table: Image) -> Image:
        """Apply a look-up table (1, 256, 4) to a level; the last result of each is cached."""
        known = self._lit.get(id(texels))
        if known is None or known[0] is not table:
            known = (table, np.asarray(cv2.LUT(texels, table), np.uint8))
            self._lit[id(texels)] = known
        return known[1]

    @cached_property
    def mean(self) -> npt.NDArray[np.float64]:
        """Mean color of the opaque area, (3,) in 0..255."""
        weight = self.rgba[..., 3].astype(np.float64) + 1e-6
        mean: npt.NDArray[np.float64] = (self.rgba[..., :3] * weight[..., None]).sum(
            (0, 1)
        ) / weight.sum()
        return mean


@dataclass(frozen=True)
class Sprite:
    """Cut-out picture, and the outline (N, 2) in uv that its label covers."""

    texture: Texture
    outline: FloatArray


def opaque(rgb: Float32Array | Image) -> Texture:
    """Create an opaque texture from RGB (H, W, 3) in 0..255."""
    clipped = np.clip(rgb, 0, 255).astype(np.uint8)
    return Texture(np.asarray(cv2.cvtColor(clipped, cv2.COLOR_RGB2RGBA), np.uint8))


def plain(color: Color) -> Texture:
    """Create a texture of one color."""
    return opaque(np.full((2, 2, 3), color, np.float32))


def shaded(color: Color, shades: list[float]) -> Texture:
    """Create a texture of one color whose brightness varies along u by the given factors."""
    ramp = np.asarray(shades, np.float32)[None, :, None] * np.asarray(color, np.float32)
    return opaque(np.repeat(ramp, 2, axis=0))


def outline_of(alpha: Image, closing_px: int) -> FloatArray:
    """Return the largest outline of a cut-out (H, W) after closing gaps, (N, 2) in uv."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (closing_px, closing_px))
    padded = cv2.copyMakeBorder(alpha, 20, 20, 20, 20, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, kernel)[20:-20, 20:-20]
    contours = cv2.findContours(
        cv2.inRange(closed, 128, 255), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )[0]
    largest = max(contours, key=cv2.contourArea)
    points = cv2.approxPolyDP(largest, 1.2, True).reshape(-1, 2)
    height, width = alpha.shape
    outline: FloatArray = (points + 0.5) / np.array([width, height], float)
    return outline


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, cell_y: float | None = None
) -> Field:
    """Generate smooth noise of about unit variance, (H, W); cell sizes are rounded to pixels.

    It is tileable if the cell sizes divide height and width.
    """
    step_x = max(round(cell), 1)
    step_y = step_x if cell_y is None else max(round(cell_y), 1)
    rows, cols = -(-height // step_y), -(-width // step_x)
    grid = rng.standard_normal((rows, cols), dtype=np.float32)
    if step_x == step_y == 1:
        return grid
    # A wrapped margin keeps opposite edges equal; resampling lowers the variance by about 0.45.
    grid = np.pad(grid, 2, mode='wrap') * np.float32(1.3)
    size = ((cols + 4) * step_x, (rows + 4) * step_y)
    smooth = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)
    top, left = 2 * step_y, 2 * step_x
    return np.asarray(smooth[top : top + height, left : left + width], np.float32)


def fractal(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int) -> Field:
    """Sum octaves of noise, each with half the cell and amplitude; about unit variance, (H, W)."""
    total = np.zeros((height, width), np.float32)
    power = 0.0
    for octave in range(octaves):
        gain = 0.5**octave
        total += gain * noise(rng, height, width, cell / 2**octave)
        power += gain * gain
    return total / np.float32(np.sqrt(power))


_BANK_PX = 1024


@cache
def _bank(kind: str) -> Field:
    """Return tileable noise shared by all streets, (_BANK_PX, _BANK_PX)."""
    rng = np.random.default_rng(20)
    if kind == 'mottle':
        return fractal(rng, _BANK_PX, _BANK_PX, 128, 5)
    fine, coarse = (noise(rng, _BANK_PX, _BANK_PX, cell) for cell in (1, 2))
    return np.asarray(0.6 * fine + 0.8 * coarse, np.float32)


def _cut(rng: np.random.Generator, kind: str, height: int, width: int) -> Field:
    """Crop a random piece of a noise bank; pieces larger than the bank repeat."""
    top, left = (int(v) for v in rng.integers(0, _BANK_PX, 2))
    rows = np.take(_bank(kind), np.arange(top, top + height), axis=0, mode='wrap')
    return np.take(rows, np.arange(left, left + width), axis=1, mode='wrap')


def mottle(rng: np.random.Generator, height: int, width: int) -> Field:
    """Generate stains of all sizes up to about 128 px, of about unit variance, (H, W)."""
    return _cut(rng, 'mottle', height, width)


def grain(rng: np.random.Generator, height: int, width: int) -> Field:
    """Generate grain of one and two pixels, of about unit variance, (H, W)."""
    return _cut(rng, 'grain', height, width)


def tint(color: Color, brightness: Field) -> Float32Array:
    """Multiply a color by a brightness field (H, W), giving (H, W, 3) float32."""
    return brightness[..., None] * np.asarray(color, np.float32)


def jitter(rng: np.random.Generator, color: Color, amount: float) -> Color:
    """Vary the brightness of a color, and slightly each channel, by about the given share."""
    together = 1.0 + amount * float(rng.normal())
    r, g, b = (max(c * (together + 0.3 * amount * float(rng.normal())), 0.0) for c in color)
    return (r, g, b)
