# SPDX-License-Identifier: Apache-2.0
"""One experiment as one YAML file; any field can be overridden on the command line."""

import copy
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from segmentation_node.errors import SettingError
from segmentation_node.geometry import IMAGENET_MEAN, IMAGENET_STD

CATALOGUE = Path(__file__).with_name('datasets.yaml')
#: Fields that say where and how fast a run goes, not what comes out; they may change on the way.
OUTER = ('data_root', 'cache', 'workers', 'notes')

Side = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError('input should have the smallest first')
    return value


Scale = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class _Strict(BaseModel):
    """A part of an experiment; a field it does not know is a mistake."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)

    @field_validator('*', mode='before')
    @classmethod
    def _no_switch_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError('input should not be true or false')
        return value


class Dataset(_Strict):
    """Where a data set lies and what its label ids mean; `source` is told in model cards.

    `layout` is one of `training.datasets.LAYOUTS`, `scheme` a label scheme by name or file.
    """

    layout: str
    root: str
    scheme: str
    source: str = ''


class Use(_Strict):
    """One split of a data set as an experiment uses it, or `count` images of it by `seed`."""

    set: str
    split: str
    count: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class TrainUse(Use):
    """What is trained on.

    `share` is its number of images in every batch. `scale` stands in for the experiment's where
    the images of a set are larger or smaller than the others'.
    """

    share: Annotated[int, Field(gt=0)]
    scale: Scale | None = None


class Experiment(_Strict):
    """All that decides what a training run does.

    Attributes:
        family: of `segmentation_node.models.FAMILIES`.
        label_scheme: the classes that are learned.
        network: configuration of the model's library; class counts follow from the scheme.
        train: data sets; their shares add up to the batch size over all processes. An epoch is
            one pass over the first of them.
        val: data sets by the name that figures go by; the first decides which epoch is the best.
        datasets: data sets of one's own beside those of `training/datasets.yaml`.
        initial: checkpoint (bundled name, folder, hub id) whose weights the network starts with.
        initial_encoder: what the encoder starts with: 'imagenet' (the library's download),
            'imagenet_package' (an installed package, see `training.pretrained`), or a checkpoint.
        mean, std: what the network expects of its pixels, RGB in [0, 1].
        fit_hw: box that images are fitted into once, before training; null keeps their size.
        augment: False leaves out all that is random about an image; it is scaled to cover the
            crop and cut at its centre.
        scale: smallest and largest random scale.
        class_share: most of a crop that one class may take, after some tries.
        encoder_rate: learning rate of the encoder as a share of `learning_rate`.
        layer_decay: rate of each encoder stage as a share of that of the next.
        warm_up: share of all steps in which the rate rises.
        ema: decay of the averaged weights, the ones that are kept; 0 keeps the newest.
        patience: epochs without a better score that end the run; 0 never does.
        dice: weight of the Dice loss beside the cross-entropy.
        hardest: share of the pixels, the hardest, that count in the cross-entropy (OHEM).
        class_balance: exponent of the inverse class frequency that weights classes.
        points: points a mask is compared in, in Mask2Former's loss.
        precision: auto is bf16 where the machine has units for it.
        devices, strategy, accelerator: Lightning's.
        evaluate_every: epochs from one evaluation to the next; the last epoch is evaluated anyway.
        study: name of the MLflow experiment.
    """

    family: str
    label_scheme: str
    network: dict[str, Any]
    train: Annotated[tuple[TrainUse, ...], Field(min_length=1)]
    val: Annotated[dict[str, Use], Field(min_length=1)]
    datasets: dict[str, Dataset] = {}
    data_root: str = 'data'
    cache: str = 'data/prepared'

    initial: str = ''
    initial_encoder: str = ''
    mean: Rgb = IMAGENET_MEAN
    std: tuple[Positive, Positive, Positive] = IMAGENET_STD

    fit_hw: tuple[Side, Side] | None = None
    crop_hw: tuple[Side, Side] = (256, 352)
    augment: bool = True
    scale: Scale = (0.5, 2.0)
    class_share: Share = 0.75

    epochs: Annotated[int, Field(gt=0)] = 20
    optimizer: Literal['adamw', 'sgd'] = 'adamw'
    learning_rate: Positive = 1e-3
    encoder_rate: Annotated[float, Field(ge=0)] = 1.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    schedule: Literal['cosine', 'poly'] = 'cosine'
    warm_up: Share = 0.05
    gradient_clip: Annotated[float, Field(ge=0)] = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.99
    patience: Annotated[int, Field(ge=0)] = 0

    dice: Annotated[float, Field(ge=0)] = 0.0
    hardest: Annotated[float, Field(gt=0, le=1)] = 1.0
    class_balance: Share = 0.0
    points: Side = 2048

    precision: Literal['auto', 'fp32', 'bf16', 'fp16'] = 'auto'
    accelerator: Literal['auto', 'cpu', 'gpu'] = 'auto'
    devices: Side = 1
    strategy: str = 'auto'
    workers: Annotated[int, Field(ge=0)] = 1
    evaluate_every: Side = 1
    seed: Annotated[int, Field(ge=0)] = 0
    study: str = 'segmentation'
    notes: str = ''

    @model_validator(mode='after')
    def _parted_evenly(self) -> Self:
        if self.batch_size % self.devices:
            raise ValueError(
                f'a batch of {self.batch_size} (the sum of the shares of "train") cannot be '
                f'parted among {self.devices} devices; choose shares that divide'
            )
        if self.family == 'deeplabv3plus' and self.batch_size == self.devices:
            raise ValueError(
                f'deeplabv3plus normalises one pooled pixel of each image over the images of a '
                f'process, and a batch of {self.batch_size} among {self.devices} devices is one '
                f'image for each; give two at least, as "share" of "train"'
            )
        return self

    def dataset(self, name: str) -> Dataset:
        """A data set by name, its root below `data_root`; raises SettingError."""
        known = {**catalogue(), **self.datasets}
        if name not in known:
            raise SettingError(
                f'unknown data set {name!r}; there are {", ".join(known)}, and "datasets" of the '
                f'experiment can add one'
            )
        found = known[name]
        return found.model_copy(update={'root': str(Path(self.data_root, found.root))})

    @property
    def batch_size(self) -> int:
        """Images in a batch, over all processes."""
        return sum(use.share for use in self.train)


def catalogue() -> dict[str, Dataset]:
    """The data sets of `training/datasets.yaml` by name."""
    content = _read_mapping(CATALOGUE)
    return {
        name: _validated(Dataset, row, f'{CATALOGUE}: {name}') for name, row in content.items()
    }


def load_experiment(path: Path, overrides: list[str]) -> Experiment:
    """Read `path` and apply `field=value` overrides.

    `network.field=value` reaches inside a field, `train.0.share=value` into a row of a list.
    A file may hold `extends: other.yaml` and only the fields in which it differs from that one.

    Raises:
        SettingError: unreadable, or a field is unknown, missing, or out of range.
    """
    content = _read_extended(path, ())
    for text in overrides:
        _override(content, text)
    experiment: Experiment = _validated(Experiment, content, str(path))
    return experiment


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write what `load_experiment` reads; fields at their defaults are left out."""
    content = experiment.model_dump(mode='json', exclude_defaults=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')


def _read_extended(path: Path, inner: tuple[Path, ...]) -> dict[str, Any]:
    """Fields of a file over those of the one it names as `extends`, which lies beside it."""
    if path in inner:
        raise SettingError(f'{path} extends itself, by way of {", ".join(map(str, inner))}')
    content = _read_mapping(path)
    base = content.pop('extends', None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SettingError(f'{path}: extends is {base!r}; expected the name of a file beside it')
    return _read_extended(path.parent / base, (*inner, path)) | content


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path} cannot be read as an experiment: {error}') from error
    if not isinstance(content, dict):
        raise SettingError(f'{path} must hold fields as "name: value"')
    return content


def _override(content: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition('=')
    if not equals:
        raise SettingError(f'override {text!r} must read field=value')
    try:
        new = yaml.safe_load(value) if value else ''  # null is written out
    except yaml.YAMLError as error:
        raise SettingError(f'override {text!r} is not valid YAML: {error}') from error
    *outer, last = key.split('.')
    into: Any = content
    for name in outer:
        place = _place(into, name, text)
        # What was read may be shared by YAML anchors; only this use changes.
        into[place] = into = copy.copy(into[place])
    into[last if isinstance(into, dict) else _place(into, last, text)] = new


def _place(into: object, name: str, text: str) -> str | int:
    """Where a part lies in a mapping or, by its number, in a list."""
    if isinstance(into, dict) and name in into:
        return name
    if isinstance(into, list) and name.isdecimal() and int(name) < len(into):
        return int(name)
    raise SettingError(f'override {text!r}: the experiment has no {name!r} to reach into there')


def _validated(kind: type[Any], content: object, where: str) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        more = f'; and {len(problems) - 5} more' if len(problems) > 5 else ''
        raise SettingError(f'{where}: ' + '; '.join(problems[:5]) + more) from None


def _problem(error: Any) -> str:
    place = '.'.join(str(part) for part in error['loc'])
    if error['type'] == 'extra_forbidden':
        known = [*Experiment.model_fields, *TrainUse.model_fields, *Dataset.model_fields]
        close = difflib.get_close_matches(str(error['loc'][-1]), known, 1)
        hint = f'did you mean {close[0]}?' if close else 'training/config.py lists the fields'
        return f'unknown field {place}; {hint}'
    if error['type'] == 'missing':
        return f'lacks {place}'
    said = error['msg'].removeprefix('Value error, ')
    said = said[0].lower() + said[1:]
    return f'{place} is {error["input"]!r:.60}: {said}' if place else said
