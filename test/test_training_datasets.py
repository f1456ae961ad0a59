# SPDX-License-Identifier: Apache-2.0
"""Data sets on disk: what is read, and which file is named when something is wrong."""

from pathlib import Path

import numpy as np
import pytest
from training_data import street, write_cityscapes, write_folders

from segmentation_node.errors import DatasetError, SchemeError
from segmentation_node.image_files import encode_jpeg, encode_png
from segmentation_node.labels import IGNORE, load_scheme
from training.datasets import LabelledImages, open_dataset

CATEGORIES = load_scheme('cityscapes8')


def open_folders(root: Path) -> LabelledImages:
    description = {'layout': 'folders', 'root': str(root), 'scheme': 'camvid11'}
    return open_dataset(description, CATEGORIES)


def test_folders_are_read_as_channels(tmp_path: Path) -> None:
    images = open_folders(write_folders(tmp_path, 3))
    assert len(images) == 3
    assert images.names == ['000', '001', '002']
    image, channels = images[1]
    rgb, ids = street(1)
    assert (image.numpy() == rgb.transpose(2, 0, 1)).all()
    expected = {0: 'sky', 1: 'construction', 3: 'flat', 8: 'vehicle'}
    for stored, name in expected.items():
        assert (channels.numpy()[ids == stored] == CATEGORIES.id_of(name)).all()
    assert (channels.numpy()[ids == 11] == IGNORE).all()


def test_cityscapes_is_read_by_split(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, 'train', 2)
    write_cityscapes(tmp_path, 'val', 1)
    description = {'layout': 'cityscapes', 'root': str(tmp_path), 'scheme': 'cityscapes34'}
    assert len(open_dataset(description, CATEGORIES)) == 2
    validation = open_dataset({**description, 'split': 'val'}, CATEGORIES)
    assert len(validation) == 1
    _, channels = validation[0]
    assert (channels[:2] == CATEGORIES.void_id).all()
    assert (channels[2:] == CATEGORIES.id_of('flat')).all()


def test_channels_are_counted(tmp_path: Path) -> None:
    images = open_folders(write_folders(tmp_path, 2))
    counts = images.channel_counts()
    assert counts.sum() == 2 * 64 * 96
    assert counts[IGNORE] == 2 * 3 * 96
    assert counts[CATEGORIES.id_of('sky')] == 2 * 16 * 96


def test_all_images_are_walked_once(tmp_path: Path) -> None:
    images = open_folders(write_folders(tmp_path, 3))
    assert [float(image.float().sum()) for image, _ in images] == [
        float(images[i][0].float().sum()) for i in range(3)
    ]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf'no images below {tmp_path}/nothing; expected'):
        open_folders(tmp_path / 'nothing')


def test_missing_labels(tmp_path: Path) -> None:
    write_folders(tmp_path, 3)
    (tmp_path / 'labels' / '001.png').unlink()
    with pytest.raises(
        DatasetError, match=r'1 images have no labels.*images/001.png .*labels/001'
    ):
        open_folders(tmp_path)


def test_labels_of_another_size(tmp_path: Path) -> None:
    write_folders(tmp_path, 2)
    (tmp_path / 'labels' / '001.png').write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    with pytest.raises(DatasetError, match=r'001\.png is \(9, 9\) but its image \(64, 96\)'):
        open_folders(tmp_path)


def test_labels_of_another_scheme(tmp_path: Path) -> None:
    write_folders(tmp_path, 2)
    (tmp_path / 'labels' / '001.png').write_bytes(encode_png(np.full((64, 96), 33, np.uint8)))
    with pytest.raises(DatasetError, match=r'labels/001\.png has ids \[33\] .* camvid11 lacks'):
        open_folders(tmp_path)


def test_labels_that_are_colors(tmp_path: Path) -> None:
    write_folders(tmp_path, 2)
    (tmp_path / 'labels' / '001.png').write_bytes(encode_png(np.zeros((64, 96, 3), np.uint8)))
    with pytest.raises(DatasetError, match=r'labels/001\.png .*not colours'):
        open_folders(tmp_path)


def test_file_that_is_no_image(tmp_path: Path) -> None:
    write_folders(tmp_path, 2)
    (tmp_path / 'images' / '001.png').write_text('not an image', encoding='utf-8')
    with pytest.raises(DatasetError, match=r'images/001\.png cannot be read: .*expected JPEG'):
        open_folders(tmp_path)


def test_image_that_is_cut_short(tmp_path: Path) -> None:
    """Half a JPEG decodes, with grey for the missing half; training on it would teach grey."""
    write_folders(tmp_path, 2)
    path = tmp_path / 'images' / '001.png'
    whole = encode_jpeg(street(1)[0])
    path.with_suffix('.jpg').write_bytes(whole[: len(whole) // 2])
    path.unlink()
    with pytest.raises(DatasetError, match=r'images/001\.jpg cannot be read: .*cut short'):
        open_folders(tmp_path)


@pytest.mark.parametrize(
    ('description', 'says'),
    [
        ({}, 'lacks layout, root, scheme'),
        ({'layout': 'folders', 'root': '.'}, 'lacks scheme'),
        (
            {'layout': 'coco', 'root': '.', 'scheme': 'camvid11'},
            "layout 'coco'; there are folders",
        ),
    ],
)
def test_description_with_something_wrong(description: dict[str, str], says: str) -> None:
    with pytest.raises(DatasetError, match=says):
        open_dataset(description, CATEGORIES)


def test_description_with_an_unknown_scheme(tmp_path: Path) -> None:
    write_folders(tmp_path, 1)
    with pytest.raises(SchemeError, match="'kitti'; there are camvid11"):
        open_dataset({'layout': 'folders', 'root': str(tmp_path), 'scheme': 'kitti'}, CATEGORIES)
