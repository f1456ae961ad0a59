# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: finding, loading and writing them.

A checkpoint is a folder in the model library's own format (`config.json`, `model.safetensors`)
plus `segmentation.yaml`, which contains the rest: model family, label scheme, preprocessing and
provenance. A folder from a hub has no `segmentation.yaml`: the library's configuration names the
family, and the class names identify the scheme.
"""

import copy
import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import yaml

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import CheckpointError, ForeignError, SchemeError, one_line, quoted
from segmentation_node.images.files import MAX_SIDE
from segmentation_node.instances import INSTANCE, PANOPTIC, SEMANTIC, TASKS
from segmentation_node.labels import (
    LabelScheme,
    available_schemes,
    load_scheme,
    scheme_of_class_names,
)
from segmentation_node.networks.confidence import TEMPERATURES, confidence_table
from segmentation_node.networks.domain import (
    MAX_FEATURE,
    MAX_FEATURES,
    MAX_SETS,
    Domain,
    FeatureSet,
)
from segmentation_node.networks.families import (
    BYTES_PER_PIXEL,
    FAMILIES,
    WITH_QUERIES,
    class_names,
    family_of_config,
    input_channels,
    is_binary,
    network_class,
)
from segmentation_node.networks.postprocessing import Decoder, ScoresDecoder
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.networks.queries import QueriesDecoder
from segmentation_node.paths import bundled_models_dir
from segmentation_node.untrusted import read_json, read_yaml

if TYPE_CHECKING:  # importing torch takes seconds, and graph files run without it
    from segmentation_node.networks.graph import SegmentationGraph
    from segmentation_node.networks.network import Network

SPEC_FILE = 'segmentation.yaml'
#: Channels of the images that networks take: RGB.
IMAGE_CHANNELS: Final = 3
#: The index lists the parts of weights that are saved in several files.
WEIGHTS_FILES = ('model.safetensors', 'model.safetensors.index.json')
PICKLES = ('.bin', '.ckpt', '.pt', '.pth', '.pkl')
HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}')
#: Name of a panoptic model, such as mask2former-swin-tiny-cityscapes-panoptic.
_PANOPTIC_NAME: Final = re.compile(r'(?:^|[-_.])panoptic(?:$|[-_.])')
#: The only files downloaded from a hub: no pickles and no code.
HUB_FILES = ['*.safetensors', '*.safetensors.index.json', 'config.json', '*.yaml',
             'preprocessor_config.json', 'README.md']  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """Content of `segmentation.yaml`: everything that the library's configuration lacks.

    `label_scheme` is the name of a scheme, or of a scheme file in the same folder. `temperature`
    calibrates the confidence, see `networks.confidence`; 1 leaves it unchanged. `out_of_domain`
    describes the images that the network knows; None means that this is unknown. `task` is one of
    TASKS.
    """

    family: str
    label_scheme: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    out_of_domain: Domain | None = None
    task: str = SEMANTIC

    @classmethod
    def read(cls, path: Path) -> 'Spec':
        """Read and validate a file; raises CheckpointError."""
        try:
            content = read_yaml(path)
        except ForeignError as error:
            raise CheckpointError(f'{error}; write it anew') from error
        _check_fields(path, content, cls, required=('family', 'label_scheme'))
        preprocessing = content.pop('preprocessing', None) or {}
        _check_fields(path, preprocessing, Preprocessing)
        for name in ('family', 'label_scheme'):
            if not isinstance(content[name], str):
                raise CheckpointError(
                    f'{path} has {name} {quoted(content[name])}; expected a name'
                )
        if Path(content['label_scheme']).name != content['label_scheme']:
            raise CheckpointError(
                f'{path} has label_scheme {quoted(content["label_scheme"])}; expected the name of '
                f'a scheme, or of a file in the same folder'
            )
        if content['family'] not in FAMILIES:
            raise CheckpointError(
                f'{path} has family {quoted(content["family"])}; choose one of '
                f'{", ".join(FAMILIES)}'
            )
        _check_task(path, content)
        _check_temperature(path, content.get('temperature', 1.0))
        domain = _domain(path, content.pop('out_of_domain', None))
        return cls(
            **content, preprocessing=_preprocessing(path, preprocessing), out_of_domain=domain
        )

    def write(self, path: Path) -> None:
        """Write as YAML."""
        content = asdict(self)
        content['preprocessing'] = {
            key: None if value is None else list(value)
            for key, value in content['preprocessing'].items()
        }
        content['provenance'] = content.pop('provenance')  # last, because it is long
        # Numbers of a list on one line: a description of the domain has hundreds.
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None)
        path.write_text(text, encoding='utf-8')


@dataclass(frozen=True)
class Checkpoint:
    """Model with everything needed to run it; the weights are loaded on request.

    `name` is the model as the user named it; `channel_ids` are the published ids of the network's
    channels, (C,) uint8.
    """

    name: str
    folder: Path
    spec: Spec
    scheme: LabelScheme
    channel_ids: UInt8Array

    def load_network(self) -> 'Network':
        """Return the network, in fp32 on the CPU; loaded once.

        Raises:
            CheckpointError: the weights are damaged, or do not fit the configuration.
        """
        return self._network

    @cached_property
    def _network(self) -> 'Network':
        network = network_class(self.spec.family).load(self.folder)
        if network.channels() != len(self.channel_ids):
            raise CheckpointError(
                f'{self.folder}: the network has {network.channels()} classes but label scheme '
                f'{self.scheme.name} has {len(self.channel_ids)}; correct "label_scheme" in '
                f'{SPEC_FILE}'
            )
        if not_finite := network.not_finite():
            raise CheckpointError(
                f'{self.folder}: {len(not_finite)} tensors of the weights have values that are '
                f'not finite ({not_finite[0]}, ...): the training diverged, or the file was '
                f'damaged; take an earlier checkpoint'
            )
        return network.eval()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the files that define the network."""
        files = (p for p in self.folder.iterdir() if p.suffix in ('.json', '.safetensors'))
        return _digest(self.folder, files)

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 of all files that labels, confidence and distances depend on."""
        files = (p for p in self.folder.rglob('*') if p.is_file() and p.suffix != '.md')
        return _digest(self.folder, files)

    @cached_property
    def confidence_table(self) -> UInt8Array:
        """Published confidence of each byte value of a class score, (256,) uint8."""
        return confidence_table(self.spec.temperature)

    @property
    def task(self) -> str:
        """Task that the network was trained for, one of TASKS."""
        return self.spec.task

    @property
    def decoder(self) -> Decoder:
        """Conversion of the outputs of a graph to labels."""
        if self.task == SEMANTIC:
            return ScoresDecoder(self.channel_ids, self.confidence_table)
        return QueriesDecoder(
            self.task,
            self.channel_ids,
            self.scheme.countable_of(self.channel_ids),
            self.scheme.void_id,
            self.confidence_table,
        )

    @property
    def bytes_per_pixel(self) -> int:
        """Maximum memory of the network on a CPU, in bytes per pixel of its input."""
        return BYTES_PER_PIXEL[self.spec.family]

    def preprocessing(self, size_hw: tuple[int, int] | None = None) -> Preprocessing:
        """Return the preprocessing of the network; `size_hw` replaces its input size."""
        return (
            self.spec.preprocessing
            if size_hw is None
            else replace(self.spec.preprocessing, size_hw=size_hw)
        )

    def load_graph(self, size_hw: tuple[int, int] | None = None) -> 'SegmentationGraph':
        """Return the graph from pixels to labels; `size_hw` replaces its input size."""
        import torch

        from segmentation_node.networks.graph import SegmentationGraph

        ids = torch.from_numpy(self.channel_ids)
        return SegmentationGraph(
            self.load_network(), self.preprocessing(size_hw), ids, self.spec.temperature, self.task
        ).eval()


def _digest(folder: Path, files: Iterable[Path]) -> str:
    """Return the SHA-256 of the paths and contents of files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open('rb') as stream:
            while block := stream.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _check_fields(
    path: Path, content: object, of: type[Any], required: tuple[str, ...] = ()
) -> None:
    known = [f.name for f in fields(of)]
    if not isinstance(content, dict):
        raise CheckpointError(
            f'{path} contains {quoted(content)}, expected fields: {", ".join(known)}'
        )
    unknown = ', '.join(sorted(map(str, set(content) - set(known))))
    if unknown:
        raise CheckpointError(f'{path} has unknown fields {unknown}; there are {", ".join(known)}')
    missing = ', '.join(name for name in required if name not in content)
    if missing:
        raise CheckpointError(f'{path} lacks {missing}; add it as "name: value"')


def _check_task(path: Path, content: dict[str, Any]) -> None:
    task, family = content.get('task', SEMANTIC), content['family']
    if task not in TASKS:
        raise CheckpointError(f'{path} has task {quoted(task)}; choose one of {", ".join(TASKS)}')
    if task != SEMANTIC and family not in WITH_QUERIES:
        raise CheckpointError(
            f'{path} has task {task}, which family {family} does not support; use one of '
            f'{", ".join(WITH_QUERIES)}, or task {SEMANTIC}'
        )


def _check_temperature(path: Path, value: object) -> None:
    low, high = TEMPERATURES
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise CheckpointError(
            f'{path} has temperature {quoted(value)}; expected a number from {low:g} to {high:g}: '
            f'fit it with training.calibrate, or remove the line'
        )


def _domain(path: Path, content: object) -> Domain | None:
    """Convert the description of known images, as read from a file; raises CheckpointError."""
    if content is None:
        return None
    remedy = 'fit it again with training.calibrate, or remove it'
    if not isinstance(content, dict) or set(content) != {'threshold', 'sets'}:
        raise CheckpointError(
            f'{path} has out_of_domain {quoted(content)}; expected threshold and sets: {remedy}'
        )
    threshold, sets = content['threshold'], content['sets']
    if not (_are((int, float), (threshold,), 1) and threshold <= MAX_FEATURE):
        raise CheckpointError(
            f'{path} has out_of_domain threshold {quoted(threshold)}; expected a number above 0, '
            f'at most {MAX_FEATURE:g}: {remedy}'
        )
    if not isinstance(sets, list) or not 1 <= len(sets) <= MAX_SETS:
        raise CheckpointError(
            f'{path} has out_of_domain sets {quoted(sets)}; expected a list of 1 to {MAX_SETS}: '
            f'{remedy}'
        )
    read = tuple(_feature_set(path, each) for each in sets)
    if len({len(each.mean) for each in read}) != 1:
        raise CheckpointError(
            f'{path} has out_of_domain sets of different numbers of features; {remedy}'
        )
    return Domain(threshold, read)


def _feature_set(path: Path, content: Any) -> FeatureSet:
    if not _is_feature_set(content):
        raise CheckpointError(
            f'{path} has in out_of_domain the set {quoted(content)}; expected a name, and as many '
            f'numbers in mean as numbers above 0 in scale, at most {MAX_FEATURES}, each at most '
            f'{MAX_FEATURE:g}: fit it again with training.calibrate, or remove it'
        )
    return FeatureSet(content['name'], tuple(content['mean']), tuple(content['scale']))


def _is_feature_set(content: object) -> bool:
    if not isinstance(content, dict) or set(content) != {'name', 'mean', 'scale'}:
        return False
    name, mean, scale = content['name'], content['mean'], content['scale']
    if not (isinstance(name, str) and isinstance(mean, list) and isinstance(scale, list)):
        return False
    numbers, count = (int, float), len(mean)
    return (
        1 <= count <= MAX_FEATURES
        and _are(numbers, tuple(mean), count, above_zero=False)
        and _are(numbers, tuple(scale), count)
        and max(map(abs, mean + scale)) <= MAX_FEATURE
    )


def _preprocessing(path: Path, content: dict[str, Any]) -> Preprocessing:
    """Convert lists, as read from a file, to Preprocessing; raises CheckpointError."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    for key, value in values.items():
        if key == 'size_hw':
            good = value is None or (_are((int,), value, 2) and max(value) <= MAX_SIDE)
            expected = f'null or [height, width], two integers from 1 to {MAX_SIDE}'
        else:
            good = _are((int, float), value, 3, above_zero=key == 'std')
            expected = 'three numbers, for red, green and blue in [0, 1]'
        if not good:
            raise CheckpointError(f'{path} has {key} {quoted(content[key])}; expected {expected}')
    return Preprocessing(**values)


def _are(kinds: tuple[type, ...], value: object, count: int, *, above_zero: bool = True) -> bool:
    """Return whether `value` is a tuple of `count` finite numbers of the given types."""
    if not isinstance(value, tuple) or len(value) != count:
        return False
    low = 0 if above_zero else -math.inf
    return all(type(number) in kinds and low < number < math.inf for number in value)


def bundled_models() -> list[str]:
    """Return the names of the checkpoints that are installed with the package."""
    return sorted(path.parent.name for path in bundled_models_dir().glob(f'*/{SPEC_FILE}'))


def locate(model: str) -> Path:
    """Return the folder of a checkpoint given as a bundled name, a folder, or a hub id.

    Raises:
        CheckpointError: no such checkpoint, or the hub cannot be reached.
    """
    if model in bundled_models():
        return bundled_models_dir() / model
    try:
        path = Path(model).expanduser()
        if model and path.is_dir():
            return path
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:  # no such user, no permission, a name too long
        raise CheckpointError(
            f'model {quoted(model)} cannot be looked up ({one_line(error)}); give a bundled name, '
            f'a readable folder, or a hub id'
        ) from error
    if is_file:
        raise CheckpointError(f'model {quoted(model)} is a file; give the folder that contains it')
    if HUB_ID.fullmatch(model):
        return _download(model)
    bundled = ', '.join(bundled_models()) or 'there are none here'
    raise CheckpointError(
        f'no model {quoted(model)}: it is neither bundled ({bundled}), nor an existing folder, '
        f'nor a hub id like "owner/name"'
    )


def load_checkpoint(model: str) -> Checkpoint:
    """Load a model by bundled name, folder or hub id, including its weights.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or its files contradict each other.
    """
    checkpoint = find_checkpoint(model)
    checkpoint.load_network()
    return checkpoint


def find_checkpoint(model: str) -> Checkpoint:
    """Find a model by bundled name, folder or hub id, and read everything but its weights.

    Raises:
        CheckpointError: the checkpoint is missing, or its files contradict each other.
    """
    folder = locate(model)
    config = _read_config(folder)
    if not any((folder / name).is_file() for name in WEIGHTS_FILES):
        others = ', '.join(sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES))
        raise CheckpointError(
            f'{folder} has no {WEIGHTS_FILES[0]}'
            + (f'; pickled weights ({others}) are never loaded' if others else '')
            + ': save the model with save_pretrained, which writes safetensors, or download the '
            'folder anew'
        )
    if (channels := input_channels(config)) != IMAGE_CHANNELS:
        raise CheckpointError(
            f'{folder}: the network takes images of {quoted(channels)} channels; expected '
            f'{IMAGE_CHANNELS}, red, green and blue: take a model that was trained on RGB images'
        )
    names = class_names(config)
    try:
        if (folder / SPEC_FILE).is_file():
            spec = Spec.read(folder / SPEC_FILE)
            scheme, channel_ids = _scheme_of_spec(folder, spec, names)
            if is_binary(config):
                channel_ids = _binary_ids(scheme)
        else:
            family = family_of_config(folder / 'config.json', config)
            scheme, channel_ids = _scheme_of_names(folder, family, names)
            task = _task_of_hub(model, folder, family, len(channel_ids) < len(scheme.learned))
            spec = Spec(family, scheme.name, _preprocessing_of_hub(folder), task=task)
    except SchemeError as error:
        raise CheckpointError(f'{folder}: {error}') from error
    if spec.task != SEMANTIC and not scheme.countable_of(channel_ids).any():
        raise CheckpointError(
            f'{folder}: task {spec.task} requires a class with instances, but label scheme '
            f'{scheme.name} has none; mark such classes with "countable: true"'
        )
    return Checkpoint(model, folder, spec, scheme, channel_ids)


def _scheme_of_names(
    folder: Path, family: str, names: list[str] | None
) -> tuple[LabelScheme, UInt8Array]:
    if names is None:
        raise CheckpointError(
            f'{folder} names no classes; add a file {SPEC_FILE} with the lines '
            f'"family: {family}" and "label_scheme: NAME", where NAME is one of '
            f'{", ".join(available_schemes())}'
        )
    return scheme_of_class_names(names)


def _task_of_hub(model: str, folder: Path, family: str, countable_only: bool) -> str:
    """Return the task of a folder without a spec, by its classes and by the name of the model.

    The configurations of semantic and panoptic models on the hub are the same; their names differ.
    A download lies in .../models--OWNER--NAME/snapshots/REVISION.
    """
    if family not in WITH_QUERIES:
        return SEMANTIC
    if countable_only:
        return INSTANCE
    path = folder.resolve()
    names = [Path(model).name, path.name]
    names += [parent.name for parent in path.parents if parent.name.startswith('models--')]
    return PANOPTIC if any(_PANOPTIC_NAME.search(name) for name in names) else SEMANTIC


def _scheme_of_spec(
    folder: Path, spec: Spec, names: list[str] | None
) -> tuple[LabelScheme, UInt8Array]:
    beside = folder / spec.label_scheme
    scheme = load_scheme(beside if beside.is_file() else spec.label_scheme)
    # If the network names the classes of the scheme, its channels are in the order of its names.
    countable = spec.task == INSTANCE
    by_name = None if names is None else scheme.ids_of_names(names, countable=countable)
    if by_name is not None:
        return scheme, by_name
    ids = scheme.channel_ids
    return scheme, ids[scheme.countable_of(ids)] if countable else ids


def _binary_ids(scheme: LabelScheme) -> UInt8Array:
    """Return the published ids of background and foreground of a binary network, (2,) uint8.

    The foreground is the only learned class that is not void, or the second of two such classes.

    Raises:
        SchemeError: the scheme has more classes.
    """
    classes = [c.id for c in scheme.learned if not c.void]
    rest = [c.id for c in scheme.learned if c.void] or [scheme.void_id]
    match [classes, rest]:
        case [[foreground], [background]]:
            return np.array([background, foreground], np.uint8)
        case [[first, second], _] if not any(c.void for c in scheme.learned):
            return np.array([first, second], np.uint8)
    raise SchemeError(
        f'the network distinguishes one class from the rest, but label scheme {scheme.name} has '
        f'{len(scheme.learned)} learned classes; expected one beside void, or two: correct '
        f'"label_scheme" in {SPEC_FILE}'
    )


def save_checkpoint(folder: Path, network: 'Network', spec: Spec, card: str) -> None:
    """Write a checkpoint folder with its model card; floating-point weights become fp16."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(network).half().save(folder)
    for path in folder.glob('*.safetensors'):  # the library makes them private
        path.chmod((folder / 'config.json').stat().st_mode)
    spec.write(folder / SPEC_FILE)
    (folder / 'README.md').write_text(card, encoding='utf-8')


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / 'config.json'
    if not path.is_file():
        raise CheckpointError(
            f'{folder} has no config.json; a checkpoint folder contains config.json, '
            f'model.safetensors and {SPEC_FILE}'
        )
    try:
        config = read_json(path)
    except ForeignError as error:
        raise CheckpointError(f'{error}; download or save the checkpoint anew') from error
    if not isinstance(config, dict):
        raise CheckpointError(
            f'{path} contains {quoted(config)}, expected a JSON object; download or save the '
            f'checkpoint anew'
        )
    return config


def _preprocessing_of_hub(folder: Path) -> Preprocessing:
    """Return the normalization of the library's processor, without its fixed input size.

    The hub's Cityscapes processors distort every image to a 384 x 384 square, although the
    networks were trained on the original aspect ratio.
    """
    path = folder / 'preprocessor_config.json'
    if not path.is_file():
        return Preprocessing()
    try:
        content = read_json(path)
        if content.get('do_flip_channel_order'):
            raise ValueError('it swaps red and blue, which is not supported')
        mean, std = [0.0] * 3, [1.0] * 3
        if content.get('do_normalize', True):
            mean, std = (_for_rgb(content[key]) for key in ('image_mean', 'image_std'))
        # The processor computes (factor * pixel - mean) / std of pixels from 0 to 255.
        factor = content.get('rescale_factor', 1 / 255) if content.get('do_rescale', True) else 1.0
        largest = 255 * float(factor)
        if not 0 < largest < math.inf:
            raise ValueError(f'rescale_factor {quoted(factor)} is not above 0')
        scaled = {'mean': [v / largest for v in mean], 'std': [v / largest for v in std]}
    except (LookupError, TypeError, ValueError, AttributeError, ForeignError) as error:
        raise CheckpointError(
            f'{path} has no usable image_mean and image_std ({type(error).__name__}: '
            f'{one_line(error)}); download the folder anew, or add a {SPEC_FILE}'
        ) from error
    return _preprocessing(path, scaled)


def _for_rgb(value: Any) -> list[float]:
    """Return a value per color, or one value for all colors, as a list of three."""
    return [float(v) for v in value] if isinstance(value, list) else [float(value)] * 3


def _download(hub_id: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise CheckpointError(
            f'there is no folder {hub_id!r} and it cannot be downloaded from the hub '
            f'({type(error).__name__}: {one_line(error)}); check the spelling and the network, or '
            f'download the model on another machine and give the path of its folder'
        ) from error
