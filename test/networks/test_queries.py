# SPDX-License-Identifier: Apache-2.0
"""Merging of queries against the library's post-processing, and against all masks in full."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from panoptic_models import INSTANCE, PANOPTIC, picture, write_hub_model
from transformers import Mask2FormerImageProcessor

from segmentation_node.arrays import Float32Array, UInt8Array
from segmentation_node.checkpoint import find_checkpoint
from segmentation_node.errors import CheckpointError, ScoresError
from segmentation_node.instances import DEFAULT_THRESHOLDS, Thresholds
from segmentation_node.networks.confidence import confidence_table
from segmentation_node.networks.postprocessing import Segmentation
from segmentation_node.networks.preprocessing import Geometry
from segmentation_node.networks.queries import MAX_QUERIES, QueriesDecoder

VOID = 255
#: Ids of three channels, of which the first is not countable.
IDS = np.array([7, 24, 26], np.uint8)


def decoder(task: str) -> QueriesDecoder:
    countable = np.array([False, True, True])
    return QueriesDecoder(task, IDS, countable, VOID, confidence_table(1))


def decode(
    task: str,
    classes: Float32Array,
    masks: Float32Array,
    geometry: Geometry | None = None,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Segmentation:
    size = (masks.shape[1], masks.shape[2])
    plan = geometry or Geometry(size, size, size)
    return decoder(task)((classes, masks, np.zeros(3, np.float32)), plan, thresholds)


def logits_of(*channels: int, certainty: float = 9.0) -> Float32Array:
    """Class logits of queries, (Q, 4), each certain of a channel; 3 is no object."""
    return certainty * np.eye(4, dtype=np.float32)[list(channels)]


# Literal cases


def test_panoptic_pixels_belong_to_the_best_query() -> None:
    masks = np.array(
        [[[9, 9, 9, 9]], [[-9, -9, 12, 9]], [[12, -9, -9, -9]], [[9, 9, 9, 9]]], np.float32
    )
    found = decode('panoptic', logits_of(0, 1, 1, 3), masks, thresholds=Thresholds(0.5, 0.2))
    assert found.labels.tolist() == [[24, 7, 24, 7]]
    assert found.instances is not None
    assert found.instances.ids.tolist() == [[2, 0, 1, 0]]
    assert [(s.class_id, s.box) for s in found.instances.segments] == [
        (24, (2, 0, 1, 1)), (24, (0, 0, 1, 1)),
    ]  # fmt: skip
    assert found.confidence.min() >= 254


def test_a_segment_mostly_covered_by_better_ones_is_dropped() -> None:
    masks = np.array([[[9, 9, 9, 9, -9]], [[-9, 8, 8, 8, 8]]], np.float32)
    classes = np.stack([logits_of(1)[0], logits_of(2, certainty=5)[0]])
    strict = decode('panoptic', classes, masks)
    assert strict.labels.tolist() == [[24, 24, 24, 24, VOID]]
    lenient = decode('panoptic', classes, masks, thresholds=Thresholds(0.5, 0.2))
    assert lenient.labels.tolist() == [[24, 24, 24, 24, 26]]
    assert lenient.instances is not None
    assert lenient.instances.ids.tolist() == [[1, 1, 1, 1, 2]]


def test_queries_of_one_class_without_instances_are_one_area() -> None:
    masks = np.array([[[9, 9, -9, -9]], [[-9, -9, 9, 9]]], np.float32)
    found = decode('panoptic', logits_of(0, 0), masks)
    assert found.labels.tolist() == [[7, 7, 7, 7]]
    assert found.instances is not None
    assert not found.instances.ids.any()
    assert found.instances.segments == ()


def test_an_instance_is_scored_by_class_and_mask() -> None:
    masks = np.array([[[2.0, 2.0, -99]], [[-99, 0.4, 0.4]]], np.float32)
    found = decode('instance', logits_of(1, 2), masks)
    assert found.instances is not None
    assert found.instances.ids.tolist() == [[1, 1, 2]]
    class_share = np.exp(9) / (np.exp(9) + 3)
    expected = [class_share / (1 + np.exp(-2.0)), class_share / (1 + np.exp(-0.4))]
    assert found.instances.scores == pytest.approx(expected, abs=1e-6)
    assert found.labels.tolist() == [[24, 24, 26]]
    fewer = decode('instance', logits_of(1, 2), masks, thresholds=Thresholds(0.7))
    assert fewer.labels.tolist() == [[24, 24, VOID]]


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
@pytest.mark.parametrize('stride', [1, 4])
def test_an_image_without_objects_is_void(task: str, stride: int) -> None:
    size = (3 * stride, 5 * stride)
    masks = np.full((2, 3, 5), 9, np.float32)
    found = decode(task, logits_of(3, 3), masks, Geometry(size, size, size))
    assert (found.labels == VOID).all()
    assert (found.confidence == 0).all()
    assert found.instances is not None
    assert found.instances.segments == ()


def test_more_queries_than_numbers() -> None:
    count = MAX_QUERIES + 40
    masks = np.full((count, 1, count), -9, np.float32)
    masks[np.arange(count), 0, np.arange(count)] = 9
    classes = logits_of(*[1] * count)
    classes[40:] += np.array([0, 1, 0, 0])  # the last ones are the best
    found = decode('panoptic', classes, masks)
    assert found.instances is not None
    assert len(np.unique(found.instances.ids[0, 40:])) == MAX_QUERIES
    assert len(found.instances.segments) == MAX_QUERIES


@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_logits_that_are_not_finite(task: str) -> None:
    classes, masks = logits_of(1, 2), np.full((2, 3, 5), 9, np.float32)
    classes[0, 0] = np.nan
    with pytest.raises(ScoresError, match='not finite'):
        decode(task, classes, masks)


def test_the_graph_of_a_semantic_model() -> None:
    outputs = (np.zeros((8, 3, 5), np.float32), np.zeros(3, np.float32))
    plan = Geometry((3, 5), (3, 5), (3, 5))
    with pytest.raises(CheckpointError, match='queries of a panoptic model; export it again'):
        decoder('panoptic')(outputs, plan, Thresholds())


# All masks in full


def in_full(
    task: str, classes: Float32Array, masks: Float32Array, plan: Geometry, limits: Thresholds
) -> UInt8Array:
    """Labels as published: every mask is enlarged to the image."""
    height, width = plan.image_hw
    shares = torch.from_numpy(classes).softmax(1)
    logits = torch.nn.functional.interpolate(
        torch.from_numpy(masks)[None], plan.padded_hw, mode='bilinear', align_corners=False
    )[0, :, :height, :width]
    labels = np.full(plan.image_hw, VOID, np.uint8)
    if task == 'instance':
        scores, channels = shares[:, :-1].max(1)
        for query in range(len(masks)):
            rows = -(-masks.shape[1] * height // plan.padded_hw[0])
            columns = -(-masks.shape[2] * width // plan.padded_hw[1])
            inside = torch.nn.functional.interpolate(
                torch.from_numpy(masks[None, [query], :rows, :columns]),
                scale_factor=4.0,
                mode='bilinear',
            )
            inside = inside[inside > 0].sigmoid()
            scores[query] *= inside.mean() if len(inside) else 0
        for query in scores.argsort().tolist():
            if scores[query] >= limits.score and scores[query] > 0:
                labels[(logits[query] > 0).numpy()] = IDS[channels[query]]
        return labels
    scores, channels = shares.max(1)
    real = ((channels < 3) & (scores > limits.score)).nonzero()[:, 0]
    values = logits[real].sigmoid() * scores[real, None, None]
    winners = values.argmax(0) if len(real) else torch.zeros(plan.image_hw)
    for index, query in enumerate(real.tolist()):
        won, mask = winners.eq(index), values[index] >= 0.5
        if mask.sum() and won.sum() > limits.overlap * mask.sum():
            labels[won.numpy()] = IDS[channels[query]]
    return labels


@given(
    task=st.sampled_from(['panoptic', 'instance']),
    seed=st.integers(0, 2**31),
    queries=st.integers(1, 6),
    grid=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    stride=st.sampled_from([1, 2, 4, 5]),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    limits=st.tuples(st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([0.0, 0.3])),
)
def test_any_masks_are_merged_as_if_all_were_enlarged(
    task: str,
    seed: int,
    queries: int,
    grid: tuple[int, int],
    stride: int,
    cut: tuple[int, int],
    limits: tuple[float, float],
) -> None:
    draw = np.random.default_rng(seed)
    masks = draw.normal(0, 3, (queries, *grid)).astype(np.float32)
    classes = draw.normal(0, 2, (queries, 4)).astype(np.float32)
    padded = (grid[0] * stride, grid[1] * stride)
    image = (max(1, padded[0] - cut[0]), max(1, padded[1] - cut[1]))
    plan, thresholds = Geometry(image, padded, padded), Thresholds(*limits)
    found = decode(task, classes, masks, plan, thresholds)
    expected = in_full(task, classes, masks, plan, thresholds)
    assert found.labels.shape == found.confidence.shape == image
    # Of interpolated logits another query may win between four scores that agree; a panoptic
    # segment at the limit of its overlap may then go either way.
    if task == 'instance':
        assert (found.labels == expected).mean() > 0.99
    assert found.instances is not None
    ids, class_ids = found.instances.ids, found.instances.class_ids
    has_one = ids > 0
    assert (found.labels[has_one] == class_ids[ids[has_one].astype(int) - 1]).all()
    assert (has_one == np.isin(found.labels, IDS[1:])).all()


@pytest.mark.parametrize('padded', [(64, 96), (61, 93)])  # on and off the grid of the masks
@pytest.mark.parametrize('task', ['panoptic', 'instance'])
def test_large_segments_are_merged_as_if_all_were_enlarged(
    task: str, padded: tuple[int, int]
) -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        coarse = torch.randn((1, 6, 4, 6), generator=draw) * 6
        masks = torch.nn.functional.interpolate(coarse, (16, 24), mode='bicubic')[0].numpy()
        classes = (torch.randn((6, 4), generator=draw) * 4).numpy()
        plan = Geometry((60, 90), padded, padded)
        limits = Thresholds(0.5, 0.1)
        found = decode(task, classes, masks, plan, limits)
        expected = in_full(task, classes, masks, plan, limits)
        assert (found.labels == expected).mean() > 0.998


# The library


@pytest.mark.parametrize('limits', [(0.5, 0.8), (0.5, 0.2), (0.3, 0.1)])
@pytest.mark.parametrize('name', [PANOPTIC, INSTANCE])
def test_hub_models_have_the_segments_of_the_library(
    name: str, limits: tuple[float, float], tmp_path: Path
) -> None:
    """The library works at 384 x 384 pixels, to which the hub's processors scale all images."""
    checkpoint = find_checkpoint(str(write_hub_model(tmp_path / name)))
    graph, library = checkpoint.load_graph(), Mask2FormerImageProcessor()
    plan, thresholds = graph.geometry((384, 384)), Thresholds(*limits)
    seen = set()
    for seed in range(3):
        with torch.inference_mode():
            parts = graph.outputs(torch.from_numpy(picture(seed)[None]), plan)
        out = SimpleNamespace(class_queries_logits=parts[0], masks_queries_logits=parts[1])
        found = checkpoint.decoder([part[0].numpy() for part in parts], plan, thresholds)
        assert found.instances is not None
        segments, scores = of_library(library, name, out, thresholds)
        labels = np.full((384, 384), checkpoint.scheme.void_id, np.uint8)
        for mask, channel in segments:
            labels[mask] = checkpoint.channel_ids[channel]
        assert (found.labels == labels).mean() > 0.995
        ids = found.instances.ids
        for mask, channel in segments:
            if checkpoint.scheme.countable_of(checkpoint.channel_ids[[channel]])[0]:
                values, pixels = np.unique(ids[mask], return_counts=True)
                assert pixels.max() > 0.98 * mask.sum()
                assert values[pixels.argmax()] > 0
        seen |= {int(id_) for id_ in np.unique(found.labels)}
        assert all(np.abs(scores - s.score).min() < 1e-2 for s in found.instances.segments)
    assert len(seen) > 2


def test_at_another_size_only_edges_differ_from_the_library(tmp_path: Path) -> None:
    """The library repeats pixels of masks of 384 x 384; otherwise the instances are equal."""
    checkpoint = find_checkpoint(str(write_hub_model(tmp_path / INSTANCE)))
    graph, library = checkpoint.load_graph(), Mask2FormerImageProcessor()
    size = (256, 512)
    plan = graph.geometry(size)
    with torch.inference_mode():
        parts = graph.outputs(torch.from_numpy(picture(0, *size)[None]), plan)
    found = checkpoint.decoder([part[0].numpy() for part in parts], plan, DEFAULT_THRESHOLDS)
    out = SimpleNamespace(class_queries_logits=parts[0], masks_queries_logits=parts[1])
    segments, _ = of_library(library, INSTANCE, out, DEFAULT_THRESHOLDS, size)
    labels = np.full(size, checkpoint.scheme.void_id, np.uint8)
    for mask, channel in segments:
        labels[mask] = checkpoint.channel_ids[channel]
    assert len(np.unique(labels)) > 2
    square = np.ones((9, 9), np.uint8)
    inside = cv2.erode(labels, square) == cv2.dilate(labels, square)
    assert inside.mean() > 0.3
    assert (found.labels == labels)[inside].mean() > 0.999


def of_library(
    library: Any,
    name: str,
    out: Any,
    limits: Thresholds,
    size: tuple[int, int] = (384, 384),
) -> tuple[list[tuple[Any, int]], Float32Array]:
    """Visible mask and channel of each segment, and the scores."""
    if name == PANOPTIC:
        [found] = library.post_process_panoptic_segmentation(
            out, limits.score, 0.5, limits.overlap, set(), [size]
        )
        masks = [found['segmentation'].numpy() == s['id'] for s in found['segments_info']]
    else:
        # Masks may overlap. In its map, one in an arbitrary order is above the others.
        [found] = library.post_process_instance_segmentation(
            out, limits.score, target_sizes=[size], return_binary_maps=True
        )
        masks = list(found['segmentation'].numpy() == 1)
    infos = found['segments_info']
    order = sorted(range(len(masks)), key=lambda index: -infos[index]['score'])
    free = np.ones(size, np.bool_)
    visible = []
    for index in order:
        mask = masks[index] & free
        free &= ~mask
        if mask.any():
            visible.append((mask, infos[index]['label_id']))
    return visible, np.array([s['score'] for s in infos], np.float32)
