# SPDX-License-Identifier: Apache-2.0
"""Tests of inference modes on real, tiny networks."""

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from fitted_model import write_fitted_model
from hypothesis import given
from hypothesis import strategies as st
from training_data import street

from segmentation_node.checkpoint import Spec, load_checkpoint, save_checkpoint
from segmentation_node.errors import SettingError
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.runtimes.torch_runtime import TorchRuntime
from segmentation_node.segmenter import Prediction, Segmenter
from training.inference_modes import WHOLE, InferenceMode, spans

IMAGE, _ = street(0)


def load(folder: Path, **settings: Any) -> Segmenter:
    return Segmenter(str(folder), runtime='torch', device='cpu', precision='fp32', **settings)


@pytest.fixture(scope='module')
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint that predicts several classes."""
    return write_fitted_model(tmp_path_factory.mktemp('fitted'))


@pytest.fixture(scope='module')
def segmenter(fitted: Path) -> Segmenter:
    return load(fitted)


def same(one: Prediction, other: Prediction) -> bool:
    """Check that labels are equal and confidences differ by at most one byte.

    Segmenting an image computes fewer pixels than choosing classes from scores, and adds them in
    another order.
    """
    difference = np.abs(one.confidence.astype(int) - other.confidence)
    return bool((one.labels == other.labels).all() and difference.max() <= 1)


def engine_of(segmenter: Segmenter) -> TorchRuntime:
    assert isinstance(segmenter.engine, TorchRuntime)
    return segmenter.engine


def test_classes_chosen_from_scores_are_those_of_segment(segmenter: Segmenter) -> None:
    found, engine = segmenter.segment([IMAGE, IMAGE[::-1]]), engine_of(segmenter)
    scores = engine.class_scores(np.stack([IMAGE, IMAGE[::-1]]))
    assert scores.shape == (2, 8, 64, 96)
    assert same(segmenter.publish(engine.postprocess(scores)), found)
    assert len(np.unique(found.labels)) > 2


def test_scores_are_published_with_scheme_and_min_confidence(fitted: Path) -> None:
    categories = load(fitted, min_confidence=0.4)
    found, engine = categories.segment([IMAGE]), engine_of(categories)
    scores = engine.class_scores(IMAGE[None])
    assert same(categories.publish(engine.postprocess(scores)), found)
    assert (found.labels[found.confidence < 102] == 0).all()


def test_modes_of_several_views_need_torch(fitted: Path) -> None:
    on_openvino = Segmenter(str(fitted), runtime='openvino', precision='fp32')
    with pytest.raises(SettingError, match=r"'openvino' returns labels only.*use runtime torch"):
        InferenceMode(flip=True).predict(on_openvino, IMAGE)


def test_whole_is_what_the_node_does(segmenter: Segmenter) -> None:
    assert WHOLE.name == 'whole'
    assert same(WHOLE.predict(segmenter, IMAGE), segmenter.segment([IMAGE]))


@pytest.mark.parametrize('window_hw', [(64, 96), (500, 700)])
@pytest.mark.parametrize('size_hw', [None, (32, 48), (50, 50)])
def test_a_window_as_large_as_the_image_is_the_whole(
    fitted: Path, tmp_path: Path, window_hw: tuple[int, int], size_hw: tuple[int, int] | None
) -> None:
    network = load_checkpoint(str(fitted)).load_network()
    spec = Spec('deeplabv3plus', 'cityscapes8', Preprocessing(size_hw=size_hw))
    save_checkpoint(tmp_path, network, spec, '# Tiny\n')
    boxed = load(tmp_path)
    sliding = InferenceMode(window_hw)
    assert same(sliding.predict(boxed, IMAGE), boxed.segment([IMAGE]))


def test_smaller_windows_see_something_else(segmenter: Segmenter) -> None:
    found = InferenceMode((32, 48)).predict(segmenter, IMAGE)
    assert found.labels.shape == found.confidence.shape == (1, 64, 96)
    assert not same(found, segmenter.segment([IMAGE]))


class NumberingEngine:
    """Stand-in for an engine: the score of a window is its number; records the windows."""

    def __init__(self) -> None:
        self.windows: list[Any] = []
        self.scales: list[float] = []

    def class_scores(self, images_rgb: Any, scale: float) -> torch.Tensor:
        self.windows.append(images_rgb[0])
        self.scales.append(scale)
        height, width = images_rgb.shape[1:3]
        return torch.full((1, 1, height, width), float(len(self.windows)))


def recorded_run(
    mode: InferenceMode, image: Any, scale: float = 1.0
) -> tuple[NumberingEngine, torch.Tensor]:
    engine = NumberingEngine()
    return engine, mode.scores(cast('TorchRuntime', engine), image, scale)


def columns(width: int) -> Any:
    return np.tile(np.arange(width, dtype=np.uint8)[None, :, None], (2, 1, 3))


def test_windows_are_averaged_where_they_overlap() -> None:
    found, scores = recorded_run(InferenceMode((2, 4), overlap=0.5), columns(6))
    assert [window[0, :, 0].tolist() for window in found.windows] == [[0, 1, 2, 3], [2, 3, 4, 5]]
    assert scores[0, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_windows_are_measured_in_pixels_of_the_network() -> None:
    found, _ = recorded_run(InferenceMode((2, 4), overlap=0), columns(32), scale=0.25)
    assert [window.shape[1] for window in found.windows] == [16, 16]
    assert set(found.scales) == {0.25}
    at_double, _ = recorded_run(
        InferenceMode((2, 4), overlap=0, scales=(2,)), columns(32), scale=0.25
    )
    assert [window.shape[1] for window in at_double.windows] == [8, 8, 8, 8]
    assert set(at_double.scales) == {0.5}


def test_the_mirrored_view_is_turned_back(segmenter: Segmenter) -> None:
    found, _ = recorded_run(InferenceMode(flip=True), columns(3))
    assert [view[0, :, 0].tolist() for view in found.windows] == [[0, 1, 2], [2, 1, 0]]
    # An image and its mirror image have the same two views, so their means are mirror images.
    mirror = np.ascontiguousarray(IMAGE[:, ::-1])
    both = InferenceMode(flip=True)
    one, other = both.predict(segmenter, IMAGE), both.predict(segmenter, mirror)
    assert (one.labels == other.labels[:, :, ::-1]).all()
    assert (one.confidence == other.confidence[:, :, ::-1]).all()
    once = segmenter.segment([IMAGE]), segmenter.segment([mirror])
    assert (once[0].labels != once[1].labels[:, :, ::-1]).any()


def test_scales_are_averaged(segmenter: Segmenter) -> None:
    assert same(
        InferenceMode(scales=(1.0, 1.0)).predict(segmenter, IMAGE), segmenter.segment([IMAGE])
    )
    engine = engine_of(segmenter)
    half, double = (engine.class_scores(IMAGE[None], s) for s in (0.5, 2.0))
    expected = segmenter.publish(engine.postprocess((half + double) / 2))
    found = InferenceMode(scales=(0.5, 2.0)).predict(segmenter, IMAGE)
    assert same(found, expected)
    assert not same(found, segmenter.segment([IMAGE]))


def test_scales_are_relative_to_the_checkpoint(fitted: Path) -> None:
    boxed = load(fitted, input_size=(32, 48))
    assert boxed.scale((64, 96)) == 0.5
    assert load(fitted).scale((64, 96)) == 1
    double = InferenceMode(scales=(2.0,)).predict(boxed, IMAGE)
    assert same(double, load(fitted).segment([IMAGE]))


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({'window_hw': (0, 5)}, r'window \(0, 5\) must be \(height, width\), both above 0'),
        ({'overlap': 1.0}, r'overlap 1.0 must be in \[0, 1\)'),
        ({'overlap': -0.1}, r'overlap -0.1 must be'),
        ({'scales': ()}, r'scales \(\) must be at least one number'),
        ({'scales': (1.0, 0.0)}, 'each above 0 and at most 4'),
        ({'scales': (5.0,)}, 'at most 4'),
        ({'scales': (float('nan'),)}, 'at most 4'),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        InferenceMode(**settings)


def test_modes_are_named_in_words() -> None:
    mode = InferenceMode((256, 352), 0.5, (0.5, 1.0), flip=True)
    assert mode.name == 'sliding window 256 x 352, overlap 0.50, scales 0.5 1, mirrored, too'


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 0.95))
def test_windows_cover_a_side_and_overlap(length: int, window: int, overlap: float) -> None:
    found = list(spans(length, window, overlap))
    size = min(window, length)
    assert {span.stop - span.start for span in found} == {size}
    assert found[0].start == 0
    assert found[-1].stop == length
    for one, other in pairwise(found):
        assert one.start < other.start <= one.stop
        # At least the overlap, except for rounding to pixels.
        assert one.stop - other.start >= size * overlap - 1
    assert len(found) == 1 or size < length
