# SPDX-License-Identifier: Apache-2.0
"""Tests of instance images: literal values, groups, and errors."""

import numpy as np
import pytest

from segmentation_node.errors import ImageError
from segmentation_node.images.files import encode_jpeg, encode_png
from segmentation_node.labels import load_scheme
from training.instance_images import decode_instances

LABEL_IDS = load_scheme('cityscapes34')


def test_classes_groups_and_instances() -> None:
    values = np.array([[7, 26, 26000, 26001, 33999], [0, 24, 24012, 25012, 29003]], np.uint16)
    ids, instances = decode_instances(encode_png(values), LABEL_IDS)
    assert ids.dtype == np.uint8
    assert ids.tolist() == [[7, 26, 26, 26, 33], [0, 24, 24, 25, 29]]
    assert instances.dtype == np.uint16
    assert instances.tolist() == [[0, 0, 26000, 26001, 33999], [0, 0, 24012, 25012, 29003]]


def test_an_image_without_instances_may_have_8_bits() -> None:
    values = np.array([[7, 26, 255]], np.uint8)  # 255 is not annotated
    ids, instances = decode_instances(encode_png(values), LABEL_IDS)
    assert ids.tolist() == values.tolist()
    assert not instances.any()


@pytest.mark.parametrize(
    ('data', 'says'),
    [
        (encode_jpeg(np.zeros((4, 4, 3), np.uint8)), 'in JPEG; expected PNG'),
        (encode_png(np.zeros((4, 4, 3), np.uint8)), r'shape \(4, 4, 3\), uint8; expected one'),
        (encode_png(np.full((4, 4), 300, np.uint16)), 'the value 300; expected the id of a class'),
        (encode_png(np.full((4, 4), 40001, np.uint16)), 'lacks: 40 '),
        (encode_png(np.full((4, 4), 7001, np.uint16)), 'instances of road, .*"countable: true"'),
        (encode_png(np.zeros((4, 4), np.uint16))[:60], 'cut short'),
    ],
)
def test_an_image_that_is_none(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        decode_instances(data, LABEL_IDS)
