# SPDX-License-Identifier: Apache-2.0
"""Tests of label masks from polygons, against Cityscapes' own scripts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.helpers.annotation import Annotation  # type: ignore[import-untyped]
from cityscapesscripts.helpers.labels import (  # type: ignore[import-untyped]
    labels as cityscapes_labels,
)
from cityscapesscripts.preparation.json2labelImg import (  # type: ignore[import-untyped]
    createLabelImage,
    json2labelImg,
)
from hypothesis import given
from hypothesis import strategies as st
from training_data import fields, road, write_cityscapes, write_experiment, write_folders

from segmentation_node.errors import DatasetError
from segmentation_node.images.files import encode_png
from segmentation_node.images.label_files import read_labels
from segmentation_node.labels import IGNORE, load_scheme
from training.config import Experiment, Use
from training.datasets import LabeledFiles, open_files
from training.polygons import MAX_BYTES, draw_labels
from training.prepare import main, prepared

CITYSCAPES = load_scheme('cityscapes34')
STREET = load_scheme('street8')


def write(folder: Path, *objects: Any, height: int = 4, width: int = 6, **more: Any) -> Path:
    """Write a polygon file of Cityscapes."""
    path = folder / 'x_gtFine_polygons.json'
    content = {'imgHeight': height, 'imgWidth': width, 'objects': list(objects), **more}
    path.write_text(json.dumps(content), encoding='utf-8')
    return path


def box(label: str, left: float, top: float, right: float, bottom: float) -> dict[str, Any]:
    return {
        'label': label,
        'polygon': [[left, top], [right, top], [right, bottom], [left, bottom]],
    }


def drawn(path: Path) -> list[list[int]]:
    ids: list[list[int]] = draw_labels(path, CITYSCAPES).tolist()
    return ids


coordinates = st.integers(-50, 90) | st.floats(-50, 90, width=32)
names = [label.name for label in cityscapes_labels]
objects = st.fixed_dictionaries(
    {
        'label': st.sampled_from([*names, *(f'{name}group' for name in names)]),
        'polygon': st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=9),
    },
    optional={'deleted': st.sampled_from([0, 1]), 'verified': st.just(0), 'id': st.just(3)},
)


@given(st.integers(1, 40), st.integers(1, 40), st.lists(objects, max_size=8))
def test_masks_are_those_of_cityscapes_own_script(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, found: list[dict[str, Any]]
) -> None:
    path = write(tmp_path_factory.getbasetemp(), *found, height=height, width=width)
    official = Annotation()
    official.fromJsonFile(str(path))
    assert np.array_equal(
        draw_labels(path, CITYSCAPES), np.array(createLabelImage(official, 'ids'))
    )


def test_a_polygon_covers_those_before_it(tmp_path: Path) -> None:
    """Cityscapes has no holes: what is seen through an object is drawn after it."""
    path = write(
        tmp_path,
        box('building', 0, 0, 5, 3),
        box('car', 1, 0, 4, 2),
        box('sky', 2, 1, 3, 1),
    )
    assert drawn(path) == [
        [11, 26, 26, 26, 26, 11],
        [11, 26, 23, 23, 26, 11],
        [11, 26, 26, 26, 26, 11],
        [11, 11, 11, 11, 11, 11],
    ]


def test_pixels_outside_of_all_polygons_are_unlabeled(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        box('road', -9, 2, 99, 99),  # reaches beyond the image
        box('truck', -20, -20, -10, -10),  # lies outside
        {'label': 'pole', 'polygon': [[1, 0], [1, 1]]},  # without area
        {'label': 'traffic sign', 'polygon': [[3, 1], [3, 1], [3, 1]]},
        box('out of roi', 5, 0, 5, 3),
    )
    assert drawn(path) == [
        [0, 17, 0, 0, 0, 3],
        [0, 17, 0, 20, 0, 3],
        [7, 7, 7, 7, 7, 3],
        [7, 7, 7, 7, 7, 3],
    ]


def test_deleted_objects_and_license_plates_are_not_drawn(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        box('cargroup', 0, 0, 5, 3),
        box('polegroup', 0, 0, 0, 3),
        box('license plate', 0, 0, 5, 3),
        {**box('road', 0, 0, 5, 3), 'deleted': 1},
        {'label': 'no such class', 'polygon': [], 'deleted': True},
    )
    assert drawn(path) == [[18, 26, 26, 26, 26, 26]] * 4


def test_file_of_labelme(tmp_path: Path) -> None:
    path = tmp_path / 'x.json'
    shapes = [
        {'label': 'road', 'points': [[0, 0], [5.0, 0], [5, 3], [0, 3]], 'shape_type': 'polygon',
         'group_id': None, 'flags': {}},
        {'label': 'person', 'points': [[3.2, 2.0], [1.9, 0.5]], 'shape_type': 'rectangle'},
        {'label': 'sky', 'points': [[5, 0], [5, 1], [5, 1]]},
    ]  # fmt: skip
    content: dict[str, Any] = {
        'version': '5.4.1', 'flags': {}, 'shapes': shapes, 'imagePath': '/etc/passwd',
        'imageData': None, 'imageHeight': 5, 'imageWidth': 6,
    }  # fmt: skip
    path.write_text(json.dumps(content), encoding='utf-8')
    assert draw_labels(path, STREET).tolist() == [
        [1, 2, 2, 2, 1, 6],
        [1, 2, 2, 2, 1, 6],
        [1, 2, 2, 2, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0],  # outside of all polygons: void
    ]


TALL = 2**30


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        ('', 'is not valid JSON .*; replace it, or remove it'),
        ('[]', 'neither "objects", as .* of Cityscapes, nor "shapes", as files of labelme'),
        ('{"a": 1}', 'neither "objects"'),
        ('[' * 99 + ']' * 99, 'nested deeper than 32 levels'),
        (' ' * (MAX_BYTES + 1), f'longer than {MAX_BYTES} bytes'),
        ('{"imgHeight": 4, "imgWidth": 6, "objects": [NaN]}', 'NaN is not valid in JSON'),
        ({'objects': []}, 'imgHeight is .*: Field required; correct it with the tool'),
        ({'imgHeight': 0, 'imgWidth': 6, 'objects': []}, 'imgHeight is 0: .*greater than 0'),
        ({'imgHeight': '4', 'imgWidth': 6, 'objects': []}, "imgHeight is '4': .*integer"),
        (
            {'imgHeight': TALL, 'imgWidth': TALL, 'objects': []},
            r'belongs to an image of \d+ x \d+ has more than',
        ),
        ({'imgHeight': 4, 'imgWidth': 6, 'objects': {}}, 'objects is {}: .*list'),
        ({'imageHeight': 4, 'shapes': []}, 'imageWidth is .*: Field required'),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, content: Any, says: str) -> None:
    path = tmp_path / 'x.json'
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text, encoding='utf-8')
    with pytest.raises(DatasetError, match=rf'x\.json.*{says}'):
        draw_labels(path, CITYSCAPES)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        ({'label': 3}, r'objects\.1\.label is 3: .*string'),
        ({'polygon': 5}, r'objects\.1\.polygon is 5: .*list'),
        ({'polygon': []}, "polygon 1, 'car', has 0 points; expected at least 2: complete or"),
        ({'polygon': [[1, 2]]}, "polygon 1, 'car', has 1 points"),
        ({'polygon': [[1, 2], [3]]}, r'objects\.1\.polygon\.1 is \[3\]: .*at least 2'),
        ({'polygon': [[1, 2], [3, 4, 5]]}, r'polygon\.1 is \[3, 4, 5\]: .*at most 2'),
        ({'polygon': [[1, 2], [3, '4']]}, r"polygon\.1\.1 is '4': .*number"),
        ({'polygon': [[1, 2], [3, 1e300]]}, r'polygon\.1\.1 is 1e\+300: .*less than or equal'),
        ({'deleted': 'no'}, r"objects\.1\.deleted.* is 'no'"),
        ({'label': 'carr'}, "label 'carr', which .* cityscapes34 lacks; did you mean car?"),
        ({'label': 'carrgroup'}, "label 'carrgroup', which"),
        ({'label': 'elephant'}, 'lacks; correct the label, or add a class of this name'),
    ],
)
def test_malformed_polygon_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = write(tmp_path, box('road', 0, 0, 5, 3), {**box('car', 0, 0, 1, 1), **change})
    with pytest.raises(DatasetError, match=rf'x_gtFine_polygons\.json.*{says}'):
        draw_labels(path, CITYSCAPES)


def test_shape_without_area_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'x.json'
    shape = {'label': 'road', 'points': [[0, 0], [3, 3]], 'shape_type': 'line'}
    content = {'imageHeight': 5, 'imageWidth': 6, 'shapes': [shape]}
    path.write_text(json.dumps(content), encoding='utf-8')
    with pytest.raises(DatasetError, match=r"shapes\.0\.shape_type is 'line': .*'rectangle'"):
        draw_labels(path, STREET)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'none\.json cannot be read: .*; replace it'):
        draw_labels(tmp_path / 'none.json', CITYSCAPES)


def experiment(root: Path, **dataset: Any) -> Experiment:
    content = fields(root)
    content['datasets']['towns'] |= dataset
    return Experiment.model_validate(content)


def open_towns(root: Path, **dataset: Any) -> LabeledFiles:
    return open_files(experiment(root, **dataset), Use(set='towns', split='train'))


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    """Tree of Cityscapes with three images; `tmp_path` is the data root."""
    return write_cityscapes(tmp_path / 'towns', 'train', 3)


def files(root: Path, kind: str) -> list[Path]:
    return sorted(root.glob(f'gtFine/train/*/*_gtFine_{kind}'))


def test_labels_are_drawn_where_their_image_is_missing(
    tmp_path: Path, towns: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = files(towns, 'labelIds.png')[1]
    expected = read_labels(missing)
    missing.unlink()
    found = open_towns(tmp_path)
    assert [pair.drawn for pair in found.pairs] == [False, True, False]
    assert np.array_equal(found.read(found.pairs[1])[1], expected)
    assert 'towns train: the labels of 1 of 3 images are drawn' in caplog.text


def test_labels_are_those_that_the_official_script_writes(tmp_path: Path, towns: Path) -> None:
    for path in files(towns, 'polygons.json'):
        json2labelImg(str(path), str(tmp_path / 'official.png'))
        official = read_labels(tmp_path / 'official.png')
        assert np.array_equal(draw_labels(path, CITYSCAPES), official)
        assert np.array_equal(
            official, read_labels(Path(str(path).replace('polygons.json', 'labelIds.png')))
        )


def test_data_set_may_ask_for_polygons(
    tmp_path: Path, towns: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in files(towns, 'labelIds.png'):
        path.write_bytes(encode_png(np.full((64, 96), 11, np.uint8)))
    assert {open_towns(tmp_path).read(p)[1].max() for p in open_towns(tmp_path).pairs} == {11}
    asked = open_towns(tmp_path, polygons=True)
    assert {asked.read(pair)[1].max() for pair in asked.pairs} == {7}
    assert not caplog.text
    files(towns, 'polygons.json')[2].unlink()
    with pytest.raises(DatasetError, match=r'1 of 3 images have no labels.*polygons\.json'):
        open_towns(tmp_path, polygons=True)


def test_polygons_without_an_image(tmp_path: Path, towns: Path) -> None:
    next(towns.glob('leftImg8bit/train/*/*000001*')).unlink()
    for path in files(towns, 'labelIds.png'):
        path.unlink()
    with pytest.raises(DatasetError, match=r'1 label images have no image.*000001.*polygons'):
        open_towns(tmp_path)


def test_polygons_of_another_size(tmp_path: Path, towns: Path) -> None:
    path = files(towns, 'polygons.json')[0]
    content = {'imgHeight': 9, 'imgWidth': 9, 'objects': [road(9, 9)]}
    path.write_text(json.dumps(content), encoding='utf-8')
    found = open_towns(tmp_path, polygons=True)
    with pytest.raises(DatasetError, match=r'polygons\.json has size \(9, 9\), but .*\(64, 96\)'):
        found.read(found.pairs[0])


@pytest.mark.parametrize('place', ['labels', 'images'])
def test_labelme_files_lie_beside_images_or_labels(tmp_path: Path, place: str) -> None:
    split = write_folders(tmp_path / 'streets', 'train', 2)
    shape = {'label': 'sky', 'points': [[0, 0], [95, 0], [95, 63], [0, 63]]}
    content = {'imageHeight': 64, 'imageWidth': 96, 'shapes': [shape]}
    for name in ('000', '001'):
        (split / 'labels' / f'{name}.png').unlink()
        (split / place / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')
    found = open_files(experiment(tmp_path), Use(set='streets', split='train'))
    assert {found.read(pair)[1].max() for pair in found.pairs} == {0}  # sky of camvid11


def test_masks_have_the_classes_that_the_user_chooses(tmp_path: Path, towns: Path) -> None:
    outlines = write(
        tmp_path, box('terrain', 0, 0, 95, 63), box('persongroup', 0, 0, 95, 9),
        box('ground', 0, 10, 95, 19), box('pole', 0, 20, 95, 29), height=64, width=96,
    )  # fmt: skip
    for path in files(towns, 'polygons.json'):
        path.write_bytes(outlines.read_bytes())
    images = prepared(experiment(tmp_path, polygons=True), Use(set='towns', split='train'), STREET)
    channels = images.arrays(0)[1]
    names = [STREET.learned[c].name for c in channels[[0, 10, 20], 0]]
    assert names == ['person', 'ground', 'pole']
    assert (channels[30:] == IGNORE).all()  # terrain is none of the classes


def test_command_prepares_polygons(
    tmp_path: Path, towns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = [{'set': 'towns', 'split': 'train', 'share': 2}]
    val = {'v': {'set': 'towns', 'split': 'train', 'count': 1}}
    path = write_experiment(
        tmp_path / 'experiment.yaml', tmp_path, train=train, val=val, label_scheme='street8'
    )
    assert main([str(path), 'datasets.towns.polygons=true']) == 0
    assert capsys.readouterr().out.startswith('towns train: 3 images')
    files(towns, 'polygons.json')[1].write_text('{', encoding='utf-8')
    assert main([str(path), 'datasets.towns.polygons=true']) == 1
    assert 'polygons.json cannot be read: it is not valid JSON' in capsys.readouterr().err
