# SPDX-License-Identifier: Apache-2.0
"""Deciding cell by cell gives what deciding pixel by pixel gives."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.errors import ScoresError
from segmentation_node.networks.confidence import TEMPERATURES, confidence_table
from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.postprocessing import postprocess
from segmentation_node.networks.preprocessing import Geometry, Preprocessing

IDS = np.array([7, 0, 255, 3, 12, 5], np.uint8)


#: Confidence of temperature 1: that of the scores.
UNCHANGED = confidence_table(1)


def in_full(scores: Float32Array, geometry: Geometry, temperature: float) -> list[UInt8Array]:
    """Labels and confidence as the graph has them: all scores enlarged, then compared."""
    ids = torch.from_numpy(IDS[: len(scores)])
    network = nn.Identity()
    graph = SegmentationGraph(network, Preprocessing(), ids, temperature)  # type: ignore[arg-type]
    found = graph.postprocess(torch.from_numpy(scores)[None], geometry)
    return [part[0].numpy() for part in found]


def drawn(seed: int, shape: tuple[int, int, int], blur: int) -> Float32Array:
    """Shares of classes, in larger areas the more they are blurred."""
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, *shape)))
    for _ in range(blur):
        noise = nn.functional.avg_pool2d(noise, 3, 1, 1) * 2
    return (noise * 3).softmax(1)[0].float().numpy()


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)),
    stride=st.integers(1, 9),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    blur=st.integers(0, 3),
    temperature=st.floats(*TEMPERATURES) | st.just(1),
)
def test_any_grid_of_scores(
    seed: int,
    shape: tuple[int, int, int],
    stride: int,
    cut: tuple[int, int],
    blur: int,
    temperature: float,
) -> None:
    scores = drawn(seed, shape, blur)
    padded = (shape[1] * stride, shape[2] * stride)
    image = (max(1, padded[0] - cut[0]), max(1, padded[1] - cut[1]))
    check(scores, Geometry(image, padded, padded), temperature)


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)),
    padded=st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_scores_on_no_grid_of_pixels(
    seed: int, shape: tuple[int, int, int], padded: tuple[int, int]
) -> None:
    check(drawn(seed, shape, 1), Geometry(padded, padded, padded))


def check(scores: Float32Array, geometry: Geometry, temperature: float = 1) -> None:
    labels, confidence = in_full(scores, geometry, temperature)
    table = confidence_table(temperature)
    found = postprocess(scores, geometry, IDS, table)
    as_scored = postprocess(scores, geometry, IDS, UNCHANGED)
    assert np.array_equal(found.labels, as_scored.labels)
    assert np.array_equal(found.confidence, table[as_scored.confidence])
    assert found.labels.dtype == found.confidence.dtype == np.uint8
    assert found.labels.flags.c_contiguous
    assert found.confidence.flags.c_contiguous
    # A pixel where two classes tie may go either way, and a confidence be rounded either way.
    assert found.labels.shape == geometry.image_hw
    differ = found.labels != labels
    if differ.any():
        best = torch.nn.functional.interpolate(
            torch.from_numpy(scores)[None], geometry.padded_hw, mode='bilinear'
        )[0].topk(min(2, len(scores)), dim=0)
        gap = (best.values[0] - best.values[-1]).numpy()
        assert (gap[: differ.shape[0], : differ.shape[1]][differ] < 1e-5).all()
    step = np.diff(table.astype(int)).max()
    assert np.abs(found.confidence.astype(int) - confidence).max() <= step


def test_a_class_that_wins_at_no_score_may_win_between_them() -> None:
    scores = np.array([[[0.6, 0.0]], [[0.0, 0.6]], [[0.4, 0.4]]], np.float32)
    found = postprocess(
        scores, Geometry((4, 8), (4, 8), (4, 8)), np.array([1, 2, 3], np.uint8), UNCHANGED
    )
    assert found.labels[0].tolist() == [1, 1, 1, 3, 3, 2, 2, 2]
    assert found.confidence[0].tolist() == [153, 153, 134, 102, 102, 134, 153, 153]


def test_one_class_everywhere() -> None:
    scores = np.stack([np.full((2, 3), 0.25), np.full((2, 3), 0.75)]).astype(np.float32)
    found = postprocess(
        scores, Geometry((8, 12), (8, 12), (8, 12)), np.array([9, 4], np.uint8), UNCHANGED
    )
    assert (found.labels == 4).all()
    assert (found.confidence == 191).all()


@pytest.mark.parametrize('stride', [1, 4])
def test_the_first_of_equal_classes_wins(stride: int) -> None:
    scores = np.full((3, 2, 2), 0.5, np.float32)
    scores[0] = 0.25
    size = (2 * stride, 2 * stride)
    assert (postprocess(scores, Geometry(size, size, size), IDS, UNCHANGED).labels == IDS[1]).all()


@pytest.mark.parametrize('stride', [1, 4])
def test_a_sum_of_scores_above_one_is_certain(stride: int) -> None:
    scores = np.full((2, 4, 4), 1.5, np.float32)
    size = (4 * stride, 4 * stride)
    assert (
        postprocess(scores, Geometry(size, size, size), IDS, UNCHANGED).confidence == 255
    ).all()


#: Decides at once and then does nothing; prints the seconds of all cores meanwhile.
_REST = """
import time
import numpy as np
from segmentation_node.networks.postprocessing import postprocess
from segmentation_node.networks.preprocessing import Geometry

def rest():
    before = time.process_time()
    time.sleep(0.1)
    return time.process_time() - before

scores = np.random.default_rng(0).random((8, 128, 256), np.float32)
table = np.arange(256, dtype=np.uint8)
while rest() > 0.01:  # the threads of BLAS are also awake for a while when they are made
    pass
size = (512, 1024)
postprocess(scores, Geometry(size, size, size), np.arange(8, dtype=np.uint8), table)
print(rest())
"""


def test_no_core_is_busy_when_all_is_decided() -> None:
    """Threads that wait for more at full speed made the next network run take twice as long."""
    rest = subprocess.run([sys.executable, '-c', _REST], stdout=subprocess.PIPE, check=True)
    assert float(rest.stdout) < 0.01


@pytest.mark.parametrize('bad', [np.nan, np.inf])
@pytest.mark.parametrize('stride', [1, 4])
@pytest.mark.parametrize('channel', [0, 2])
def test_scores_that_say_nothing_give_no_labels(bad: float, stride: int, channel: int) -> None:
    scores = np.full((3, 8, 8), 1 / 3, np.float32)
    scores[channel, 5, 2] = bad
    geometry = Geometry((8 * stride, 8 * stride), (8 * stride, 8 * stride), (32, 32))
    with pytest.raises(ScoresError, match='are not finite'):
        postprocess(scores, geometry, np.arange(3, dtype=np.uint8), UNCHANGED)
