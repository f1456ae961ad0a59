# SPDX-License-Identifier: Apache-2.0
"""The weights that come with the package: small, documented, and good for something."""

from functools import cache
from pathlib import Path

import pytest
from safetensors import safe_open

from segmentation_node.checkpoint import SPEC_FILE, Spec, bundled_models
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion
from segmentation_node.paths import bundled_models_dir
from segmentation_node.runtimes.choices import DEFAULT_MODEL
from segmentation_node.segmenter import Segmenter
from training.scenes.render import RenderedFrame, Renderer
from training.scenes.street import Street

MODELS = bundled_models()


@cache
def scene() -> list[RenderedFrame]:
    """Frames of two streets that no training run has seen."""
    renderer = Renderer(1024, 512)
    return [renderer.render(Street(seed), time_s) for seed in (4001, 4002) for time_s in (0, 3)]


def folder_of(model: str) -> Path:
    return bundled_models_dir() / model


def test_the_default_model_is_bundled() -> None:
    assert DEFAULT_MODEL in MODELS


@pytest.mark.parametrize('model', MODELS)
def test_weights_are_small_and_half_precision(model: str) -> None:
    weights = folder_of(model) / 'model.safetensors'
    assert weights.stat().st_size <= 25_000_000
    with safe_open(weights, 'pt') as content:
        kinds = {str(content.get_tensor(name).dtype) for name in content.keys()}  # noqa: SIM118
    assert kinds <= {'torch.float16', 'torch.int64'}


@pytest.mark.parametrize('model', MODELS)
def test_the_card_states_data_recipe_and_every_figure(model: str) -> None:
    spec = Spec.read(folder_of(model) / SPEC_FILE)
    card = (folder_of(model) / 'README.md').read_text(encoding='utf-8')
    assert 'Brostow' in card
    assert 'learning_rate' in card
    for metrics in spec.provenance['metrics'].values():
        assert f'{metrics["miou"]:.4f}' in card
        for name, iou in metrics['class_iou'].items():
            assert f'| {name} | {iou:.4f} |' in card


@pytest.mark.parametrize('model', MODELS)
def test_a_street_is_recognised(model: str) -> None:
    segmenter = Segmenter(model)
    truth_of_id = load_scheme('cityscapes34').mapping_to(segmenter.scheme)
    confusion = Confusion()
    for frame in scene():
        found = segmenter.segment([frame.image_rgb])
        confusion.add(truth_of_id[frame.label_ids], found.labels[0])
    scores = confusion.scores(segmenter.scheme)
    assert scores.pixel_accuracy() > 0.8, scores.class_iou()
    assert scores.class_iou()['flat'] > 0.8
    # Void, the car's own bonnet, is one of the categories here.
    found_of = scores.category_iou_with_void()
    assert 'void' in found_of
    assert min(found_of.values()) > 0.3, found_of
