# SPDX-License-Identifier: Apache-2.0
"""Fresh networks to train, and what they start from."""

import re
from typing import Any, cast

from torch import Tensor, nn
from transformers import AutoConfig, Mask2FormerConfig

from segmentation_node.errors import SettingError
from segmentation_node.labels import LabelScheme
from segmentation_node.models import Network, network_class
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.smp import SmpNetwork
from training.config import Experiment


def build_network(family: str, config: dict[str, Any], scheme: LabelScheme) -> Network:
    """A network with random weights and one channel per learned class of `scheme`."""
    if family != 'mask2former':
        smp_class = cast('type[SmpNetwork]', network_class(family))
        return smp_class({**config, 'classes': len(scheme.learned)})
    backbone = dict(config['backbone_config'])
    names = {i: c.name for i, c in enumerate(scheme.learned)}
    return Mask2Former(
        Mask2FormerConfig(
            **{k: v for k, v in config.items() if k != 'backbone_config'},
            backbone_config=AutoConfig.for_model(backbone.pop('model_type'), **backbone),
            id2label=names,
            label2id={name: i for i, name in names.items()},
        )
    )


def encoder_of(network: Network) -> nn.Module:
    """The part of a network that sees pixels first."""
    if isinstance(network, Mask2Former):
        return cast('nn.Module', network.model.model.pixel_level_module.encoder)
    return cast('SmpNetwork', network).model.encoder  # type: ignore[no-any-return]


def parameter_groups(network: Network, experiment: Experiment) -> list[dict[str, Any]]:
    """Encoder and the rest at their own rates; norms, biases and embeddings without decay."""
    inside = {id(p) for p in encoder_of(network).parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        embeds = any('embed' in part or 'queries' in part for part in name.split('.')[-2:])
        plain = parameter.ndim <= 1 or embeds
        groups.setdefault((id(parameter) in inside, plain), []).append(parameter)
    rates = {True: experiment.learning_rate * experiment.encoder_rate,
             False: experiment.learning_rate}  # fmt: skip
    return [
        {'params': parameters, 'lr': rates[encoder], 'initial_lr': rates[encoder]}
        | ({'weight_decay': 0.0} if plain else {})
        for (encoder, plain), parameters in groups.items()
    ]


def copy_encoder(source: Network, target: Network) -> None:
    """Start a ResNet backbone of Mask2Former from the ResNet encoder of a trained SMP network.

    Stages of another shape keep their random start; raises SettingError if none fits.
    """
    if not isinstance(source, SmpNetwork) or not isinstance(target, Mask2Former):
        raise SettingError(
            f'initial_encoder takes the encoder of DeepLabV3+ or U-Net to Mask2Former, not that '
            f'of {type(source).__name__} to {type(target).__name__}; leave it out'
        )
    wanted = encoder_of(target).state_dict()
    given = {_transformers_name(k): v for k, v in encoder_of(source).state_dict().items()}
    fitting: dict[str, Tensor] = {
        k: v for k, v in given.items() if k in wanted and wanted[k].shape == v.shape
    }
    if len(fitting) < len(wanted) // 2:
        raise SettingError(
            f'only {len(fitting)} of {len(wanted)} encoder tensors fit; the backbone must be a '
            f'ResNet with basic layers as the source has'
        )
    encoder_of(target).load_state_dict(fitting, strict=False)
    print(f'encoder: {len(fitting)} of {len(wanted)} tensors taken over')


def _transformers_name(name: str) -> str:
    """Name in transformers' ResNet of a tensor of torchvision's."""
    name = re.sub(r'^conv1\.', 'embedder.embedder.convolution.', name)
    name = re.sub(r'^bn1\.', 'embedder.embedder.normalization.', name)
    name = re.sub(
        r'^layer(\d)\.(\d)\.',
        lambda m: f'encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.',
        name,
    )
    parts = {'conv': 'convolution', 'bn': 'normalization'}
    name = re.sub(r'\.(conv|bn)(\d)\.', lambda m: f'.layer.{int(m[2]) - 1}.{parts[m[1]]}.', name)
    return name.replace('.downsample.0.', '.shortcut.convolution.').replace(
        '.downsample.1.', '.shortcut.normalization.'
    )
