# SPDX-License-Identifier: Apache-2.0
"""Search spaces: fields of an experiment, each with a range or a list of choices.

learning_rate: {low: 1e-4, high: 3e-3, log: true}
epochs: {low: 4, high: 12, step: 4}
optimizer: [adamw, sgd]
network.encoder_name: [resnet18, resnet34]
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from optuna.distributions import BaseDistribution
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from segmentation_node.errors import SettingError
from training.config import Experiment, load_experiment

#: Fields that all trials share, because they define the score or the place a trial runs.
FIXED: Final = frozenset(
    {'val', 'label_scheme', 'datasets', 'data_root', 'cache', 'fit_hw', 'devices', 'num_nodes',
     'strategy', 'accelerator', 'study', 'notes'}
)  # fmt: skip
RANGE_KEYS: Final = ('low', 'high', 'log', 'step')
SCALARS: Final = (str, int, float, bool, type(None))

#: Returns the experiment with some fields replaced; raises SettingError.
MakeExperiment = Callable[[Mapping[str, Any]], Experiment]


@dataclass(frozen=True)
class Choices:
    """Dimension with a list of values."""

    values: tuple[Any, ...]

    def draw(self, trial: Trial, name: str) -> Any:
        # Optuna stores scalar values only; a list is stored as JSON text.
        by_key = {_key(value): value for value in self.values}
        return by_key[trial.suggest_categorical(name, list(by_key))]

    def value_of(self, drawn: Any) -> Any:
        """Convert a value stored by Optuna to the field's value."""
        return {_key(value): value for value in self.values}[drawn]

    def plain(self) -> list[Any]:
        """Return the dimension as written in a YAML file."""
        return list(self.values)

    def __str__(self) -> str:
        return 'one of ' + ', '.join(str(_key(value)) for value in self.values)


@dataclass(frozen=True)
class Range:
    """Dimension with a numeric range, on a logarithmic scale if `log`.

    Values are integers if `low` and `high` are.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def draw(self, trial: Trial, name: str) -> Any:
        if isinstance(self.low, int) and isinstance(self.high, int):
            step = int(self.step or 1)
            return int(trial.suggest_int(name, self.low, self.high, step=step, log=self.log))
        drawn = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return float(drawn)

    def value_of(self, drawn: Any) -> Any:
        """Convert a value stored by Optuna to the field's value."""
        return drawn

    def plain(self) -> dict[str, Any]:
        """Return the dimension as written in a YAML file."""
        return {key: value for key, value in vars(self).items() if value not in (None, False)}

    def __str__(self) -> str:
        log = ', log' if self.log else ''
        step = '' if self.step is None else f', step {self.step:g}'
        return f'{self.low:g} to {self.high:g}{log}{step}'


Space = Mapping[str, Choices | Range]


def _key(value: Any) -> Any:
    return value if isinstance(value, SCALARS) else json.dumps(value)


def variants(path: Path, overrides: list[str]) -> MakeExperiment:
    """Return a function that loads the experiment with overrides and some fields replaced."""

    def variant(values: Mapping[str, Any]) -> Experiment:
        texts = [f'{name}={yaml.safe_dump(value)}' for name, value in values.items()]
        return load_experiment(path, [*overrides, *texts])

    return variant


def replaced(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """Return an experiment with some fields replaced by values of the search space."""
    content = base.model_dump(mode='json')
    for name, value in values.items():
        *outer, last = name.split('.')
        _nested(content, outer)[last] = value
    return Experiment.model_validate(content)


def _nested(content: Any, names: Sequence[str]) -> Any:
    for name in names:
        content = content[int(name) if isinstance(content, list) else name]
    return content


def load_space(path: Path, variant: MakeExperiment) -> Space:
    """Read a search space; every choice and both ends of every range are tried in the experiment.

    Raises:
        SettingError: the file is unreadable, a field is unknown, a range is invalid, or a value
            is invalid for its field.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path} cannot be read as a search space: {error}') from error
    if not isinstance(content, dict) or not content:
        raise SettingError(
            f'{path} must contain fields of an experiment, each with a range such as '
            f'"{{low: 1e-4, high: 1e-2, log: true}}" or a list of choices'
        )
    try:
        return {
            str(name): _dimension(str(name), given, variant) for name, given in content.items()
        }
    except SettingError as error:
        raise SettingError(f'{path}: {error}') from error


def _dimension(name: str, given: object, variant: MakeExperiment) -> Choices | Range:
    if name.split('.')[0] in FIXED:
        raise SettingError(
            f'{name} must be the same in all trials, so that their scores are comparable; set it '
            f'in the experiment'
        )
    if isinstance(given, list):
        return _choices(name, given, variant)
    if isinstance(given, dict):
        return _range(name, given, variant)
    raise SettingError(
        f'{name} is {given!r}; expected a range "{{low: ..., high: ...}}" or a list of choices'
    )


def _choices(name: str, given: list[Any], variant: MakeExperiment) -> Choices:
    values = tuple(_field_value(name, value, variant) for value in given)
    if not values or len({json.dumps(_key(value)) for value in values}) < len(values):
        raise SettingError(f'{name} is {given}; expected a non-empty list of distinct choices')
    return Choices(values)


def _range(name: str, given: dict[str, Any], variant: MakeExperiment) -> Range:
    unknown = ', '.join(sorted(str(key) for key in given if key not in RANGE_KEYS))
    if unknown or not {'low', 'high'} <= set(given):
        raise SettingError(
            f'{name} is {given}; expected low and high, and optionally log or step'
            + (f', not {unknown}' if unknown else '')
        )
    low, high = (_number(name, _field_value(name, given[end], variant)) for end in ('low', 'high'))
    log, step = given.get('log', False), given.get('step')
    if not isinstance(log, bool):
        raise SettingError(f'{name}: log is {log!r}; expected true or false')
    if not low < high:
        raise SettingError(f'{name} goes from {low:g} to {high:g}; low must be less than high')
    if log and (low <= 0 or step is not None):
        raise SettingError(f'{name} has log: true, which requires low above 0 and excludes step')
    if step is not None:
        step = _number(name, step)
        whole = isinstance(low, int) and isinstance(high, int)
        if not 0 < step <= high - low or (whole and not isinstance(step, int)):
            raise SettingError(
                f'{name}: step is {step:g}; expected more than 0 and at most high - low'
                + (', as a whole number' if whole else '')
            )
    return Range(low, high, log, step)


def _field_value(name: str, value: object, variant: MakeExperiment) -> Any:
    """Convert a value to the field's type (YAML reads 1e-4 as text); raises SettingError."""
    return _nested(variant({name: value}).model_dump(mode='json'), name.split('.'))


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # fields within "network" accept any value
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(
            f'{name}: {value!r} is not a finite number; use finite numbers or a list of choices'
        )
    return value


class NumberedSampler(RandomSampler):
    """Random sampler whose values depend only on seed, trial number and field name.

    Interrupted searches, and searches shared by several processes, therefore try the same values
    as a single uninterrupted process.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._first_seed = seed

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        sampler = RandomSampler(derived_seed(self._first_seed, trial.number, param_name))
        return sampler.sample_independent(study, trial, param_name, param_distribution)


def derived_seed(*parts: object) -> int:
    """Derive a seed from the parts, the same on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], 'big')
