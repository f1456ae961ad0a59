# SPDX-License-Identifier: Apache-2.0
"""Our way through a Mask2Former against the library's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import spread_queries
from test_checkpoint import HUB_CONFIG
from test_families import smooth_pixels
from torch import Tensor
from training_data import MASK2FORMER
from transformers import Mask2FormerConfig

from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.mask2former_inference import last_layer
from segmentation_node.runtimes.conversion import to_onnx

#: What a configuration may ask for beside its backbone.
OTHERWISE: dict[str, dict[str, Any]] = {
    'plain': {},
    'norms before': {'pre_norm': True},
    'projected': {'enforce_input_projection': True, 'hidden_dim': 16, 'mask_feature_size': 48},
    'two more maps': {'feature_strides': [4, 4, 8, 16, 32], 'common_stride': 4},
    'many layers': {'decoder_layers': 6, 'encoder_layers': 3, 'activation_function': 'gelu'},
}


def network_of(config: dict[str, Any]) -> Mask2Former:
    torch.manual_seed(0)
    names = {str(i): f'class {i}' for i in range(8)}
    network = Mask2Former(Mask2FormerConfig.from_dict(config | {'id2label': names}))
    spread_queries(network)
    return network.eval()


@pytest.fixture(scope='module', params=['resnet', 'swin'])
def network(request: pytest.FixtureRequest) -> Mask2Former:
    return network_of(MASK2FORMER if request.param == 'resnet' else HUB_CONFIG)


def assert_as_library(network: Mask2Former, pixels: Tensor) -> None:
    classes, masks, _ = last_layer(network.model, pixels)
    out = network.model(pixel_values=pixels)
    assert len(out.class_queries_logits[0].argmax(-1).unique()) > 2
    for ours, theirs in ((classes, out.class_queries_logits), (masks, out.masks_queries_logits)):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize('shape', [(1, 64, 96), (2, 32, 32), (2, 96, 160), (1, 224, 32)])
@torch.inference_mode()
def test_logits_are_those_of_the_library(
    network: Mask2Former, shape: tuple[int, int, int]
) -> None:
    assert_as_library(network, smooth_pixels(*shape))


@pytest.mark.parametrize('changes', OTHERWISE.values(), ids=OTHERWISE)
@torch.inference_mode()
def test_configurations(changes: dict[str, Any]) -> None:
    assert_as_library(network_of(MASK2FORMER | changes), smooth_pixels(2, 64, 96))


@torch.inference_mode()
def test_a_query_that_finds_nothing_looks_everywhere(network: Mask2Former) -> None:
    """All masks empty in every layer: else a softmax over nothing is not a number."""
    blind = network_of(network.model.config.to_dict())
    whole: Any = blind.model.model
    decoder = whole.transformer_module.decoder
    for parameter in decoder.mask_predictor.mask_embedder.layers[-1].parameters():
        parameter.zero_()
    decoder.mask_predictor.mask_embedder.layers[-1].layers[0].bias.fill_(1)
    projection = whole.pixel_level_module.decoder.mask_projection
    projection.weight.zero_()
    projection.bias.fill_(-1)
    classes, masks, _ = last_layer(blind.model, smooth_pixels(1, 64, 96))
    assert (masks < 0).all()
    assert classes.isfinite().all()
    out = blind.model(pixel_values=smooth_pixels(1, 64, 96))
    assert torch.allclose(classes, out.class_queries_logits, atol=1e-3)


def test_training_learns_from_the_layer_that_is_scored(network: Mask2Former) -> None:
    pixels = smooth_pixels(1, 64, 96)
    with torch.inference_mode():
        classes, masks = network.layers(pixels)[-1]
        scores = network(pixels)
        assert torch.allclose(scores, network.scores(classes, masks), atol=1e-4)


@torch.inference_mode()
def test_a_traced_graph_computes_the_same(network: Mask2Former) -> None:
    traced = torch.jit.trace(network, smooth_pixels(1, 64, 96), check_trace=False)
    other = smooth_pixels(1, 64, 96).flip(-1)
    assert torch.allclose(traced(other), network(other), atol=1e-5)


@torch.inference_mode()
def test_images_of_a_batch_do_not_meet(network: Mask2Former) -> None:
    pixels = smooth_pixels(3, 64, 96)
    alone = torch.cat([network(image[None]) for image in pixels])
    assert torch.allclose(network(pixels), alone, atol=1e-4)


@torch.inference_mode()
def test_onnx_runtime_computes_the_same(network: Mask2Former, tmp_path: Path) -> None:
    runtime = pytest.importorskip('onnxruntime')
    path = tmp_path / 'network.onnx'
    to_onnx(network, path)
    session = runtime.InferenceSession(path, providers=['CPUExecutionProvider'])
    for size in ((64, 96), (160, 64)):  # other ones than it was traced at
        pixels = smooth_pixels(1, *size)
        (found,) = session.run(['class_scores'], {'pixels': pixels.numpy()})
        assert np.allclose(found, network(pixels).numpy(), atol=1e-4)
