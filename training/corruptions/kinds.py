# SPDX-License-Identifier: Apache-2.0
"""Kinds of corruption by name, with five severities each.

The groups noise, blur, weather and digital are the 15 common corruptions of Hendrycks and
Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019, with their parameters; lengths in pixels are scaled from their images, 224 pixels high, to
the image at hand. Truth and image stay aligned: elastic deformation and zoom move both, and glass
and motion blur displace nothing on average.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SettingError
from segmentation_node.labels import LabelScheme
from training.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from training.corruptions.camera import (
    aspect_ratio,
    color_temperature,
    crop,
    gamma,
    horizon,
    scale,
)
from training.corruptions.digital import contrast, elastic, jpeg, pixelate
from training.corruptions.light import dark, night, warm_light
from training.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from training.corruptions.sample import LabeledPixels, Pixels
from training.corruptions.weather import brightness, fog, frost, snow

#: Version of the corruptions; incremented whenever a kind yields other images.
VERSION: Final = 1
SEVERITIES: Final = (1, 2, 3, 4, 5)
#: Groups of the 15 common corruptions.
COMMON: Final = ('noise', 'blur', 'weather', 'digital')

Change = Callable[[LabeledPixels, Any, np.random.Generator], LabeledPixels]


@dataclass(frozen=True)
class Corruption:
    """Kind of corruption: its group, the parameters of its severities, and the change."""

    group: str
    levels: tuple[Any, ...]
    change: Change


def _on_image(function: Callable[[Pixels, Any, np.random.Generator], Pixels]) -> Change:
    def change(sample: LabeledPixels, level: Any, rng: np.random.Generator) -> LabeledPixels:
        return replace(sample, image=function(sample.image, level, rng))

    return change


KINDS: Final[Mapping[str, Corruption]] = MappingProxyType(
    {
        'gaussian_noise': Corruption(
            'noise', (0.08, 0.12, 0.18, 0.26, 0.38), _on_image(gaussian_noise)
        ),
        'shot_noise': Corruption('noise', (60, 25, 12, 5, 3), _on_image(shot_noise)),
        'impulse_noise': Corruption(
            'noise', (0.03, 0.06, 0.09, 0.17, 0.27), _on_image(impulse_noise)
        ),
        'defocus_blur': Corruption('blur', (3, 4, 6, 8, 10), _on_image(defocus_blur)),
        'glass_blur': Corruption(
            'blur', ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
            _on_image(glass_blur),
        ),
        'motion_blur': Corruption(
            'blur', ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)), _on_image(motion_blur)
        ),
        'zoom_blur': Corruption(
            'blur', ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.24, 0.02), (1.3, 0.03)), zoom_blur
        ),
        'snow': Corruption(
            'weather',
            (
                (0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
                (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
                (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
            ),
            _on_image(snow),
        ),
        'frost': Corruption(
            'weather', ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
            _on_image(frost),
        ),
        'fog': Corruption(
            'weather', ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)), _on_image(fog)
        ),
        'brightness': Corruption('weather', (0.1, 0.2, 0.3, 0.4, 0.5), _on_image(brightness)),
        'contrast': Corruption('digital', (0.4, 0.3, 0.2, 0.1, 0.05), _on_image(contrast)),
        'elastic': Corruption(
            'digital',
            ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02),
             (0.12, 0.01, 0.02)),
            elastic,
        ),
        'pixelate': Corruption('digital', (0.6, 0.5, 0.4, 0.3, 0.25), _on_image(pixelate)),
        'jpeg': Corruption('digital', (25, 18, 15, 10, 7), _on_image(jpeg)),
        'scale_down': Corruption('camera', (0.85, 0.7, 0.6, 0.5, 0.4), scale),
        'scale_up': Corruption('camera', (1.2, 1.4, 1.6, 2, 2.5), scale),
        'crop': Corruption('camera', (0.9, 0.8, 0.7, 0.6, 0.5), crop),
        'horizon': Corruption('camera', (0.08, 0.16, 0.24, 0.32, 0.4), horizon),
        'aspect_ratio': Corruption('camera', (1.1, 1.2, 1.33, 1.5, 1.78), aspect_ratio),
        'gamma': Corruption('camera', (1.2, 1.5, 1.8, 2.2, 2.6), _on_image(gamma)),
        'color_temperature': Corruption(
            'camera',
            ((5000, 8000), (4200, 9500), (3600, 12000), (3000, 16000), (2500, 25000)),
            _on_image(color_temperature),
        ),
        'dark': Corruption('light', (0.4, 0.2, 0.1, 0.05, 0.025), _on_image(dark)),
        'night': Corruption(
            'light',
            ((0.25, 0.03, 0.002), (0.15, 0.015, 0.004), (0.1, 0.008, 0.006),
             (0.06, 0.004, 0.008), (0.035, 0.002, 0.01)),
            night,
        ),
        'warm_light': Corruption('light', (4500, 3600, 3000, 2500, 2100), _on_image(warm_light)),
    }
)  # fmt: skip

GROUPS: Final = tuple(dict.fromkeys(kind.group for kind in KINDS.values()))

#: Kind and severity of the eight conditions that matter on a vehicle.
EIGHT: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        'dark': ('dark', 3),
        'night': ('night', 2),
        'noise': ('gaussian_noise', 2),
        'blur': ('defocus_blur', 2),
        'low contrast': ('contrast', 3),
        'fog': ('fog', 3),
        'JPEG': ('jpeg', 3),
        'warm light': ('warm_light', 2),
    }
)

#: Kind and severity.
Case = tuple[str, int]


def cases_of(names: Sequence[str], severities: Sequence[int]) -> list[Case]:
    """Return the cases of kinds, of groups, of "common" and of "eight", in the order of KINDS.

    "eight" has its own severities.

    Raises:
        SettingError: a name is unknown.
    """
    chosen: set[Case] = set()
    for name in names:
        if name == 'eight':
            chosen |= set(EIGHT.values())
            continue
        kinds = [k for k, kind in KINDS.items() if name in {k, kind.group}]
        if name == 'common':
            kinds = common_kinds()
        if not kinds:
            raise SettingError(
                f'unknown kind of corruption {name!r}; available: eight, common, '
                f'{", ".join((*GROUPS, *KINDS))}'
            )
        chosen |= {(kind, severity) for kind in kinds for severity in severities}
    order = list(KINDS)
    return sorted(chosen, key=lambda case: (order.index(case[0]), case[1]))


def common_kinds() -> list[str]:
    """Return the names of the 15 common corruptions."""
    return [name for name, kind in KINDS.items() if kind.group in COMMON]


def corrupt(
    image_rgb: UInt8Array, truth: UInt8Array, scheme: LabelScheme, case: Case, seed: int, name: str
) -> tuple[UInt8Array, UInt8Array]:
    """Corrupt one frame.

    Args:
        image_rgb: (H, W, 3) uint8.
        truth: (H, W) uint8, ids of `scheme`.
        scheme: label scheme of the truth.
        case: kind and severity, 1 to 5.
        seed: with the name and the case, it determines all randomness.
        name: name of the frame.

    Returns:
        Image, (h, w, 3) uint8, and its truth, (h, w) uint8; some kinds change the size.
    """
    kind, severity = KINDS[case[0]], case[1]
    digest = hashlib.sha256(f'{seed}/{name}/{case[0]}/{severity}'.encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest, 'big'))
    sky = [c.id for c in scheme.classes if c.category == 'sky']
    image = np.asarray(image_rgb / np.float32(255), np.float32)
    sample = LabeledPixels(image, truth, scheme.void_id, sky)
    found = kind.change(sample, kind.levels[severity - 1], rng)
    corrupted = np.rint(np.clip(found.image, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(corrupted), np.ascontiguousarray(found.truth)
