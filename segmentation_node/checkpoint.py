# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: finding, loading and writing them.

A checkpoint is a folder in the model library's own format (`config.json`, `model.safetensors`)
plus `segmentation.yaml`, which knows everything else: model family, label scheme, preprocessing
and provenance. A folder straight from a hub has no `segmentation.yaml`; there the library's
configuration tells the family and the class names tell the scheme.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml

from segmentation_node.errors import CheckpointError
from segmentation_node.graph import Preprocessing, SegmentationGraph
from segmentation_node.labels import LabelScheme, Lut, load_scheme, scheme_of_class_names
from segmentation_node.models import FAMILIES, Network, family_of_config, network_class
from segmentation_node.paths import bundled_models_dir

SPEC_FILE = 'segmentation.yaml'
HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}')
#: Nothing else is fetched from a hub: neither pickles nor code.
HUB_FILES = ['*.safetensors', '*.safetensors.index.json', 'config.json', SPEC_FILE,
             'preprocessor_config.json', 'README.md']  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """Content of `segmentation.yaml`; what is not the library's to know."""

    family: str
    label_scheme: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> 'Spec':
        """Read and check; raises CheckpointError naming what is wrong."""
        try:
            content = yaml.safe_load(path.read_text(encoding='utf-8'))
            preprocessing = {
                key: None if value is None else tuple(value)
                for key, value in content.pop('preprocessing', {}).items()
            }
            spec = cls(**content, preprocessing=Preprocessing(**preprocessing))
        except (AttributeError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CheckpointError(f'{path} is not a valid {SPEC_FILE}: {error}') from error
        if spec.family not in FAMILIES:
            raise CheckpointError(
                f'{path} has family {spec.family!r}; there are {", ".join(FAMILIES)}'
            )
        return spec

    def write(self, path: Path) -> None:
        """Write as YAML."""
        content = asdict(self)
        content['preprocessing'] = {
            key: None if value is None else list(value)
            for key, value in content['preprocessing'].items()
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding='utf-8')


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with all that is needed to run it.

    `name` is what was asked for; `channel_ids` is the published id of each channel, (C,) uint8.
    """

    name: str
    folder: Path
    spec: Spec
    scheme: LabelScheme
    channel_ids: Lut
    network: Network

    def graph(self, size_hw: tuple[int, int] | None = None) -> SegmentationGraph:
        """The pixels-in labels-out graph; `size_hw` replaces the checkpoint's own input size."""
        import torch

        preprocessing = self.spec.preprocessing
        if size_hw is not None:
            preprocessing = Preprocessing(preprocessing.mean, preprocessing.std, size_hw)
        graph = SegmentationGraph(self.network, preprocessing, torch.from_numpy(self.channel_ids))
        return graph.eval()


def bundled_models() -> list[str]:
    """Names of the checkpoints that come with the package."""
    return sorted(path.parent.name for path in bundled_models_dir().glob(f'*/{SPEC_FILE}'))


def locate(model: str) -> Path:
    """Folder of a checkpoint given as a bundled name, a folder, or a hub id.

    Raises:
        CheckpointError: it is none of these, or the hub cannot be reached.
    """
    if model in bundled_models():
        return bundled_models_dir() / model
    if Path(model).is_dir():
        return Path(model)
    if HUB_ID.fullmatch(model):
        return _download(model)
    raise CheckpointError(
        f'no model {model!r}: it is neither bundled ({", ".join(bundled_models())}), nor an '
        f'existing folder, nor a hub id like "owner/name"'
    )


def load_checkpoint(model: str) -> Checkpoint:
    """Load a model by bundled name, folder or hub id, in fp32 on the CPU.

    Raises:
        CheckpointError: missing, damaged, or parts that do not belong together.
        SchemeError: the label scheme is unknown or does not fit the network's classes.
    """
    folder = locate(model)
    config = _read_config(folder)
    if not list(folder.glob('*.safetensors')):
        raise CheckpointError(
            f'{folder} has no model.safetensors; pickled weights (.bin, .pth) are not loaded: '
            f'save them as safetensors with save_pretrained(..., safe_serialization=True)'
        )
    if (folder / SPEC_FILE).is_file():
        spec = Spec.read(folder / SPEC_FILE)
        network = network_class(spec.family).load(folder)
        scheme = load_scheme(spec.label_scheme)
        channel_ids = scheme.channel_ids
    else:
        family = family_of_config(config)
        network = network_class(family).load(folder)
        names = network.class_names()
        if names is None:
            raise CheckpointError(
                f'{folder} names no classes; add a {SPEC_FILE} with "family: {family}" and '
                f'"label_scheme: ..."'
            )
        scheme, channel_ids = scheme_of_class_names(names)
        spec = Spec(family, scheme.name, _preprocessing_of_hub(folder))
    channels = network.channels()
    if channels != len(channel_ids):
        raise CheckpointError(
            f'{folder}: the network has {channels} classes but label scheme {scheme.name} '
            f'{len(channel_ids)}; correct "label_scheme" in {SPEC_FILE}'
        )
    return Checkpoint(model, folder, spec, scheme, channel_ids, network.eval())


def save_checkpoint(folder: Path, network: Network, spec: Spec, card: str) -> None:
    """Write a checkpoint folder, floating point weights as fp16, with its model card."""
    folder.mkdir(parents=True, exist_ok=True)
    network.half().save(folder)
    spec.write(folder / SPEC_FILE)
    (folder / 'README.md').write_text(card, encoding='utf-8')


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / 'config.json'
    try:
        config = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise CheckpointError(
            f'{folder} has no config.json; a checkpoint folder holds config.json, '
            f'model.safetensors and {SPEC_FILE}'
        ) from None
    except ValueError as error:
        raise CheckpointError(f'{path} is not valid JSON: {error}') from error
    if not isinstance(config, dict):
        raise CheckpointError(f'{path} must hold a JSON object')
    return config


def _preprocessing_of_hub(folder: Path) -> Preprocessing:
    """Mean and std of the library's processor; its fixed square input size is left out.

    The hub's Cityscapes processors squash every image into a 384 x 384 square although the
    networks were trained on the true aspect ratio.
    """
    path = folder / 'preprocessor_config.json'
    if not path.is_file():
        return Preprocessing()
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
        mean, std = tuple(content['image_mean']), tuple(content['image_std'])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f'{path} has no image_mean and image_std: {error}') from error
    return Preprocessing(mean, std)


def _download(hub_id: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=HUB_FILES))
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise CheckpointError(
            f'cannot fetch {hub_id!r} from the hub ({type(error).__name__}: {error}); check the '
            f'id and the network, or download the folder elsewhere and give its path as the model'
        ) from error
