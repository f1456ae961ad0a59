# SPDX-License-Identifier: Apache-2.0
"""Which families of networks there are."""

from typing import Any

from segmentation_node.errors import CheckpointError
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.network import Network
from segmentation_node.models.smp import DeepLabV3Plus, UNet

FAMILIES: dict[str, type[Network]] = {
    'deeplabv3plus': DeepLabV3Plus,
    'mask2former': Mask2Former,
    'unet': UNet,
}

_FAMILY_OF_LIBRARY_NAME = {
    'DeepLabV3Plus': 'deeplabv3plus',
    'Unet': 'unet',
    'mask2former': 'mask2former',
}


def family_of_config(config: dict[str, Any]) -> str:
    """Family that a library's own `config.json` describes; raises CheckpointError."""
    name = config.get('_model_class') or config.get('model_type')
    if name not in _FAMILY_OF_LIBRARY_NAME:
        raise CheckpointError(
            f'config.json describes {name!r}; supported are '
            + ', '.join(_FAMILY_OF_LIBRARY_NAME)
        )
    return _FAMILY_OF_LIBRARY_NAME[name]
