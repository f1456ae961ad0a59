# SPDX-License-Identifier: Apache-2.0
"""Tests of data sets on disk: their files, and errors that name the invalid file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from png_files import PALETTE, png
from training_data import (
    cars,
    fields,
    street,
    write_annot,
    write_cityscapes,
    write_folders,
    write_instances,
)

from segmentation_node.errors import DatasetError, SchemeError, SettingError
from segmentation_node.images.files import encode_jpeg, encode_png
from training.config import Experiment, Use
from training.datasets import LabeledFiles, open_files

#: Images of 000 to 011 with the smallest SHA-256 of their names.
SMALL = ['000', '009', '010']


def open_use(root: Path, dataset: dict[str, Any] | None = None, **use: Any) -> LabeledFiles:
    """Open a split of the data set `streets`, with the fields in `dataset` replaced."""
    content = fields(root)
    content['datasets']['streets'] |= dataset or {}
    wanted = Use.model_validate({'set': 'streets', 'split': 'train'} | use)
    return open_files(Experiment.model_validate(content), wanted)


def read_all(files: LabeledFiles) -> None:
    for pair in files.pairs:
        files.read(pair)


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    """Split `train` with three streets; `tmp_path` is the data root."""
    return write_folders(tmp_path / 'streets', 'train', 3)


@pytest.mark.parametrize('layout', ['folders', 'annot'])
def test_images_are_read_with_their_labels(tmp_path: Path, layout: str) -> None:
    write = write_folders if layout == 'folders' else write_annot
    write(tmp_path / 'streets', 'train', 3)
    write(tmp_path / 'streets', 'val', 1)
    files = open_use(tmp_path, {'layout': layout})
    assert [pair.name for pair in files.pairs] == ['000', '001', '002']
    for seed, pair in enumerate(files.pairs):
        image, ids = street(seed)
        found_image, found_ids = files.read(pair)
        assert (found_image == image).all()
        assert (found_ids == ids).all()
    assert len(open_use(tmp_path, {'layout': layout}, split='val').pairs) == 1


def test_cityscapes_is_read_by_split(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / 'towns', 'train', 2)
    write_cityscapes(tmp_path / 'towns', 'val', 1)
    files = open_use(tmp_path, set='towns')
    assert [p.name for p in files.pairs] == [
        f'testville_00000{i}_000019_leftImg8bit' for i in range(2)
    ]
    _, ids = files.read(files.pairs[0])
    assert (ids[:2] == 0).all()
    assert (ids[2:] == 7).all()
    assert len(open_use(tmp_path, set='towns', split='val').pairs) == 1
    assert files.source == str(tmp_path / 'towns')  # no source is given


def test_a_subset_is_chosen_by_its_seed(tmp_path: Path) -> None:
    write_folders(tmp_path / 'streets', 'train', 12)
    chosen = {
        (seed, count): [p.name for p in open_use(tmp_path, seed=seed, count=count).pairs]
        for seed in (0, 1)
        for count in (4, 8, 12)
    }
    for (seed, count), names in chosen.items():
        assert len(set(names)) == count
        assert names == sorted(names)
        assert names == [p.name for p in open_use(tmp_path, seed=seed, count=count).pairs]
        if count < 12:  # a larger subset contains the smaller one
            assert set(names) < set(chosen[seed, count + 4])
    assert chosen[0, 4] != chosen[1, 4]
    assert chosen[0, 12] == chosen[1, 12]
    assert chosen[0, 4] != chosen[0, 12][:4]


def test_a_named_subset_has_the_same_images_forever(tmp_path: Path) -> None:
    write_folders(tmp_path / 'streets', 'train', 12)
    sizes = {'subsets': {'small': {'train': 3}, 'large': {'train': 6}}}
    small, large = (
        [pair.name for pair in open_use(tmp_path, sizes, subset=name).pairs]
        for name in ('small', 'large')
    )
    assert small == SMALL
    assert len(large) == 6
    assert set(small) < set(large)
    for path in (tmp_path / 'streets' / 'train').rglob('011.png'):  # of no subset
        path.unlink()
    assert [pair.name for pair in open_use(tmp_path, sizes, subset='small').pairs] == SMALL


@pytest.mark.parametrize('use', [{'subset': 'large'}, {'subset': 'small', 'split': 'val'}])
def test_an_unknown_subset_is_answered_with_those_there_are(
    tmp_path: Path, streets: Path, use: dict[str, str]
) -> None:
    write_folders(tmp_path / 'streets', 'val', 1)
    sizes = {'subsets': {'small': {'train': 3}}}
    known = 'small' if use['subset'] == 'large' else 'none'
    with pytest.raises(SettingError, match=rf"no subset '.*' of split .*; available: {known};"):
        open_use(tmp_path, sizes, **use)


def test_a_named_subset_larger_than_the_set(tmp_path: Path, streets: Path) -> None:
    with pytest.raises(DatasetError, match=r'has 3 images, .* of 4; complete the data set'):
        open_use(tmp_path, {'subsets': {'small': {'train': 4}}}, subset='small')


def test_a_subset_larger_than_the_set(tmp_path: Path, streets: Path) -> None:
    with pytest.raises(DatasetError, match=r'streets train has 3 images, .* subset of 4'):
        open_use(tmp_path, count=4)


def test_patterns_select_images_by_name(tmp_path: Path) -> None:
    write_folders(tmp_path / 'streets', 'train', 12)
    names = [pair.name for pair in open_use(tmp_path, only=['00[13]', '01?']).pairs]
    assert names == ['001', '003', '010', '011']
    assert len(open_use(tmp_path, only=['01?'], count=1).pairs) == 1
    with pytest.raises(DatasetError, match=r"no image that matches 'drive2\*'.*000 to 011"):
        open_use(tmp_path, only=['01?', 'drive2*'])


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=rf"no images of split 'train' below {tmp_path}/streets"
    ):
        open_use(tmp_path)


def test_missing_split(tmp_path: Path, streets: Path) -> None:
    with pytest.raises(DatasetError, match="no images of split 'test' below"):
        open_use(tmp_path, split='test')


def test_missing_labels(tmp_path: Path, streets: Path) -> None:
    (streets / 'labels' / '001.png').unlink()
    with pytest.raises(
        DatasetError, match=r'1 of 3 images have no labels.*images/001\.png .*labels/001\.png'
    ):
        open_use(tmp_path)


def test_missing_image(tmp_path: Path, streets: Path) -> None:
    """A partly copied data set is an error, because training would silently use a part of it."""
    (streets / 'images' / '001.png').unlink()
    with pytest.raises(DatasetError, match=r'1 label images have no image.*labels/001\.png'):
        open_use(tmp_path)


def test_missing_image_of_cityscapes(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / 'towns', 'train', 2)
    next(root.glob('leftImg8bit/train/*/*000001*')).unlink()
    with pytest.raises(DatasetError, match=r'no image.*testville_000001_000019_gtFine_labelIds'):
        open_use(tmp_path, set='towns')


def test_link_that_leads_nowhere(tmp_path: Path, streets: Path) -> None:
    image = streets / 'images' / '001.png'
    image.unlink()
    image.symlink_to(tmp_path / 'gone.png')
    with pytest.raises(DatasetError, match=r'images/001\.png'):
        read_all(open_use(tmp_path))


def test_files_of_the_system_are_no_images(tmp_path: Path, streets: Path) -> None:
    for name in ('.DS_Store', '._001.png', 'Thumbs.db', 'desktop.ini'):
        (streets / 'images' / name).write_bytes(b'')
        (streets / 'labels' / name).write_bytes(b'')
    assert len(open_use(tmp_path).pairs) == 3


def test_hidden_files_in_cityscapes_are_no_images(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / 'towns', 'train', 2)
    for path in [*root.glob('leftImg8bit/*/*/*.png'), *root.glob('gtFine/*/*/*.png')]:
        path.with_name(f'._{path.name}').write_bytes(b'')
    assert len(open_use(tmp_path, set='towns').pairs) == 2


def test_labels_of_another_size(tmp_path: Path, streets: Path) -> None:
    (streets / 'labels' / '001.png').write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    with pytest.raises(DatasetError, match=r'001\.png has size \(9, 9\), but .*\(64, 96\)'):
        read_all(open_use(tmp_path))


def test_labels_of_another_scheme(tmp_path: Path, streets: Path) -> None:
    (streets / 'labels' / '001.png').write_bytes(encode_png(np.full((64, 96), 33, np.uint8)))
    with pytest.raises(DatasetError, match=r'labels/001\.png .*camvid11 lacks: 33 \(6144 '):
        read_all(open_use(tmp_path))


def test_labels_that_are_colors(tmp_path: Path, streets: Path) -> None:
    files, path = open_use(tmp_path), streets / 'labels' / '001.png'
    ids = street(1)[1]
    path.write_bytes(encode_png(files.scheme.palette[ids]))
    assert np.array_equal(files.read(files.pairs[1])[1], ids)
    path.write_bytes(encode_png(np.full((64, 96, 3), 7, np.uint8)))
    with pytest.raises(
        DatasetError, match=r'labels/001\.png .*camvid11 lacks: \(7, 7, 7\) \(6144'
    ):
        read_all(files)


def test_labels_with_a_palette_are_its_indices(tmp_path: Path, streets: Path) -> None:
    ids = street(1)[1]
    (streets / 'labels' / '001.png').write_bytes(png(ids, 8, PALETTE, [[9, 9, 9]] * 256))
    files = open_use(tmp_path)
    assert np.array_equal(files.read(files.pairs[1])[1], ids)


def test_file_that_is_no_image(tmp_path: Path, streets: Path) -> None:
    (streets / 'images' / '001.png').write_text('not an image', encoding='utf-8')
    with pytest.raises(DatasetError, match=r'images/001\.png cannot be read: .*expected JPEG'):
        read_all(open_use(tmp_path))


def test_image_that_is_cut_short(tmp_path: Path, streets: Path) -> None:
    """Half a JPEG decodes with gray for the missing half, and training would learn the gray."""
    path = streets / 'images' / '001.png'
    whole = encode_jpeg(street(1)[0])
    path.with_suffix('.jpg').write_bytes(whole[: len(whole) // 2])
    path.unlink()
    with pytest.raises(DatasetError, match=r'images/001\.jpg cannot be read: .*cut short'):
        read_all(open_use(tmp_path))


def test_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="unknown layout 'coco'; choose one of folders"):
        open_use(tmp_path, {'layout': 'coco'})


def test_unknown_scheme(tmp_path: Path, streets: Path) -> None:
    with pytest.raises(SchemeError, match="'kitti'; there are camvid11"):
        open_use(tmp_path, {'scheme': 'kitti'})


# Instance images.


def open_instances(root: Path, dataset: dict[str, Any] | None = None) -> LabeledFiles:
    content = fields(root)
    content['datasets']['towns'] |= dataset or {}
    use = Use(set='towns', split='train')
    return open_files(Experiment.model_validate(content), use, instances=True)


def test_instances_are_read_with_the_labels_of_the_same_file(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 2)
    for path in tmp_path.rglob('*_labelIds.png'):
        path.unlink()  # not read
    files = open_instances(tmp_path)
    assert files.has_instances
    for seed, pair in enumerate(files.pairs):
        values = cars(seed)[1]
        _, ids, instances = files.read_instances(pair)
        assert np.array_equal(instances, np.where(values < 1000, 0, values))
        assert np.array_equal(ids, np.where(values < 1000, values, 26))
        assert np.array_equal(files.read(pair)[1], ids)
    assert {26001, 26002} < set(np.unique(cars(0)[1]).tolist())
    assert {26, 26002} < set(np.unique(cars(1)[1]).tolist())


def test_a_missing_instance_image_is_told(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 2)
    next(tmp_path.rglob('*_instanceIds.png')).unlink()
    with pytest.raises(DatasetError, match=r'1 of 2 images have no labels.*instanceIds\.png'):
        open_instances(tmp_path)


def test_a_damaged_instance_image_is_told(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 1)
    path = next(tmp_path.rglob('*_instanceIds.png'))
    path.write_bytes(encode_png(np.full((64, 96), 7001, np.uint16)))
    with pytest.raises(DatasetError, match=r'instanceIds\.png cannot be read: .* of road'):
        read_all(open_instances(tmp_path))


def test_polygons_have_no_instances(tmp_path: Path) -> None:
    write_cityscapes(tmp_path / 'towns', 'train', 1)
    with pytest.raises(DatasetError, match='towns are drawn from polygons, without instances'):
        open_instances(tmp_path, {'polygons': True})


def test_a_layout_without_instance_images_has_no_instances(tmp_path: Path, streets: Path) -> None:
    use = Use(set='streets', split='train')
    files = open_files(Experiment.model_validate(fields(tmp_path)), use, instances=True)
    assert not files.has_instances
    _, ids, instances = files.read_instances(files.pairs[0])
    assert np.array_equal(ids, street(0)[1])
    assert instances.dtype == np.uint16
    assert not instances.any()
