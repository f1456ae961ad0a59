# SPDX-License-Identifier: Apache-2.0
"""The networks against their libraries' own results."""

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
import torch
from conftest import spread_logits
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from segmentation_node.errors import CheckpointError
from segmentation_node.networks import FAMILIES, family_of_config, network_class
from segmentation_node.networks.families import class_names
from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.network import Network
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.networks.smp import DeepLabV3, DeepLabV3Plus, SmpNetwork, UNet

SMP_CONFIGS = {
    DeepLabV3Plus: {'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 5},
    UNet: {'encoder_name': 'resnet18', 'decoder_channels': [16, 8, 8, 8, 4], 'classes': 5},
    DeepLabV3: {'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 5},
}


@pytest.fixture(scope='module', params=SMP_CONFIGS, ids=lambda kind: kind.__name__)
def smp_network(request: pytest.FixtureRequest) -> SmpNetwork:
    torch.manual_seed(0)
    network_type: type[SmpNetwork] = request.param
    network = network_type(SMP_CONFIGS[network_type]).eval()
    spread_logits(network, smooth_pixels(2, 128, 192))
    return network


@pytest.fixture(scope='module')
def mask2former(tiny_mask2former: Path) -> Mask2Former:
    return Mask2Former.load(tiny_mask2former).eval()


def smooth_pixels(batch: int, height: int, width: int) -> Tensor:
    """(B, 3, H, W) float, normalised, with structure of many pixels in size."""
    coarse = torch.randn(
        batch, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(1)
    )
    return torch.nn.functional.interpolate(coarse, (height, width), mode='bicubic')


@torch.inference_mode()
def test_smp_scores_are_those_of_its_library(smp_network: SmpNetwork) -> None:
    """Only the library's own upsampling inside the model is left out."""
    pixels = smooth_pixels(2, 64, 96)
    upsampling = smp_network.model.segmentation_head[1]
    assert torch.equal(upsampling(smp_network.logits(pixels)), smp_network.model(pixels))
    scores = smp_network(pixels)
    assert torch.allclose(scores, smp_network.logits(pixels).softmax(1))
    assert torch.allclose(scores.sum(1), torch.ones(()))


def near_borders(labels: Tensor, reach: int) -> Tensor:
    """(B, H, W) bool: another label lies within `reach` pixels."""
    size, values = 2 * reach + 1, labels.float()
    highest = torch.nn.functional.max_pool2d(values, size, 1, reach)
    lowest = -torch.nn.functional.max_pool2d(-values, size, 1, reach)
    return highest != lowest


@torch.inference_mode()
def test_smp_labels_through_the_graph_are_those_of_its_library(smp_network: SmpNetwork) -> None:
    """They may differ along borders: the library upsamples logits, and with aligned corners."""
    images = smooth_pixels(2, 128, 192).mul(40).add(128).clamp(0, 255).byte()
    images = images.permute(0, 2, 3, 1).contiguous()
    preprocessing = Preprocessing()
    graph = SegmentationGraph(smp_network, preprocessing, torch.arange(5)).eval()
    labels, _ = graph(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    library = smp_network.model((images.permute(0, 3, 1, 2) / 255 - mean) / std).argmax(1)
    assert len(library.unique()) == 5
    differs = labels != library
    if isinstance(smp_network, UNet):  # its scores have the size of the image
        assert differs.sum() == 0
    assert differs.float().mean() < 0.2  # random weights make regions of a few pixels
    stride = 128 // smp_network.logits(smooth_pixels(1, 128, 192)).shape[2]
    assert not (differs & ~near_borders(library, max(3, stride))).any()


@torch.inference_mode()
def test_mask2former_scores_follow_from_its_queries(mask2former: Mask2Former) -> None:
    pixels = smooth_pixels(2, 96, 64)
    out = mask2former.model(pixel_values=pixels)
    by_hand = torch.zeros(2, 8, 24, 16)
    for image in range(2):
        for query in range(mask2former.model.config.num_queries):
            classes = out.class_queries_logits[image, query].softmax(-1)
            mask = out.masks_queries_logits[image, query].sigmoid()
            for channel in range(8):  # the ninth is "no object"
                by_hand[image, channel] += classes[channel] * mask
    scores = mask2former(pixels)
    assert scores.shape == (2, 8, 24, 16)
    assert by_hand.max() > 1  # queries may add up to more than certain
    assert torch.allclose(scores, by_hand, atol=1e-5)
    assert len(scores.argmax(1).unique()) > 1


@torch.inference_mode()
def test_mask2former_adds_up_its_queries_in_full_precision(mask2former: Mask2Former) -> None:
    """In bfloat16 a score has 256 steps up to 1: classes that are near would tie."""
    with torch.autocast('cpu', torch.bfloat16):
        scores = mask2former(smooth_pixels(1, 64, 64))
    assert scores.dtype == torch.float32
    assert len(scores.unique()) > 1000


@torch.inference_mode()
def test_mask2former_is_the_librarys_own_network(
    mask2former: Mask2Former, tiny_mask2former: Path
) -> None:
    library: Any = Mask2FormerForUniversalSegmentation.from_pretrained(tiny_mask2former)
    library.float().eval()
    pixels = smooth_pixels(1, 64, 64)
    assert torch.equal(
        library(pixel_values=pixels).masks_queries_logits,
        mask2former.model(pixel_values=pixels).masks_queries_logits,
    )


@torch.inference_mode()
def test_save_and_load_give_the_same_scores(
    smp_network: SmpNetwork, mask2former: Mask2Former, tmp_path: Path
) -> None:
    pixels = smooth_pixels(1, 64, 64)
    for network in (smp_network, mask2former):
        folder = tmp_path / type(network).__name__
        folder.mkdir()
        network.save(folder)
        loaded = type(network).load(folder).eval()
        assert torch.equal(loaded(pixels), network(pixels))
        assert {p.name for p in folder.iterdir()} == {'config.json', 'model.safetensors'}


@torch.inference_mode()
def test_smp_reads_what_we_write_and_we_what_smp_writes(
    smp_network: SmpNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    pixels = smooth_pixels(1, 64, 64)
    (tmp_path / 'ours').mkdir()
    smp_network.save(tmp_path / 'ours')
    library = smp.from_pretrained(str(tmp_path / 'ours')).eval()
    assert torch.equal(library(pixels), smp_network.model(pixels))
    library.save_pretrained(tmp_path / 'theirs')
    assert torch.equal(type(smp_network).load(tmp_path / 'theirs').eval()(pixels),
                       smp_network(pixels))  # fmt: skip


def test_half_precision_weights_are_loaded_as_single(tiny_mask2former: Path) -> None:
    loaded = Mask2Former.load(tiny_mask2former)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_channels(smp_network: SmpNetwork, mask2former: Mask2Former) -> None:
    assert smp_network.channels() == 5
    assert mask2former.channels() == 8


def test_names_of_a_saved_model(tiny_mask2former: Path) -> None:
    config = json.loads((tiny_mask2former / 'config.json').read_text(encoding='utf-8'))
    assert class_names(config) == [
        'void', 'flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle',
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('config', 'names'),
    [
        ({}, None),
        ({'id2label': None}, None),
        ({'id2label': ['road']}, None),
        ({'id2label': {'first': 'road'}}, None),
        # The library makes these up.
        ({'id2label': {str(i): f'LABEL_{i}' for i in range(8)}}, None),
        # In the order of their numbers.
        (
            {'id2label': {str(i): f'class {i}' for i in (10, 9, 2, 1)}},
            ['class 1', 'class 2', 'class 9', 'class 10'],
        ),
    ],
)
def test_class_names(config: dict[str, Any], names: list[str] | None) -> None:
    assert class_names(config) == names


@pytest.mark.parametrize('family', FAMILIES)
def test_every_family_has_a_class(family: str) -> None:
    assert issubclass(network_class(family), Network)


@pytest.mark.parametrize(
    ('config', 'family'),
    [
        ({'_model_class': 'DeepLabV3Plus'}, 'deeplabv3plus'),
        ({'_model_class': 'Unet'}, 'unet'),
        ({'_model_class': 'DeepLabV3'}, 'deeplabv3'),
        ({'model_type': 'mask2former'}, 'mask2former'),
    ],
)
def test_family_is_told_by_the_librarys_config(config: dict[str, str], family: str) -> None:
    assert family_of_config(Path('config.json'), config) == family


@pytest.mark.parametrize('config', [{'model_type': 'segformer'}, {}, {'model_type': ['x']}])
def test_config_of_no_family_is_answered_with_those_there_are(config: dict[str, str]) -> None:
    says = r'x/config\.json describes a model .*DeepLabV3Plus, Unet, mask2former'
    with pytest.raises(CheckpointError, match=says):
        family_of_config(Path('x/config.json'), config)


def test_unknown_family_is_answered_with_those_there_are() -> None:
    with pytest.raises(
        CheckpointError, match="'segformer'; use one of deeplabv3plus, mask2former"
    ):
        network_class('segformer')


def test_encoder_weights_are_never_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that names ImageNet weights must not make the library fetch them."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    DeepLabV3Plus(SMP_CONFIGS[DeepLabV3Plus]).save(tmp_path)
    path = tmp_path / 'config.json'
    config = json.loads(path.read_text(encoding='utf-8'))
    path.write_text(json.dumps(config | {'encoder_weights': 'imagenet'}), encoding='utf-8')
    DeepLabV3Plus.load(tmp_path)
