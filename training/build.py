# SPDX-License-Identifier: Apache-2.0
"""Construction of the networks to train, and loading of their initial weights."""

import difflib
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import AutoConfig, Mask2FormerConfig

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import SettingError, one_line
from segmentation_node.labels import LabelScheme
from segmentation_node.networks import network_class
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.network import Network
from segmentation_node.networks.smp import SmpNetwork
from training.config import Experiment
from training.pretrained import efficientnet_lite
from training.processes import is_first_process

#: Exceptions that the libraries raise for an invalid configuration.
_CONFIGURATION_ERRORS: Final = (
    AssertionError, AttributeError, IndexError, KeyError, RuntimeError, StrictDataclassError,
    TypeError, ValueError,
)  # fmt: skip


def build_network(experiment: Experiment, scheme: LabelScheme) -> Network:
    """Build the network of an experiment with its initial weights.

    It has one channel per learned class of `scheme`.

    Raises:
        SettingError: the configuration is invalid for the family, or the initial weights do not
            fit or are not available.
        CheckpointError: the checkpoint with the initial weights cannot be loaded.
    """
    network = _build_untrained(experiment, scheme)
    if experiment.initial:
        source = load_checkpoint(experiment.initial).load_network()
        _load_matching(network, source.state_dict(), f'initial {experiment.initial}')
    if experiment.initial_encoder:
        _initialize_encoder(network, experiment)
    for module in network.modules():
        if type(module) is nn.Conv2d and module.groups == module.in_channels > 1:
            module.__class__ = DepthwiseConv2d
    return network


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution that always computes in fp32 on a CPU, even under autocast.

    In bf16, oneDNN's gradient takes four to six times as long, a third of a whole training step
    of the small encoders.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (name given by the base class)
        if input.device.type != 'cpu':
            return super().forward(input)
        with torch.autocast('cpu', enabled=False):
            return super().forward(input.float()).to(input.dtype)


def _build_untrained(experiment: Experiment, scheme: LabelScheme) -> Network:
    build = _build_mask2former if experiment.family == 'mask2former' else _build_smp
    try:
        return build(experiment, scheme)
    except _CONFIGURATION_ERRORS as error:
        raise SettingError(
            f'network {experiment.network} cannot be built as {experiment.family}: '
            f'{one_line(error)}; see training/configs for valid configurations'
        ) from error


def _build_smp(experiment: Experiment, scheme: LabelScheme) -> Network:
    kind = cast('type[SmpNetwork]', network_class(experiment.family))
    _check_known(experiment.network, inspect.signature(kind.library_class).parameters)
    return kind({**experiment.network, 'classes': len(scheme.learned)})


def _build_mask2former(experiment: Experiment, scheme: LabelScheme) -> Network:
    config = dict(experiment.network)
    _check_known(config, Mask2FormerConfig().to_dict())
    backbone = dict(config.pop('backbone_config'))
    kind = backbone.pop('model_type')
    _check_known(backbone, AutoConfig.for_model(kind).to_dict())
    if kind == 'timm_backbone':
        # Without this setting, transformers 4 downloads weights; transformers 5 never does.
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
    """Reject fields that the libraries would silently ignore."""
    for name in given:
        if name not in known:
            match = ''.join(difflib.get_close_matches(name, list(known), 1))
            raise ValueError(
                f'unknown field {name}' + (f', did you mean {match}?' if match else '')
            )


def encoder_of(network: Network) -> nn.Module:
    """Return the encoder of a network, also called its backbone."""
    if isinstance(network, Mask2Former):
        return cast('nn.Module', network.model.model.pixel_level_module.encoder)
    return cast('SmpNetwork', network).model.encoder  # type: ignore[no-any-return]


def parameter_groups(network: Network, experiment: Experiment) -> list[dict[str, Any]]:
    """Group parameters by learning rate; norms, biases and embeddings have no weight decay.

    The rate of the encoder is scaled by `encoder_rate`. From the last stage of the encoder to
    the first, each stage's rate is `layer_decay` times the rate of the stage after it (Clark et
    al., "ELECTRA", ICLR 2020).
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
        {'params': parameters, 'lr': rate} | ({'weight_decay': 0.0} if undecayed else {})
        for (rate, undecayed), parameters in groups.items()
    ]


def _stage(name: str) -> int:
    """Return the stage number in the name of an encoder's parameter; -1 is the stem."""
    match = re.search(r'(?:blocks|layers|layer|stages)[._]?(\d+)', name)
    return int(match[1]) if match else -1


def _initialize_encoder(network: Network, experiment: Experiment) -> None:
    encoder = encoder_of(network)
    source = experiment.initial_encoder
    if source in ('imagenet', 'imagenet_package'):
        name = _timm_name(experiment)
        weights = efficientnet_lite(name) if source == 'imagenet_package' else _download(name)
    else:
        weights = encoder_of(load_checkpoint(source).load_network()).state_dict()
    _load_matching(encoder, weights, f'initial_encoder {source}')


def _timm_name(experiment: Experiment) -> str:
    """Return timm's name of an experiment's encoder."""
    if experiment.family == 'mask2former':
        name = experiment.network['backbone_config'].get('backbone', '')
    else:
        name = str(experiment.network.get('encoder_name', 'resnet34')).removeprefix('tu-')
    if not name:
        raise SettingError(
            'initial_encoder: imagenet requires a timm backbone; set "model_type: timm_backbone" '
            'in backbone_config, or set initial to a hub checkpoint'
        )
    return str(name)


def _download(name: str) -> dict[str, Tensor]:
    """Download ImageNet weights with timm."""
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=True)
    except (RuntimeError, OSError) as error:
        raise SettingError(
            f'ImageNet weights of {name!r} cannot be downloaded: {error}; check the network '
            f'connection, or use initial_encoder: imagenet_package'
        ) from error
    return cast('dict[str, Tensor]', model.state_dict())


def _load_matching(target: nn.Module, weights: Mapping[str, Tensor], setting: str) -> None:
    """Load the weights whose names and shapes match, ignoring wrapper prefixes in names.

    Raises:
        SettingError: fewer than half of the target's tensors match; `setting` names the field.
    """
    required = target.state_dict()
    # The libraries wrap the same encoder in different modules.
    names = {re.sub(r'^(model|_backbone|backbone)\.', '', k): k for k in required}
    given = {re.sub(r'^(model|_backbone|backbone)\.', '', k): v for k, v in weights.items()}
    matching = {
        names[k]: v for k, v in given.items() if k in names and required[names[k]].shape == v.shape
    }
    if len(matching) < len(required) // 2:
        raise SettingError(
            f'{setting}: only {len(matching)} of {len(required)} tensors fit the network; use '
            f'weights of the same architecture, or remove the setting'
        )
    target.load_state_dict(matching, strict=False)
    if is_first_process():
        print(f'{setting}: loaded {len(matching)} of {len(required)} tensors')
