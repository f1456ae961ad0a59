# SPDX-License-Identifier: Apache-2.0
"""Networks to train: fresh ones, and what they start from."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, nn
from transformers import AutoConfig, Mask2FormerConfig

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import SettingError, one_line
from segmentation_node.labels import LabelScheme
from segmentation_node.models import network_class
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.network import Network
from segmentation_node.models.smp import SmpNetwork
from training.config import Experiment
from training.pretrained import efficientnet_lite

#: What the libraries raise where a configuration is none of theirs.
_REFUSALS: Final = (
    AssertionError, AttributeError, IndexError, KeyError, RuntimeError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip


def build_network(experiment: Experiment, scheme: LabelScheme) -> Network:
    """The network that an experiment starts with, one channel per learned class of `scheme`.

    Raises:
        SettingError: the configuration is none of the family's, or what it is to start from does
            not fit or cannot be had.
        CheckpointError: a checkpoint to start from cannot be loaded.
    """
    network = _fresh(experiment, scheme)
    if experiment.initial:
        source = load_checkpoint(experiment.initial).network
        _take_over(network, source.state_dict(), f'initial {experiment.initial}')
    if experiment.initial_encoder:
        _start_encoder(network, experiment)
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseConv2d
    return network


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that computes in fp32 on a CPU, under autocast, too.

    oneDNN's gradient of one takes four to six times as long in bf16, a third of a whole step of
    the small encoders.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the base class's name for it)
        if input.device.type != 'cpu':
            return super().forward(input)
        with torch.autocast('cpu', enabled=False):
            return super().forward(input.float()).to(input.dtype)


def _fresh(experiment: Experiment, scheme: LabelScheme) -> Network:
    build = _mask2former if experiment.family == 'mask2former' else _smp
    try:
        return build(experiment, scheme)
    except _REFUSALS as error:
        raise SettingError(
            f'network {experiment.network} cannot be built as {experiment.family}: '
            f'{one_line(error)}; see the configurations in training/configs for what its library '
            f'takes'
        ) from error


def _smp(experiment: Experiment, scheme: LabelScheme) -> Network:
    kind = cast('type[SmpNetwork]', network_class(experiment.family))
    _check_known(experiment.network, inspect.signature(kind.library_class).parameters)
    return kind({**experiment.network, 'classes': len(scheme.learned)})


def _mask2former(experiment: Experiment, scheme: LabelScheme) -> Network:
    config = dict(experiment.network)
    _check_known(config, Mask2FormerConfig().to_dict())
    backbone = dict(config.pop('backbone_config'))
    kind = backbone.pop('model_type')
    _check_known(backbone, AutoConfig.for_model(kind).to_dict())
    if kind == 'timm_backbone':
        # Release 4 of transformers downloads weights unless it reads this; 5 never does.
        backbone['use_pretrained_backbone'] = False
    backbone_config = AutoConfig.for_model(kind, **backbone)
    names = {i: c.name for i, c in enumerate(scheme.learned)}
    return Mask2Former(
        Mask2FormerConfig(
            **config,
            backbone_config=backbone_config,
            id2label=names,
            label2id={name: i for i, name in names.items()},
        )
    )


def _check_known(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what the libraries would take and never look at."""
    for name in given:
        if name not in known:
            close = ''.join(difflib.get_close_matches(name, list(known), 1))
            raise ValueError(
                f'unknown field {name}' + (f', did you mean {close}?' if close else '')
            )


def encoder_of(network: Network) -> nn.Module:
    """The part of a network that sees pixels first."""
    if isinstance(network, Mask2Former):
        return cast('nn.Module', network.model.model.pixel_level_module.encoder)
    return cast('SmpNetwork', network).model.encoder  # type: ignore[no-any-return]


def parameter_groups(network: Network, experiment: Experiment) -> list[dict[str, Any]]:
    """Parameters by learning rate; norms, biases and embeddings go without weight decay.

    The encoder learns at `encoder_rate`, and each of its stages, from the last to the first, at
    `layer_decay` of the one behind it (Clark et al., "ELECTRA", ICLR 2020).
    """
    stages = {id(p): _stage(name) for name, p in encoder_of(network).named_parameters()}
    from_last = sorted(set(stages.values()), reverse=True)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = experiment.learning_rate
        if id(parameter) in stages:
            depth = from_last.index(stages[id(parameter)])
            rate *= experiment.encoder_rate * experiment.layer_decay**depth
        embeds = any('embed' in part or 'queries' in part for part in name.split('.')[-2:])
        groups.setdefault((rate, parameter.ndim <= 1 or embeds), []).append(parameter)
    return [
        {'params': parameters, 'lr': rate} | ({'weight_decay': 0.0} if plain else {})
        for (rate, plain), parameters in groups.items()
    ]


def _stage(name: str) -> int:
    """Number of the stage in the name of an encoder's parameter; -1 is the stem."""
    found = re.search(r'(?:blocks|layers|layer|stages)[._]?(\d+)', name)
    return int(found[1]) if found else -1


def _start_encoder(network: Network, experiment: Experiment) -> None:
    encoder = encoder_of(network)
    source = experiment.initial_encoder
    if source in ('imagenet', 'imagenet_package'):
        name = _timm_name(experiment)
        weights = efficientnet_lite(name) if source == 'imagenet_package' else _download(name)
    else:
        weights = encoder_of(load_checkpoint(source).network).state_dict()
    _take_over(encoder, weights, f'initial_encoder {source}')


def _timm_name(experiment: Experiment) -> str:
    """Timm's name of an experiment's encoder."""
    if experiment.family == 'mask2former':
        name = experiment.network['backbone_config'].get('backbone', '')
    else:
        name = str(experiment.network.get('encoder_name', 'resnet34')).removeprefix('tu-')
    if not name:
        raise SettingError(
            'initial_encoder: imagenet needs a backbone of timm; give backbone_config '
            '"model_type: timm_backbone", or a hub checkpoint as initial'
        )
    return str(name)


def _download(name: str) -> dict[str, Tensor]:
    """ImageNet weights by the library's own download."""
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError) as error:
        raise SettingError(
            f'ImageNet weights of {name!r} cannot be downloaded: {error}; check the network, or '
            f'use initial_encoder: imagenet_package'
        ) from error
    return cast('dict[str, Tensor]', model.state_dict())


def _take_over(target: nn.Module, weights: Mapping[str, Tensor], what: str) -> None:
    """Load the weights whose names and shapes fit; wrapping prefixes do not count.

    Raises:
        SettingError: less than half of the target's tensors are among them.
    """
    wanted = target.state_dict()
    # The libraries wrap the same encoder in modules of their own.
    bare = {re.sub(r'^(model|_backbone|backbone)\.', '', k): k for k in wanted}
    given = {re.sub(r'^(model|_backbone|backbone)\.', '', k): v for k, v in weights.items()}
    fitting = {
        bare[k]: v for k, v in given.items() if k in bare and wanted[bare[k]].shape == v.shape
    }
    if len(fitting) < len(wanted) // 2:
        raise SettingError(
            f'{what}: only {len(fitting)} of {len(wanted)} tensors fit the network; give one of '
            f'the same kind, or leave it out'
        )
    target.load_state_dict(fitting, strict=False)
    rank_zero_only(print)(f'{what}: {len(fitting)} of {len(wanted)} tensors taken over')
