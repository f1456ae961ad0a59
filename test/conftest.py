# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from segmentation_node.models.mask2former import Mask2Former

# Machines that run tests are busy: how long an example takes says nothing about the code.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')


@pytest.fixture(scope='session', autouse=True)
def cache_of_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted graphs, also those of processes that tests start, stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepLabV3+ folder with random weights, complete and quick to load."""
    import torch

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.models.smp import DeepLabV3Plus

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('tiny_deeplabv3plus')
    config = {'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8}
    spec = Spec('deeplabv3plus', 'cityscapes8')
    save_checkpoint(folder, DeepLabV3Plus(config), spec, '# Tiny\n')
    return folder


def spread_queries(network: 'Mask2Former') -> None:
    """Make each query find other pixels and another class: untrained ones are all alike."""
    import torch

    model: Any = network.model
    transformer = model.model.transformer_module
    with torch.no_grad():
        for name, std in (
            ('queries_features.weight', 3.0),
            ('queries_embedder.weight', 3.0),
            ('decoder.mask_predictor.mask_embedder.2.0.weight', 4.0),
        ):
            torch.nn.init.normal_(transformer.get_parameter(name), std=std)
        out = model.eval().model(pixel_values=torch.randn(1, 3, 64, 96))
        queries = out.transformer_decoder_last_hidden_state[0]  # (Q, D)
        classes = model.class_predictor
        wanted = torch.eye(classes.out_features)[torch.arange(len(queries)) % classes.out_features]
        mean = queries.mean(0)
        classes.weight.copy_((torch.linalg.pinv(queries - mean) @ (8 * wanted - 4)).T)
        classes.bias.copy_(-classes.weight @ mean)


@pytest.fixture(scope='session')
def tiny_mask2former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask2Former folder with a small ResNet and random weights."""
    import torch
    from transformers import AutoConfig, Mask2FormerConfig

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.labels import load_scheme
    from segmentation_node.models.mask2former import Mask2Former

    torch.manual_seed(0)
    stages = ['stage1', 'stage2', 'stage3', 'stage4']
    network = Mask2Former(
        Mask2FormerConfig(
            backbone_config=AutoConfig.for_model(
                'resnet', embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4,
                layer_type='basic', out_features=stages,
            ),
            feature_size=32, mask_feature_size=32, hidden_dim=32, num_attention_heads=2,
            encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, dim_feedforward=32,
            num_queries=12,
            id2label={i: c.name for i, c in enumerate(load_scheme('cityscapes8').learned)},
        )
    )  # fmt: skip
    spread_queries(network)
    folder = tmp_path_factory.mktemp('tiny_mask2former')
    save_checkpoint(folder, network, Spec('mask2former', 'cityscapes8'), '# Tiny\n')
    return folder


@pytest.fixture
def other_scheme(tmp_path: Path) -> Path:
    """File of a scheme "driveable": void is 9, the other 7 categories are 20 to 26 in order."""
    scheme = tmp_path / 'driveable.yaml'
    scheme.write_text(
        'classes:\n'
        '  - {id: 9, name: rest, color: [0, 0, 0], category: void, void: true}\n'
        + ''.join(
            f'  - {{id: {20 + i}, name: {name}, color: [1, 2, {i}], category: {name}}}\n'
            for i, name in enumerate(
                ('flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle')
            )
        )
    )
    return scheme
