# SPDX-License-Identifier: Apache-2.0
"""Random changes of light, weather and sensor, so that a network holds on other cameras and days.

Every change maps an image, (3, H, W) float32 RGB in [0, 1], to one of the same form, leaves the
geometry alone, and draws from torch's global generator.
"""

import math
from collections.abc import Callable
from typing import Final

import cv2
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torchvision.transforms.v2.functional import (  # type: ignore[import-untyped]
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
)

from training.draws import happens, log_uniform, uniform

#: Largest number of changes of one image.
MAX_CHANGES: Final = 2


def photometric(image: Tensor) -> Tensor:
    """Apply one to MAX_CHANGES different changes of CHANGES to (3, H, W) uint8 RGB."""
    changed = image.float() / 255
    count = int(torch.randint(1, MAX_CHANGES + 1, ()))
    for index in torch.randperm(len(CHANGES))[:count].tolist():
        changed = CHANGES[index](changed).clamp(0, 1)
    return (changed * 255).round().to(torch.uint8)


def gamma(image: Tensor) -> Tensor:
    """Apply the curve of another camera."""
    return image.clamp(min=1e-4) ** log_uniform(0.4, 2.5)


def exposure(image: Tensor) -> Tensor:
    """Over- or underexpose."""
    return image * log_uniform(0.2, 2.0)


def temperature(image: Tensor) -> Tensor:
    """Shift the color of the light along blue to orange, and a little along green to magenta."""
    warm, green = uniform(-0.5, 0.5), uniform(-0.12, 0.12)
    return image * torch.tensor([warm, green, -warm]).exp()[:, None, None]


def low_contrast(image: Tensor) -> Tensor:
    """Compress the range of brightness around a random gray."""
    return uniform(0.15, 0.85) + (image - image.mean()) * log_uniform(0.12, 0.7)


def color(image: Tensor) -> Tensor:
    """Change saturation, from gray to garish, and hue."""
    return adjust_hue(adjust_saturation(image, uniform(0, 2.2)), uniform(-0.1, 0.1))  # type: ignore[no-any-return]


def mixed_channels(image: Tensor) -> Tensor:
    """Let each channel see a random mixture of red, green and blue."""
    mixture = torch.eye(3) + 0.6 * torch.rand(3, 3)
    return torch.einsum('ij,jhw->ihw', mixture / mixture.sum(1, keepdim=True), image)


def gaussian_noise(image: Tensor) -> Tensor:
    """Add noise of the amplifier, of each channel or of brightness alone."""
    noise = torch.randn_like(image if happens(0.7) else image[:1])
    return image + noise * log_uniform(0.02, 0.4)


def shot_noise(image: Tensor) -> Tensor:
    """Count few photons per pixel."""
    photons = log_uniform(3, 100)
    return torch.poisson(image * photons) / photons


def impulse_noise(image: Tensor) -> Tensor:
    """Turn single values black or white."""
    drawn, share = torch.rand_like(image), log_uniform(0.005, 0.3)
    return image.where(drawn > share, 0.0).where(drawn < 1 - share, 1.0)


def defocus(image: Tensor) -> Tensor:
    """Blur alike in all directions."""
    sigma = log_uniform(0.6, 4.0)
    return gaussian_blur(image, [2 * math.ceil(2 * sigma) + 1] * 2, [sigma] * 2)  # type: ignore[no-any-return]


def motion_blur(image: Tensor) -> Tensor:
    """Blur along a line."""
    return _smeared(image, int(uniform(3, 16)), uniform(0, math.pi))


def compression(image: Tensor) -> Tensor:
    """Compress as JPEG of low quality."""
    bgr = (image.flip(0) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, int(uniform(4, 50))])
    decoded = torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR))
    return decoded.permute(2, 0, 1).flip(0).float() / 255


def low_resolution(image: Tensor) -> Tensor:
    """Enlarge a smaller image, with blocks or smoothly."""
    mode = 'nearest' if happens(0.5) else 'bilinear'
    small = F.interpolate(image[None], scale_factor=uniform(0.25, 0.7), mode='area')
    return F.interpolate(small, image.shape[1:], mode=mode)[0]


def fog(image: Tensor) -> Tensor:
    """Veil the scene, more with the distance, which is taken to grow towards a random row."""
    height, width = image.shape[1:]
    rows = torch.linspace(0, 1, height)[:, None] - uniform(0.2, 0.6)
    distance = 1 / (1 + 6 * rows.clamp(min=0)) + 0.4 * _field(height, width, 4)
    light = (image * distance.mean()).mean((1, 2), keepdim=True) * 0.3 + uniform(0.5, 0.95)
    seen = (-log_uniform(0.4, 3.0) * distance.clamp(min=0)).exp()
    return image * seen + light * (1 - seen)


def night(image: Tensor) -> Tensor:
    """Light the scene by lamps and headlights instead of the sky, and amplify it with noise."""
    height, width = image.shape[1:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing='ij')
    light = torch.full((3, height, width), log_uniform(0.01, 0.2))
    for _ in range(int(torch.randint(7, ()))):
        size, strength = log_uniform(0.05, 0.4), log_uniform(0.05, 0.8)
        near = (-((x - uniform(0, 1)) ** 2 + (y - uniform(0, 1)) ** 2) / size**2).exp()
        lamp = torch.tensor([1.0, uniform(0.6, 1.0), uniform(0.2, 1.0)])
        light += strength * near * lamp[:, None, None]
    if happens(0.5):  # the sky and far facades are the darkest
        light *= y.clamp(min=0.05) ** uniform(0, 1.5)
    dark = image.clamp(min=1e-4) ** 2.2 * light
    photons = log_uniform(100, 5000)
    counted = torch.poisson(dark * photons) / photons + torch.randn_like(dark) * uniform(0, 0.01)
    gain = log_uniform(1, 4)
    return (counted.clamp(min=0) * gain) ** (1 / 2.2)


def precipitation(image: Tensor) -> Tensor:
    """Draw streaks of rain or flakes of snow over a paler scene."""
    drops = (torch.rand(1, *image.shape[1:]) < log_uniform(0.001, 0.02)).float()
    angle = math.pi / 2 + uniform(-0.5, 0.5)
    streaks = _smeared(
        gaussian_blur(drops, [5, 5], [uniform(0.4, 1.2)] * 2), int(uniform(1, 20)), angle
    )
    streaks = (streaks / streaks.amax().clamp(min=1e-3)) * uniform(0.3, 1.0)
    pale = image + (uniform(0.4, 0.8) - image) * uniform(0, 0.5)
    return pale + (0.9 - pale) * streaks


def shading(image: Tensor) -> Tensor:
    """Lay shadows and patches of light over the scene, soft or with hard borders."""
    height, width = image.shape[1:]
    field = _field(height, width, int(uniform(2, 9)))
    if happens(0.3):
        field = field.sign() * 0.7
    return image * (field * uniform(0.3, 1.2)).exp()


def texture(image: Tensor) -> Tensor:
    """Mix in a random 3 x 3 convolution (Xu et al., "RandConv", ICLR 2021)."""
    filtered = F.conv2d(image[None], torch.randn(3, 3, 3, 3) / 5, padding=1)[0]
    deviation, mean = torch.std_mean(image, (1, 2), keepdim=True)
    theirs, middle = torch.std_mean(filtered, (1, 2), keepdim=True)
    filtered = (filtered - middle) / theirs.clamp(min=1e-3) * deviation + mean
    return torch.lerp(image, filtered, uniform(0, 0.7))


CHANGES: Final[tuple[Callable[[Tensor], Tensor], ...]] = (
    gamma, exposure, temperature, low_contrast, color, mixed_channels, gaussian_noise, shot_noise,
    impulse_noise, defocus, motion_blur, compression, low_resolution, fog, night, precipitation,
    shading, texture,
)  # fmt: skip


def _field(height: int, width: int, cells: int) -> Tensor:
    """Return a smooth random field, (H, W) in about [-1, 1], with `cells` cells per side."""
    coarse = torch.rand(1, 1, cells, cells) * 2 - 1
    return F.interpolate(coarse, (height, width), mode='bicubic', align_corners=False)[0, 0]


def _smeared(image: Tensor, length: int, angle: float) -> Tensor:
    """Average (C, H, W) along a line of `length` pixels."""
    side = 2 * (length // 2) + 1
    along = torch.linspace(-(length - 1) / 2, (length - 1) / 2, 4 * length)
    column = (along * math.cos(angle)).round().long() + side // 2
    row = (along * math.sin(angle)).round().long() + side // 2
    kernel = torch.zeros(side, side).index_put((row, column), torch.tensor(1.0), accumulate=True)
    padded = F.pad(image[:, None], [side // 2] * 4, mode='replicate')
    return F.conv2d(padded, (kernel / kernel.sum())[None, None])[:, 0]
