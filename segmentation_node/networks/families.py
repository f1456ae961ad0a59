# SPDX-License-Identifier: Apache-2.0
"""Registry of the supported model families."""

import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from segmentation_node.errors import CheckpointError, quoted

if TYPE_CHECKING:
    from segmentation_node.networks.network import Network

#: Module and class of each family. A module is imported on first use, because each library takes
#: seconds to import.
FAMILIES: Final = {
    'deeplabv3plus': ('segmentation_node.networks.smp', 'DeepLabV3Plus'),
    'mask2former': ('segmentation_node.networks.mask2former', 'Mask2Former'),
    'unet': ('segmentation_node.networks.smp', 'UNet'),
    'deeplabv3': ('segmentation_node.networks.smp', 'DeepLabV3'),
}

#: Memory that a network of the bundled size needs on a CPU in fp32, in bytes per input pixel,
#: measured with OpenVINO at 3840 x 2160; int8 needs a third to a half of it. deeplabv3 is not
#: bundled: it has their encoder at output stride 8, and was measured at 1920 x 1088.
BYTES_PER_PIXEL: Final = {
    'deeplabv3plus': 180, 'mask2former': 400, 'unet': 280, 'deeplabv3': 200,
}  # fmt: skip

#: Families whose networks have queries, which panoptic models and those of instances need.
WITH_QUERIES: Final = ('mask2former',)

#: Channel number as written in config.json.
_CHANNEL: Final = re.compile(r'[0-9]{1,4}')

_FAMILY_OF_LIBRARY_NAME: Final = {
    'DeepLabV3Plus': 'deeplabv3plus',
    'Unet': 'unet',
    'mask2former': 'mask2former',
    'DeepLabV3': 'deeplabv3',
}


def network_class(family: str) -> 'type[Network]':
    """Return the network class of a family; raises CheckpointError for an unknown family."""
    if family not in FAMILIES:
        raise CheckpointError(
            f'unknown model family {quoted(family)}; use one of {", ".join(FAMILIES)}'
        )
    module, name = FAMILIES[family]
    class_: type[Network] = getattr(import_module(module), name)
    return class_


def family_of_config(path: Path, config: dict[str, Any]) -> str:
    """Return the family that a library's own `config.json`, read from `path`, describes.

    Raises:
        CheckpointError: the family is not supported.
    """
    name = str(config.get('_model_class') or config.get('model_type'))
    if name not in _FAMILY_OF_LIBRARY_NAME:
        supported = ', '.join(_FAMILY_OF_LIBRARY_NAME)
        raise CheckpointError(
            f'{path} describes a model {quoted(name)}, which is not supported; use one of '
            f"{supported}, saved with its library's save_pretrained"
        )
    return _FAMILY_OF_LIBRARY_NAME[name]


def input_channels(config: dict[str, Any]) -> object:
    """Return how many channels an image has for the network of a library's own `config.json`."""
    if '_model_class' in config:
        return config.get('in_channels', 3)
    backbone = config.get('backbone_config') or config.get('backbone_kwargs')
    return backbone.get('num_channels', 3) if isinstance(backbone, dict) else 3


def is_binary(config: dict[str, Any]) -> bool:
    """Return whether a library's own `config.json` describes a network with a single logit.

    One class is what segmentation_models_pytorch makes unless it is told otherwise.
    """
    return '_model_class' in config and config.get('classes', 1) == 1


def class_names(config: dict[str, Any]) -> list[str] | None:
    """Return the class names in channel order from a library's `config.json`; None if missing.

    transformers generates LABEL_0, LABEL_1, ... for classes without names.
    """
    id2label = config.get('id2label')
    if not isinstance(id2label, dict) or not all(_CHANNEL.fullmatch(str(key)) for key in id2label):
        return None
    names = [str(id2label[key]) for key in sorted(id2label, key=int)]
    return None if all(name.startswith('LABEL_') for name in names) else names
