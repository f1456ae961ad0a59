# SPDX-License-Identifier: Apache-2.0
"""One experiment as one YAML file; any field can be overridden on the command line."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from segmentation_node.errors import SettingError


@dataclass(frozen=True)
class Experiment:
    """All that decides what a training run does.

    `network` is the library's configuration; `train` and `val` are descriptions as
    `training.datasets.open_dataset` takes them, each of `train` with a `share` of every batch.
    """

    family: str
    label_scheme: str
    network: dict[str, Any]
    train: list[dict[str, Any]]
    val: dict[str, dict[str, Any]]
    initial_encoder: str = ''
    crop_hw: tuple[int, int] = (256, 352)
    scale: tuple[float, float] = (0.7, 1.6)
    batch_size: int = 8
    steps: int = 2000
    learning_rate: float = 2e-3
    encoder_rate: float = 1.0
    weight_decay: float = 0.01
    warm_up: float = 0.1
    gradient_clip: float = 1.0
    ema: float = 0.998
    hardest: float = 0.4
    class_balance: float = 0.4
    points: int = 2048
    evaluate_every: int = 200
    seed: int = 0
    notes: str = field(default='', compare=False)


def load_experiment(path: Path, overrides: list[str]) -> Experiment:
    """Read `path` and apply `key=value` overrides, values in YAML; unknown fields are errors."""
    content = yaml.safe_load(path.read_text(encoding='utf-8'))
    for override in overrides:
        key, equals, value = override.partition('=')
        if not equals:
            raise SettingError(f'override {override!r} must read key=value')
        content[key] = yaml.safe_load(value)
    unknown = sorted(set(content) - {f.name for f in fields(Experiment)})
    if unknown:
        known = ', '.join(f.name for f in fields(Experiment))
        raise SettingError(f'{path}: unknown fields {unknown}; there are {known}')
    for key in ('crop_hw', 'scale'):
        if key in content:
            content[key] = tuple(content[key])
    return Experiment(**content)
