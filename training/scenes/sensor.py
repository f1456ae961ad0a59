# SPDX-License-Identifier: Apache-2.0
"""Effects of lens and sensor: blur, sharpening, vignette, tone curve and noise."""

import cv2
import numpy as np

from training.scenes.textures import Image

_NOISE_POOL = 2
_NOISE_RIM_PX = 64


class Sensor:
    """Dash camera with random properties from a seed."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        rng = np.random.default_rng([seed, 7])
        self.seed = seed
        self.blur_px = float(rng.uniform(0.35, 0.62))
        self.halo_px = float(rng.uniform(0.9, 1.5))
        self.sharpening = float(rng.uniform(0.3, 1.1))
        self.grain = float(rng.uniform(1.2, 3.6))
        self.table = self._tone(rng)
        self.vignette = self._vignette(rng, width, height)
        # Noise is cropped at random places from larger fields, so that it differs between frames.
        grain_size = width + _NOISE_RIM_PX, height + _NOISE_RIM_PX
        self.noise = [self._noise(rng, *grain_size) for _ in range(_NOISE_POOL)]

    def _tone(self, rng: np.random.Generator) -> Image:
        """Return a look-up table (1, 256, 3) for contrast, gamma and white balance."""
        value = np.arange(256) / 255.0
        gamma = float(rng.uniform(0.8, 1.08))
        contrast = float(rng.uniform(0.1, 0.6))
        curve = value**gamma
        curve = (1 - contrast) * curve + contrast * (3 * curve**2 - 2 * curve**3)
        black = float(rng.uniform(0.0, 0.035))
        balance = 1.0 + rng.normal(0.0, 0.012, 3)
        table = (black + (1 - black) * curve)[:, None] * balance * 255.0
        return np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]

    def _vignette(self, rng: np.random.Generator, width: int, height: int) -> Image:
        strength = float(rng.uniform(0.04, 0.22))
        y, x = np.mgrid[-1.0 : 1.0 : height * 1j, -1.0 : 1.0 : width * 1j]
        fall = 1.0 - strength * ((x * x + y * y) / 2.0) ** 1.3
        levels = (fall * 255).astype(np.uint8)
        return np.asarray(cv2.merge([levels, levels, levels]), np.uint8)

    def _noise(self, rng: np.random.Generator, width: int, height: int) -> Image:
        """Return noise around 128, slightly colored and correlated as after demosaicing."""
        shape = (height, width)
        luma = rng.standard_normal(shape, dtype=np.float32)[..., None]
        color = rng.standard_normal((*shape, 3), dtype=np.float32)
        mixed = cv2.GaussianBlur(0.8 * luma + 0.6 * color, (0, 0), 0.55) * 1.5
        return np.asarray(np.clip(128 + self.grain * mixed, 0, 255), np.uint8)

    def expose(self, rgba: Image, frame_key: int) -> Image:
        """Return the camera's picture (H, W, 3) uint8 RGB of a scene (H, W, 4)."""
        rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        rgb = cv2.GaussianBlur(rgb, (0, 0), self.blur_px)
        # Cameras sharpen the blur of their lens, with overshoot at edges.
        soft = cv2.GaussianBlur(rgb, (0, 0), self.halo_px)
        rgb = cv2.addWeighted(rgb, 1.0 + self.sharpening, soft, -self.sharpening, 0.0)
        rgb = cv2.multiply(rgb, self.vignette, scale=1.0 / 255.0)
        rgb = cv2.LUT(rgb, self.table)
        rng = np.random.default_rng([self.seed, 8, frame_key])
        grain = self.noise[int(rng.integers(_NOISE_POOL))]
        top, left = (int(v) for v in rng.integers(0, _NOISE_RIM_PX, 2))
        height, width = rgb.shape[:2]
        crop = grain[top : top + height, left : left + width]
        return np.asarray(cv2.addWeighted(rgb, 1.0, crop, 1.0, -128.0), np.uint8)
