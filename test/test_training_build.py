# SPDX-License-Identifier: Apache-2.0
"""Fresh networks, what they start from, and at which rates they learn."""

from typing import Any

import pytest
import torch

from segmentation_node.errors import CheckpointError, SettingError
from segmentation_node.labels import load_scheme
from segmentation_node.models import Network
from segmentation_node.models.mask2former import Mask2Former
from segmentation_node.models.smp import DeepLabV3Plus, SmpNetwork, UNet
from training.build import build_network, copy_encoder, encoder_of, parameter_groups
from training.config import Experiment

DEEPLAB: dict[str, Any] = {'encoder_name': 'resnet18', 'decoder_channels': 16}
MASK2FORMER: dict[str, Any] = {
    'backbone_config': {
        'model_type': 'resnet', 'layer_type': 'basic', 'depths': [2, 2, 2, 2],
        'hidden_sizes': [64, 128, 256, 32], 'embedding_size': 64,
        'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
    },
    'feature_size': 32, 'mask_feature_size': 32, 'hidden_dim': 32, 'num_attention_heads': 2,
    'encoder_layers': 1, 'encoder_feedforward_dim': 32, 'decoder_layers': 2,
    'dim_feedforward': 32, 'num_queries': 12,
}  # fmt: skip
CATEGORIES = load_scheme('cityscapes8')


@pytest.fixture(scope='module')
def deeplab() -> Network:
    torch.manual_seed(0)
    return build_network('deeplabv3plus', DEEPLAB, CATEGORIES)


@pytest.fixture(scope='module')
def mask2former() -> Network:
    torch.manual_seed(0)
    return build_network('mask2former', MASK2FORMER, CATEGORIES)


def test_networks_have_a_channel_for_every_learned_class(
    deeplab: Network, mask2former: Network
) -> None:
    assert isinstance(deeplab, DeepLabV3Plus)
    assert isinstance(mask2former, Mask2Former)
    assert deeplab.channels() == mask2former.channels() == 8
    assert mask2former.class_names() == [c.name for c in CATEGORIES.learned]
    unet = build_network('unet', {'encoder_name': 'resnet18'}, load_scheme('camvid11'))
    assert isinstance(unet, UNet)
    assert unet.channels() == 11  # its void is not learned


def test_unknown_family() -> None:
    with pytest.raises(CheckpointError, match="'segformer'; there are deeplabv3plus"):
        build_network('segformer', {}, CATEGORIES)


def test_building_changes_no_configuration(mask2former: Network) -> None:
    assert MASK2FORMER['backbone_config']['model_type'] == 'resnet'


def smp_stages(network: Network, pixels: torch.Tensor) -> list[torch.Tensor]:
    """Features after each stage of the encoder."""
    features: list[torch.Tensor] = encoder_of(network)(pixels)
    return features[2:]


def test_copied_encoder_sees_the_same(deeplab: Network) -> None:
    """Stages that were copied put out the same features; the last has another shape here."""
    torch.manual_seed(1)
    target = build_network('mask2former', MASK2FORMER, CATEGORIES)
    with torch.no_grad():  # statistics as after training, not the 0 and 1 of the start
        for module in encoder_of(deeplab).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5)
    pixels = torch.randn(1, 3, 64, 64)
    deeplab.eval()
    target.eval()
    with torch.inference_mode():
        expected = smp_stages(deeplab, pixels)
        before = encoder_of(target)(pixels).feature_maps
        assert not torch.allclose(before[0], expected[0], atol=1e-3)
        copy_encoder(deeplab, target)
        after = encoder_of(target)(pixels).feature_maps
    for stage in range(3):
        assert torch.allclose(after[stage], expected[stage], atol=1e-4), stage
    assert after[3].shape[1] == 32


def test_copying_says_how_much_it_took(
    deeplab: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    target = build_network('mask2former', MASK2FORMER, CATEGORIES)
    copy_encoder(deeplab, target)
    names = list(encoder_of(target).state_dict())
    # Of the last stage, which has another shape here, only the counters of its norms fit.
    fitting = [n for n in names if '.stages.3.' not in n or n.endswith('num_batches_tracked')]
    assert 20 < len(fitting) < len(names)
    assert f'encoder: {len(fitting)} of {len(names)} tensors' in capsys.readouterr().out


def test_only_smp_to_mask2former(deeplab: Network, mask2former: Network) -> None:
    with pytest.raises(SettingError, match='not that of DeepLabV3Plus to DeepLabV3Plus'):
        copy_encoder(deeplab, deeplab)
    with pytest.raises(SettingError, match='not that of Mask2Former to Mask2Former'):
        copy_encoder(mask2former, mask2former)


def test_encoder_that_does_not_fit(deeplab: Network) -> None:
    backbone = {**MASK2FORMER['backbone_config'], 'hidden_sizes': [8, 16, 32, 64]}
    other = build_network('mask2former', {**MASK2FORMER, 'backbone_config': backbone}, CATEGORIES)
    with pytest.raises(SettingError, match=r'only \d+ of \d+ encoder tensors fit'):
        copy_encoder(deeplab, other)


@pytest.mark.parametrize('family', ['deeplab', 'mask2former'])
def test_every_parameter_learns_once_at_its_rate(
    family: str, request: pytest.FixtureRequest
) -> None:
    network: Network = request.getfixturevalue(family)
    experiment = Experiment('', '', {}, [], {}, learning_rate=0.1, encoder_rate=0.5)
    groups = parameter_groups(network, experiment)
    listed = [id(p) for group in groups for p in group['params']]
    assert sorted(listed) == sorted(id(p) for p in network.parameters())
    inside = {id(p) for p in encoder_of(network).parameters()}
    for group in groups:
        rate = 0.05 if id(group['params'][0]) in inside else 0.1
        assert {id(p) in inside for p in group['params']} == {rate == 0.05}
        assert group['lr'] == group['initial_lr'] == rate


def test_norms_biases_and_embeddings_do_not_decay(mask2former: Network) -> None:
    groups = parameter_groups(mask2former, Experiment('', '', {}, [], {}))
    names = {id(p): name for name, p in mask2former.named_parameters()}
    free = {
        names[id(p)] for group in groups if group.get('weight_decay') == 0 for p in group['params']
    }
    decaying = set(names.values()) - free
    parameters = dict(mask2former.named_parameters())
    assert {name for name in decaying if parameters[name].ndim == 1} == set()
    matrices = {name.rpartition('model.')[2] for name in free if parameters[name].ndim > 1}
    assert matrices == {
        'pixel_level_module.decoder.level_embed',
        'transformer_module.level_embed.weight',
        'transformer_module.queries_embedder.weight',
        'transformer_module.queries_features.weight',
    }


def test_smp_encoder_is_the_encoder(deeplab: Network) -> None:
    assert isinstance(deeplab, SmpNetwork)
    assert encoder_of(deeplab) is deeplab.model.encoder
