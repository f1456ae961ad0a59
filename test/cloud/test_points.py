# SPDX-License-Identifier: Apache-2.0
"""Tests of clouds: literal arrays, filters, sizes, colors, and organized clouds."""

import math
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.cloud.camera import Pinhole
from segmentation_node.cloud.geometry import CloudGeometry, DepthGeometry, decode_cloud
from segmentation_node.cloud.points import POINT, CloudBuilder, Pixels
from segmentation_node.cloud.selection import PointSelection
from segmentation_node.errors import CloudError, ImageError, SettingError
from segmentation_node.labels import load_scheme

SCHEME = load_scheme('cityscapes8')
FLAT, HUMAN, VOID = SCHEME.id_of('flat'), SCHEME.id_of('human'), SCHEME.void_id
LABELS = np.array([[FLAT, HUMAN], [VOID, FLAT]], np.uint8)
CONFIDENCE = np.array([[255, 128], [0, 127]], np.uint8)
INSTANCES = np.array([[0, 700], [0, 0]], np.uint16)
DEPTH = np.array([[1000, 2000], [3000, 0]], np.uint16)
CAMERA = Pinhole(1.0, 1.0, 0.0, 0.0, (2, 2))
PIXELS = Pixels(LABELS, SCHEME.palette, CONFIDENCE, INSTANCES)


def cloud(selection: PointSelection | None = None, pixels: Pixels = PIXELS, **more: Any) -> Any:
    selection = selection or PointSelection()
    ids = selection.ids(SCHEME) if selection.needs_scheme else None
    return CloudBuilder().build(DepthGeometry(DEPTH, CAMERA), pixels, selection, ids, **more)


def test_a_point_has_the_values_of_its_pixel() -> None:
    flat, human, void = cloud()
    assert flat.tolist() == (0.0, 0.0, 1.0, _packed('flat'), FLAT, 1.0, 0)
    assert human.tolist()[:5] == (2.0, 0.0, 2.0, _packed('human'), HUMAN)
    assert human['confidence'] == np.float32(128 / 255)
    assert human['instance'] == 700
    assert void.tolist() == (0.0, 3.0, 3.0, _packed('void'), VOID, 0.0, 0)


def _packed(name: str) -> int:
    red, green, blue = map(int, SCHEME.palette[SCHEME.id_of(name)])
    return red << 16 | green << 8 | blue


def test_an_organized_cloud_has_a_point_for_each_pixel() -> None:
    points = cloud(PointSelection(drop_classes=['human']), organized=True)
    assert points.shape == (2, 2)
    assert np.isnan(points['x']).tolist() == [[False, True], [False, True]]
    assert np.array_equal(np.isnan(points['z']), np.isnan(points['x']))
    assert points['label'].tolist() == LABELS.tolist()


def test_without_its_image_a_value_is_unknown() -> None:
    points = cloud(pixels=Pixels(LABELS))
    assert np.all(np.isnan(points['confidence']))
    assert points['instance'].tolist() == points['rgb'].tolist() == [0, 0, 0]


def test_colors_of_the_image_are_packed() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = (1, 2, 3)
    points = cloud(pixels=Pixels(LABELS, SCHEME.palette, image_rgb=image))
    assert points['rgb'].tolist() == [0, 0x010203, 0]


@pytest.mark.parametrize(
    ('selection', 'kept'),
    [
        (PointSelection(), [FLAT, HUMAN, VOID]),
        (PointSelection(['']), [FLAT, HUMAN, VOID]),
        (PointSelection(['human', str(VOID)]), [HUMAN, VOID]),
        (PointSelection(['human', 'flat'], ['flat']), [HUMAN]),
        (PointSelection(drop_classes=[str(FLAT)]), [HUMAN, VOID]),
        (PointSelection(drop_void=True), [FLAT, HUMAN]),
        (PointSelection(['void'], drop_void=True), []),
        (PointSelection(min_range=2.0), [HUMAN, VOID]),  # human is 2.83 m away, at a depth of 2 m
        (PointSelection(max_range=2.5), [FLAT]),
        (PointSelection(min_range=1.0, max_range=3.0), [FLAT, HUMAN]),
        (PointSelection(min_confidence=0.5), [FLAT, HUMAN]),
        (PointSelection(min_confidence=128 / 255), [FLAT, HUMAN]),
        (PointSelection(min_confidence=1.0), [FLAT]),
    ],
)
def test_filters_keep_what_they_say(selection: PointSelection, kept: list[int]) -> None:
    assert cloud(selection)['label'].tolist() == kept


@pytest.mark.parametrize('name', ['road', '99', '-1', 'x' * 1000])
def test_an_unknown_class_is_refused_with_those_that_exist(name: str) -> None:
    with pytest.raises(SettingError, match=r'it has void, flat.*; their ids are 0, 1, 2'):
        PointSelection([name]).ids(SCHEME)


def test_limits_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(SettingError, match='min_range is 3 and max_range is 2; increase'):
        PointSelection(min_range=3.0, max_range=2.0)


@given(
    depth=st.lists(st.integers(0, 3000), min_size=6, max_size=6),
    labels=st.lists(st.integers(0, 7), min_size=6, max_size=6),
    confidence=st.lists(st.integers(0, 255), min_size=6, max_size=6),
    least=st.integers(0, 100).map(lambda percent: percent / 100),
    nearest=st.floats(0, 2),
    drop=st.integers(0, 7),
)
def test_points_are_those_that_a_loop_selects(
    depth: list[int], labels: list[int], confidence: list[int], least: float, nearest: float,
    drop: int,
) -> None:  # fmt: skip
    camera = Pinhole(3.0, 2.0, 1.0, 0.5, (2, 3))
    selection = PointSelection(drop_classes=[str(drop)], min_range=nearest, min_confidence=least)
    shaped = [np.array(each).reshape(2, 3) for each in (depth, labels, confidence)]
    pixels = Pixels(shaped[1].astype(np.uint8), confidence=shaped[2].astype(np.uint8))
    geometry = DepthGeometry(shaped[0].astype(np.uint16), camera)
    points = CloudBuilder().build(geometry, pixels, selection, selection.ids(SCHEME))
    expected = []
    for index in range(6):
        v, u = divmod(index, 3)
        z = np.float32(depth[index] / 1000)
        point = np.array([(u - 1) * float(z) / 3, (v - 0.5) * float(z) / 2, z], np.float32)
        far = np.sum(np.square(point), dtype=np.float32) >= np.float32(nearest**2)
        sure = confidence[index] >= 255 * least - 1e-9
        if depth[index] and labels[index] != drop and sure and far:
            expected.append((*point.tolist(), labels[index]))
    found = [row.tolist() for row in points[['x', 'y', 'z', 'label']]]
    np.testing.assert_allclose(
        np.reshape(found, (-1, 4)), np.reshape(expected, (-1, 4)), rtol=3e-7
    )


def test_labels_of_another_size_are_those_under_the_center() -> None:
    labels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    small = DepthGeometry(np.full((2, 2), 1000, np.uint16), Pinhole(1.0, 1.0, 0.0, 0.0, (4, 4)))
    points = CloudBuilder().build(small, Pixels(labels), PointSelection(), organized=True)
    assert points['label'].tolist() == [[5, 7], [13, 15]]
    large = DepthGeometry(np.full((6, 6), 1000, np.uint16), Pinhole(1.0, 1.0, 0.0, 0.0, (4, 4)))
    points = CloudBuilder().build(large, Pixels(labels), PointSelection(), organized=True)
    assert points['label'][0].tolist() == [0, 1, 1, 2, 3, 3]


def test_a_mask_of_another_view_is_refused() -> None:
    with pytest.raises(CloudError, match='depth is 2 x 2, but its label mask is 4 x 2'):
        cloud(pixels=Pixels(np.zeros((2, 4), np.uint8)))


def test_memory_of_an_organized_cloud_is_reused_and_a_compact_one_is_new() -> None:
    builder = CloudBuilder()
    geometry = DepthGeometry(DEPTH, CAMERA)
    first, second = (builder.build(geometry, PIXELS, PointSelection()) for _ in range(2))
    assert not np.may_share_memory(first, second)
    assert np.array_equal(first, second)


# Clouds as input


def cloud_message(points: Any, **changes: Any) -> Any:
    """Return an organized PointCloud2 with the fields of a structured (H, W) array."""
    fields = [
        SimpleNamespace(name=name, offset=points.dtype.fields[name][1], datatype=7, count=1)
        for name in points.dtype.names
    ]
    height, width = points.shape
    values = {
        'height': height, 'width': width, 'fields': fields, 'is_bigendian': False,
        'point_step': points.dtype.itemsize, 'row_step': width * points.dtype.itemsize,
        'data': points.tobytes(), **changes,
    }  # fmt: skip
    return SimpleNamespace(**values)


def some_points(order: str = '<') -> Any:
    kind: Any = {'names': ['z', 'x', 'y'], 'formats': [f'{order}f4'] * 3, 'offsets': [1, 5, 12]}
    dtype: Any = {**kind, 'itemsize': 18}
    points: Any = np.zeros((2, 3), dtype)
    for offset, axis in enumerate('xyz'):
        points[axis] = np.arange(6).reshape(2, 3) - 3 + 10 * offset
    points['y'][1, 2] = math.nan
    return points


@pytest.mark.parametrize('order', ['<', '>'])
def test_a_cloud_is_labeled_whatever_its_fields_and_byte_order(order: str) -> None:
    points = some_points(order)
    geometry = decode_cloud(cloud_message(points, is_bigendian=order == '>'))
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = CloudBuilder().build(geometry, Pixels(labels), PointSelection())
    assert found['label'].tolist() == [0, 1, 2, 3, 4]
    assert found['x'].tolist() == [-3, -2, -1, 0, 1]
    assert found['z'].tolist() == [17, 18, 19, 20, 21]


def test_a_cloud_is_not_copied() -> None:
    message = cloud_message(some_points())
    geometry = decode_cloud(message)
    assert isinstance(geometry, CloudGeometry)
    assert sys.byteorder != 'little' or not geometry.x.flags.owndata


def test_rows_of_a_cloud_may_be_padded() -> None:
    points = some_points()
    rows = b''.join(row.tobytes() + b'pad' for row in points)
    geometry = decode_cloud(cloud_message(points, data=rows, row_step=3 * 18 + 3))
    assert geometry.x.tolist() == points['x'].tolist()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data': b''}, 'do not fit into 0 bytes; the message was cut short'),
        ({'data': bytes(107)}, '3 x 2 points with point_step 18'),
        ({'row_step': 53}, 'do not fit'),
        ({'point_step': 15}, r'offsets \(5, 12, 1\), but a point has 15 bytes'),
        ({'height': 2**31}, 'more than|do not fit'),
        ({'height': 0}, 'width and height must be at least 1'),
        ({'height': 1, 'width': 6}, 'a cloud of 6 points without rows'),
        ({'fields': []}, 'the cloud has no field x of type FLOAT32'),
    ],
)
def test_a_cloud_that_contradicts_itself_is_refused(changes: Any, message: str) -> None:
    with pytest.raises((CloudError, ImageError), match=message):
        decode_cloud(cloud_message(some_points(), **changes))


def test_coordinates_of_another_type_are_refused() -> None:
    message = cloud_message(some_points())
    message.fields[1].datatype = 8
    with pytest.raises(CloudError, match='no field x of type FLOAT32'):
        decode_cloud(message)


def test_the_fields_have_the_layout_that_pcl_expects() -> None:
    assert POINT.itemsize == 28
    assert [POINT.fields[name][1] for name in POINT.names or ()] == list(range(0, 28, 4))  # type: ignore[index]
