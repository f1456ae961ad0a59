# SPDX-License-Identifier: Apache-2.0
"""Experiments as YAML files; any field can be overridden on the command line."""

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

from segmentation_node.atomic import replacing
from segmentation_node.errors import SettingError
from segmentation_node.instances import SEMANTIC
from segmentation_node.networks.families import WITH_QUERIES
from segmentation_node.networks.preprocessing import IMAGENET_MEAN, IMAGENET_STD

CATALOG = Path(__file__).with_name('datasets.yaml')
#: Fields that do not affect the result; they may change when a run is resumed.
OUTER = ('data_root', 'cache', 'workers', 'notes')

Side = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Rgb = tuple[float, float, float]


def _ascending(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError('input should have the smallest value first')
    return value


ScaleRange = Annotated[tuple[Positive, Positive], AfterValidator(_ascending)]


class _Strict(BaseModel):
    """Part of an experiment; unknown fields are errors."""

    model_config = ConfigDict(extra='forbid', frozen=True, allow_inf_nan=False)

    @field_validator('*', mode='before')
    @classmethod
    def _reject_boolean(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind is not bool:
            raise ValueError('input should not be true or false')
        return value


class Dataset(_Strict):
    """Location, file layout and label scheme of a data set.

    `layout` is one of `training.datasets.LAYOUTS`, `scheme` the name or file of a label scheme.
    `source` is quoted in model cards. `polygons` draws all labels from polygon files; otherwise
    only those of images without a label image. `subsets` gives the number of images by name of
    the subset and by split.
    """

    layout: str
    root: str
    scheme: str
    source: str = ''
    polygons: bool = False
    subsets: dict[str, dict[str, Annotated[int, Field(gt=0)]]] = {}


class Use(_Strict):
    """One split of a data set, or a part of it.

    A part is either a named `subset` of the data set, or `count` random images drawn by `seed`.
    `only` first selects the images whose names match one of its shell patterns, for example some
    drives.
    """

    set: str
    split: str
    only: tuple[str, ...] = ()
    subset: str | None = None
    count: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode='after')
    def _check_part(self) -> Self:
        if self.subset is not None and (self.count is not None or self.seed):
            raise ValueError(
                f'subset {self.subset!r} determines the images; remove "count" and "seed"'
            )
        return self


class TrainUse(Use):
    """One split of a data set to train on.

    `share` is the number of its images in every batch. `scale` overrides the experiment's random
    scale, for a set with images larger or smaller than the others.
    """

    share: Annotated[int, Field(gt=0)]
    scale: ScaleRange | None = None


class Experiment(_Strict):
    """Complete description of a training run.

    Attributes:
        family: one of `segmentation_node.networks.FAMILIES`.
        label_scheme: name or file of the label scheme to learn.
        task: 'panoptic' also learns to tell objects of countable classes apart.
        network: configuration for the model's library; class counts follow from the scheme.
        train: data sets to train on; their shares add up to the batch size over all processes.
            An epoch is one pass over the first of them.
        val: validation sets by the name used in metrics; the first one determines the best epoch.
        datasets: additional data sets, besides those of `training/datasets.yaml`.
        initial: checkpoint with the initial weights (bundled name, folder, hub id).
        initial_encoder: initial weights of the encoder: 'imagenet' (downloaded by timm),
            'imagenet_package' (an installed package, see `training.pretrained`), or a checkpoint.
        mean, std: normalization of the input pixels, RGB in [0, 1].
        fit_hw: box that images are scaled down to once, before training; null keeps their size.
        augment: False disables all randomness in images: they are scaled to cover the crop and
            cropped at the center.
        crop_hw: size of the training crops.
        scale: smallest and largest random scale.
        warp: probability that a crop shows the scene as by another camera: tilted, stretched, in
            another perspective, and maybe smaller than the crop.
        strong: probability of strong changes of light, weather and sensor.
        paste: probability that objects of rare classes from another image are pasted in.
        class_share: crops in which one class covers more than this share are redrawn.
        encoder_rate: learning rate of the encoder as a share of `learning_rate`.
        layer_decay: learning rate of each encoder stage as a share of the next stage's.
        warm_up: share of all steps in which the learning rate rises.
        ema: decay of the averaged weights, which are the ones saved; 0 saves the newest weights.
        patience: number of epochs without a better score before the run stops; 0 never stops it.
        dice: weight of the Dice loss, which is added to the cross-entropy.
        hardest: share of the pixels, the hardest ones, used in the cross-entropy (OHEM).
        class_balance: exponent of the inverse class frequency used as class weight.
        points: number of points per mask in Mask2Former's loss.
        precision: auto is bf16 on machines with hardware support for it.
        devices, strategy, accelerator: passed to Lightning; `devices` are those of one machine.
        num_nodes: number of machines.
        evaluate_every: number of epochs between evaluations; the last epoch is always evaluated.
        study: name of the MLflow experiment.
    """

    family: str
    label_scheme: str
    task: Literal['semantic', 'panoptic'] = SEMANTIC
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
    scale: ScaleRange = (0.5, 2.0)
    warp: Share = 0.0
    strong: Share = 0.0
    paste: Share = 0.0
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
    num_nodes: Side = 1
    strategy: str = 'auto'
    workers: Annotated[int, Field(ge=0)] = 1
    evaluate_every: Side = 1
    seed: Annotated[int, Field(ge=0)] = 0
    study: str = 'segmentation'
    notes: str = ''

    @model_validator(mode='after')
    def _check_batch_size(self) -> Self:
        if self.batch_size % self.processes:
            raise ValueError(
                f'a batch of {self.batch_size} (the sum of the shares in "train") cannot be split '
                f'evenly among {self.processes} devices; choose shares with a sum divisible by '
                f'{self.processes}'
            )
        pools = self.family in ('deeplabv3', 'deeplabv3plus')
        if pools and self.batch_size == self.processes:
            raise ValueError(
                f'a batch of {self.batch_size} among {self.processes} devices is one image per '
                f'device, but the batch norm of {self.family} over pooled pixels needs at least '
                f'two; increase "share" in "train"'
            )
        return self

    @model_validator(mode='after')
    def _check_task(self) -> Self:
        if self.task != SEMANTIC and self.family not in WITH_QUERIES:
            raise ValueError(
                f'task {self.task} is not supported by family {self.family}; choose family '
                f'{" or ".join(WITH_QUERIES)}, or task {SEMANTIC}'
            )
        return self

    @property
    def has_instances(self) -> bool:
        """True if the network learns to tell instances apart."""
        return self.task != SEMANTIC

    def dataset(self, name: str) -> Dataset:
        """Return a data set by name, its root below `data_root`; raises SettingError."""
        known = {**catalog(), **self.datasets}
        if name not in known:
            raise SettingError(
                f'unknown data set {name!r}; available: {", ".join(known)}; add others to '
                f'"datasets" in the experiment'
            )
        dataset = known[name]
        return dataset.model_copy(update={'root': str(Path(self.data_root, dataset.root))})

    @property
    def batch_size(self) -> int:
        """Number of images in a batch, over all processes."""
        return sum(use.share for use in self.train)

    @property
    def processes(self) -> int:
        """Number of processes on all machines, one per device."""
        return self.devices * self.num_nodes


def catalog() -> dict[str, Dataset]:
    """Return the data sets of `training/datasets.yaml` by name."""
    content = _read_mapping(CATALOG)
    return {name: _validated(Dataset, row, f'{CATALOG}: {name}') for name, row in content.items()}


def load_experiment(path: Path, overrides: list[str]) -> Experiment:
    """Read `path` and apply `field=value` overrides.

    `network.field=value` sets a nested field, `train.0.share=value` a field in a list item.
    A file with `extends: other.yaml` contains only the fields in which it differs from that file.

    Raises:
        SettingError: a file is unreadable, or a field is unknown, missing, or out of range.
    """
    content = _read_extended(path, ())
    for text in overrides:
        _override(content, text)
    experiment: Experiment = _validated(Experiment, content, str(path))
    return experiment


def save_experiment(experiment: Experiment, path: Path) -> None:
    """Write a file for `load_experiment`; fields with default values are omitted."""
    content = experiment.model_dump(mode='json', exclude_defaults=True)
    # Another process may be reading or writing it.
    with replacing(path, shared=True) as aside:
        aside.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')


def _read_extended(path: Path, inner: tuple[Path, ...]) -> dict[str, Any]:
    """Read a file, merged over the file in the same folder that it `extends`."""
    if path in inner:
        raise SettingError(
            f'{path} extends itself through {", ".join(map(str, inner))}; remove one "extends"'
        )
    content = _read_mapping(path)
    base = content.pop('extends', None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise SettingError(
            f'{path}: extends is {base!r}; expected the name of a file in the same folder'
        )
    return _read_extended(path.parent / base, (*inner, path)) | content


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f'{path} cannot be read as an experiment: {error}') from error
    if not isinstance(content, dict):
        raise SettingError(f'{path} must contain a YAML mapping, "name: value" on each line')
    return content


def _override(content: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition('=')
    if not equals:
        raise SettingError(f'override {text!r} must have the form field=value')
    try:
        new = yaml.safe_load(value) if value else ''  # None is spelled "null"
    except yaml.YAMLError as error:
        raise SettingError(f'override {text!r} is not valid YAML: {error}') from error
    *outer, last = key.split('.')
    into: Any = content
    for name in outer:
        place = _place(into, name, text)
        # YAML aliases may share the value; change it in this place only.
        into[place] = into = copy.copy(into[place])
    into[last if isinstance(into, dict) else _place(into, last, text)] = new


def _place(into: object, name: str, text: str) -> str | int:
    """Return the key of a mapping or the index of a list that `name` refers to."""
    if isinstance(into, dict) and name in into:
        return name
    if isinstance(into, list) and name.isdecimal() and int(name) < len(into):
        return int(name)
    raise SettingError(
        f'override {text!r}: the experiment has no {name!r} at this place; expected the name of '
        f'an existing field or the index of an item'
    )


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
        hint = f'did you mean {close[0]}?' if close else 'see training/config.py for all fields'
        return f'unknown field {place}; {hint}'
    if error['type'] == 'missing':
        return f'{place} is missing'
    message = error['msg'].removeprefix('Value error, ')
    message = message[0].lower() + message[1:]
    return f'{place} is {error["input"]!r:.60}: {message}' if place else message
