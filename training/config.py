# SPDX-License-Identifier: Apache-2.0
"""One experiment as one YAML file; any field can be overridden on the command line."""

from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from segmentation_node.errors import SettingError


@dataclass(frozen=True)
class Experiment:
    """All that decides what a training run does.

    `network` is the library's configuration; `train` and `val` are descriptions as
    `training.datasets.open_dataset` takes them, each of `train` with a `share`, its number of
    images in every batch. The first of `val` decides which step is the best.
    """

    family: str
    label_scheme: str
    network: dict[str, Any]
    train: list[dict[str, Any]]
    val: dict[str, dict[str, Any]]
    initial_encoder: str = ''
    crop_hw: tuple[int, int] = (256, 352)
    scale: tuple[float, float] = (0.7, 1.6)
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
    """Read `path` and apply `key=value` overrides, values in YAML.

    Raises:
        SettingError: unreadable, or a field is unknown, missing, or of another type.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        changes = dict(_override(text) for text in overrides)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path} cannot be read as an experiment: {error}') from error
    if not isinstance(content, dict):
        raise SettingError(f'{path} must hold fields as "name: value"')
    content |= changes
    known = {f.name: f for f in fields(Experiment)}
    unknown = ', '.join(sorted(map(str, set(content) - set(known))))
    if unknown:
        raise SettingError(f'{path}: unknown fields {unknown}; there are {", ".join(known)}')
    required = [f.name for f in known.values() if f.default is MISSING]
    missing = ', '.join(name for name in required if not content.get(name))
    if missing:
        raise SettingError(f'{path} lacks {missing}')
    for description in content['train']:
        share = description.get('share') if isinstance(description, dict) else None
        if type(share) is not int or share < 1:
            raise SettingError(
                f'{path}: train set {description} has no "share", its number of images in every '
                f'batch; add one, for example "share: 6"'
            )
    defaults = {name: f.default for name, f in known.items() if f.default is not MISSING}
    return Experiment(**{k: _typed(k, v, defaults.get(k)) for k, v in content.items()})


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition('=')
    if not equals:
        raise SettingError(f'override {text!r} must read field=value')
    return key, yaml.safe_load(value)


def _typed(name: str, value: Any, default: Any) -> Any:
    """A field's value as the type of its default; raises SettingError."""
    if default is None:
        return value
    try:
        if isinstance(default, tuple):
            kind = type(default[0])
            first, second = (_typed(name, number, kind()) for number in value)
            return first, second
        # YAML takes 2e-3, without a point, for text.
        if isinstance(default, float) and not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError) as error:
        raise SettingError(f'{name} is {value!r}; expected the like of {default}') from error
    if type(value) is not type(default):
        raise SettingError(f'{name} is {value!r}; expected the like of {default!r}')
    return value
