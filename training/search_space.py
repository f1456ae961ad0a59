# SPDX-License-Identifier: Apache-2.0
"""What a search may vary: fields of an experiment, each with a range or a list of choices.

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

#: Fields that decide what a score means, or where a trial runs; they are the same in all trials.
FIXED: Final = frozenset(
    {'val', 'label_scheme', 'datasets', 'data_root', 'cache', 'fit_hw', 'devices', 'strategy',
     'accelerator', 'study', 'notes'}
)  # fmt: skip
RANGE_KEYS: Final = ('low', 'high', 'log', 'step')
SCALARS: Final = (str, int, float, bool, type(None))

#: An experiment with some fields replaced; raises SettingError.
Variant = Callable[[Mapping[str, Any]], Experiment]


@dataclass(frozen=True)
class Choices:
    """One of a few values."""

    values: tuple[Any, ...]

    def draw(self, trial: Trial, name: str) -> Any:
        # Optuna keeps plain values only; a list goes by its text.
        by_key = {_key(value): value for value in self.values}
        return by_key[trial.suggest_categorical(name, list(by_key))]

    def value_of(self, drawn: Any) -> Any:
        """The field's value, of what Optuna keeps."""
        return {_key(value): value for value in self.values}[drawn]

    def plain(self) -> list[Any]:
        """As it is written in a file."""
        return list(self.values)

    def __str__(self) -> str:
        return 'one of ' + ', '.join(str(_key(value)) for value in self.values)


@dataclass(frozen=True)
class Range:
    """A number between two others, drawn by its logarithm where `log`; whole if they are."""

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
        """The field's value, of what Optuna keeps."""
        return drawn

    def plain(self) -> dict[str, Any]:
        """As it is written in a file."""
        return {key: value for key, value in vars(self).items() if value not in (None, False)}

    def __str__(self) -> str:
        log = ', log' if self.log else ''
        step = '' if self.step is None else f', step {self.step:g}'
        return f'{self.low:g} to {self.high:g}{log}{step}'


Space = Mapping[str, Choices | Range]


def _key(value: Any) -> Any:
    return value if isinstance(value, SCALARS) else json.dumps(value)


def variants(path: Path, overrides: list[str]) -> Variant:
    """How the experiment of a file, with overrides, is made with some fields replaced."""

    def variant(values: Mapping[str, Any]) -> Experiment:
        texts = [f'{name}={yaml.safe_dump(value)}' for name, value in values.items()]
        return load_experiment(path, [*overrides, *texts])

    return variant


def replaced(base: Experiment, values: Mapping[str, Any]) -> Experiment:
    """An experiment with the values of some fields replaced, which their space allows."""
    content = base.model_dump(mode='json')
    for name, value in values.items():
        *outer, last = name.split('.')
        _inside(content, outer)[last] = value
    return Experiment.model_validate(content)


def _inside(content: Any, names: Sequence[str]) -> Any:
    for name in names:
        content = content[int(name) if isinstance(content, list) else name]
    return content


def load_space(path: Path, variant: Variant) -> Space:
    """Read a space and try the ends of every range and every choice on the experiment.

    Raises:
        SettingError: unreadable, an unknown field, a range that is none, or a value that the
            field does not take.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path} cannot be read as a search space: {error}') from error
    if not isinstance(content, dict) or not content:
        raise SettingError(
            f'{path} must hold fields of an experiment, each with a range '
            f'"{{low: 1e-4, high: 1e-2, log: true}}" or a list of choices'
        )
    try:
        return {
            str(name): _dimension(str(name), given, variant) for name, given in content.items()
        }
    except SettingError as error:
        raise SettingError(f'{path}: {error}') from error


def _dimension(name: str, given: object, variant: Variant) -> Choices | Range:
    if name.split('.')[0] in FIXED:
        raise SettingError(
            f'{name} must be the same in all trials, else their scores could not be compared; '
            f'set it in the experiment'
        )
    if isinstance(given, list):
        return _choices(name, given, variant)
    if isinstance(given, dict):
        return _range(name, given, variant)
    raise SettingError(
        f'{name} is {given!r}; expected a range "{{low: ..., high: ...}}" or a list of choices'
    )


def _choices(name: str, given: list[Any], variant: Variant) -> Choices:
    values = tuple(_taken(name, value, variant) for value in given)
    if not values or len({json.dumps(_key(value)) for value in values}) < len(values):
        raise SettingError(f'{name} is {given}; expected a list of different choices')
    return Choices(values)


def _range(name: str, given: dict[str, Any], variant: Variant) -> Range:
    unknown = ', '.join(sorted(str(key) for key in given if key not in RANGE_KEYS))
    if unknown or not {'low', 'high'} <= set(given):
        raise SettingError(
            f'{name} is {given}; expected low and high, and maybe log or step'
            + (f', not {unknown}' if unknown else '')
        )
    low, high = (_number(name, _taken(name, given[end], variant)) for end in ('low', 'high'))
    log, step = given.get('log', False), given.get('step')
    if not isinstance(log, bool):
        raise SettingError(f'{name}: log is {log!r}; expected true or false')
    if not low < high:
        raise SettingError(f'{name} goes from {low:g} to {high:g}; low must be less than high')
    if log and (low <= 0 or step is not None):
        raise SettingError(f'{name} has log: true; it needs low above 0 and no step')
    if step is not None:
        step = _number(name, step)
        whole = isinstance(low, int) and isinstance(high, int)
        if not 0 < step <= high - low or (whole and not isinstance(step, int)):
            raise SettingError(
                f'{name}: step is {step:g}; expected more than 0, no more than high - low'
                + (', and a whole number' if whole else '')
            )
    return Range(low, high, log, step)


def _taken(name: str, value: object, variant: Variant) -> Any:
    """A value as the field takes it (YAML reads 1e-4 as text); raises SettingError."""
    return _inside(variant({name: value}).model_dump(mode='json'), name.split('.'))


def _number(name: str, value: Any) -> float:
    if isinstance(value, str):  # within "network", where any value is taken
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise SettingError(
            f'{name}: {value!r} is no finite number; give a list of choices instead'
        )
    return value


class NumberedSampler(RandomSampler):
    """Draws at random; a draw depends on the seed, the trial's number and the name alone.

    So searches that were interrupted, or that several processes share, try what one undisturbed
    process would have tried.
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
        own = RandomSampler(derived_seed(self._first_seed, trial.number, param_name))
        return own.sample_independent(study, trial, param_name, param_distribution)


def derived_seed(*parts: object) -> int:
    """A seed that follows from the parts alone, on every machine."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:4], 'big')
