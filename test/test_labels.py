# SPDX-License-Identifier: Apache-2.0
"""Label schemes against Cityscapes' own table, and everything a scheme file can have wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from cityscapesscripts.helpers.labels import (  # type: ignore[import-untyped]
    labels as cityscapes_labels,
)
from cityscapesscripts.helpers.labels import trainId2label
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_node.errors import ImageError, SchemeError
from segmentation_node.labels import (
    IGNORE,
    LabelScheme,
    available_schemes,
    load_scheme,
    scheme_from_json,
    scheme_of_class_names,
)

HUB_NAMES = [
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
    'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train',
    'motorcycle', 'bicycle',
]  # fmt: skip

# Pairs that have a mapping; every other pair must refuse.
MAPPED = {
    ('cityscapes19', 'cityscapes8'), ('cityscapes34', 'cityscapes8'), ('camvid11', 'cityscapes8'),
    ('cityscapes34', 'cityscapes19'), ('cityscapes19', 'cityscapes34'),
    ('cityscapes34', 'street8'), ('cityscapes19', 'street8'), ('street8', 'cityscapes34'),
    ('street8', 'cityscapes19'), ('street8', 'cityscapes8'),
}  # fmt: skip


def write_scheme(folder: Path, *rows: Any, name: str = 'own', **top: Any) -> Path:
    path = folder / f'{name}.yaml'
    path.write_text(yaml.safe_dump({'classes': list(rows), **top}), encoding='utf-8')
    return path


def row(**changes: Any) -> dict[str, Any]:
    return {'id': 1, 'name': 'road', 'color': [1, 2, 3], 'category': 'flat'} | changes


VOID = {'id': 0, 'name': 'void', 'color': [0, 0, 0], 'category': 'void', 'void': True}


@pytest.mark.parametrize('name', available_schemes())
def test_every_scheme_file_loads_and_maps_onto_itself(name: str) -> None:
    scheme = load_scheme(name)
    assert scheme.name == name
    assert scheme.description
    lut = scheme.mapping_to(scheme)
    for c in scheme.classes:
        assert lut[c.id] == c.id
        assert tuple(scheme.palette[c.id]) == c.color


def test_the_bundled_schemes_are_there() -> None:
    assert set(available_schemes()) >= {
        'camvid11', 'cityscapes8', 'cityscapes19', 'cityscapes34', 'street8',
    }  # fmt: skip


def test_categories_are_those_of_cityscapes() -> None:
    expected = [0] * 7 + [1] * 4 + [2] * 6 + [3] * 4 + [4] * 2 + [5] + [6] * 2 + [7] * 8
    lut = load_scheme('cityscapes34').mapping_to(load_scheme('cityscapes8'))
    assert lut[:34].tolist() == expected
    assert expected == [label.categoryId for label in cityscapes_labels if label.id >= 0]


def test_train_ids_are_those_of_cityscapes() -> None:
    lut = load_scheme('cityscapes34').mapping_to(load_scheme('cityscapes19'))
    label_ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert lut[label_ids].tolist() == list(range(19))
    assert (np.delete(lut, label_ids) == 255).all()
    for label in cityscapes_labels:
        assert label.id < 0 or lut[label.id] == label.trainId


def test_names_and_colors_are_those_of_cityscapes() -> None:
    by_id = {label.id: label for label in cityscapes_labels}
    for c in load_scheme('cityscapes34').classes:
        official = by_id[c.id]
        assert (c.name, c.color, c.category) == (official.name, official.color, official.category)
        assert c.void or c.scored == (not official.ignoreInEval)
        assert c.countable == official.hasInstances
    for c in load_scheme('cityscapes19').learned:
        assert (c.name, c.color) == (trainId2label[c.id].name, trainId2label[c.id].color)


@pytest.mark.parametrize('source', available_schemes())
@pytest.mark.parametrize('target', available_schemes())
def test_a_pair_of_schemes_maps_or_says_why_not(source: str, target: str) -> None:
    pair = (load_scheme(source), load_scheme(target))
    if source == target or (source, target) in MAPPED:
        lut = pair[0].mapping_to(pair[1])
        assert set(lut.tolist()) <= {c.id for c in pair[1].classes}
        strangers = np.setdiff1d(np.arange(256), [c.id for c in pair[0].classes])
        assert (lut[strangers] == pair[1].void_id).all()
    else:
        with pytest.raises(SchemeError, match=f'of {source} has no unambiguous counterpart'):
            pair[0].mapping_to(pair[1])


def test_the_classes_of_streets_are_labels_of_cityscapes() -> None:
    street, labels = load_scheme('street8'), load_scheme('cityscapes34')
    assert [c.name for c in street.learned] == [
        'road', 'person', 'car', 'building', 'vegetation', 'sky', 'pole', 'ground',
    ]  # fmt: skip
    names = {c.id: c.name for c in street.classes}
    mapped = {c.name: names[labels.mapping_to(street)[c.id]] for c in labels.classes}
    assert {a: b for a, b in mapped.items() if b != 'unlabeled'} == {
        **{c.name: c.name for c in street.learned}, 'polegroup': 'pole',
    }  # fmt: skip


def test_camvid_falls_into_the_categories() -> None:
    camvid, categories = load_scheme('camvid11'), load_scheme('cityscapes8')
    names = {c.id: c.name for c in categories.classes}
    mapped = {c.name: names[camvid.mapping_to(categories)[c.id]] for c in camvid.classes}
    assert mapped == {
        'sky': 'sky', 'building': 'construction', 'pole': 'object', 'road': 'flat',
        'pavement': 'flat', 'tree': 'nature', 'sign_symbol': 'object', 'fence': 'construction',
        'car': 'vehicle', 'pedestrian': 'human', 'bicyclist': 'human', 'unlabelled': 'void',
    }  # fmt: skip


def test_refused_mapping_names_class_count_and_remedy() -> None:
    with pytest.raises(SchemeError) as caught:
        load_scheme('cityscapes8').mapping_to(load_scheme('cityscapes19'))
    assert 'class flat of cityscapes8' in str(caught.value)
    assert '2 classes of category flat' in str(caught.value)
    assert 'choose a scheme' in str(caught.value)


def test_void_of_a_scheme_that_never_learned_it_is_ignored_in_training() -> None:
    categories = load_scheme('cityscapes8')
    from_camvid = categories.channels_from(load_scheme('camvid11'))
    assert from_camvid[11] == IGNORE  # not annotated: says nothing
    assert from_camvid[3] == categories.id_of('flat')
    assert (from_camvid[12:] == IGNORE).all()
    from_cityscapes = categories.channels_from(load_scheme('cityscapes34'))
    assert (from_cityscapes[:7] == 0).all()  # annotated as void, such as the own bonnet
    assert from_cityscapes[7] == 1
    assert (from_cityscapes[34:] == IGNORE).all()


def test_channels_are_positions_and_not_ids(tmp_path: Path) -> None:
    path = write_scheme(tmp_path, VOID | {'learned': False}, row(id=7), row(id=3, name='sky'))
    scheme = load_scheme(path)
    assert scheme.channel_ids.tolist() == [7, 3]
    assert scheme.channels_from(scheme)[[0, 3, 7]].tolist() == [IGNORE, 1, 0]


def test_unknown_ids_are_found() -> None:
    scheme = load_scheme('cityscapes19')
    scheme.check_ids(np.array([[0, 18, 255]], np.uint8))
    with pytest.raises(
        ImageError, match=r'cityscapes19 lacks: 19 \(2 pixels\), 254 \(1 pixels\);'
    ):
        scheme.check_ids(np.array([[19, 0, 254, 19]], np.uint8))


def test_values_that_say_nothing_are_listed_in_the_scheme(tmp_path: Path) -> None:
    scheme = load_scheme(write_scheme(tmp_path, VOID, row(), ignored=[255]))
    labels = np.array([[0, 1, 255]], np.uint8)
    scheme.check_ids(labels)
    assert scheme.channels_from(scheme)[labels].tolist() == [[0, 1, IGNORE]]


@pytest.mark.parametrize(
    ('ignored', 'says'),
    [(255, 'ignored 255; expected a list'), ([1, 255], 'ignores 1, which'), ([300], '0..255')],
)
def test_ignored_values_are_bytes_and_no_classes(tmp_path: Path, ignored: Any, says: str) -> None:
    with pytest.raises(SchemeError, match=says):
        load_scheme(write_scheme(tmp_path, VOID, row(), ignored=ignored))


def test_json_holds_what_a_subscriber_needs() -> None:
    found = json.loads(load_scheme('cityscapes8').to_json())
    assert (found['scheme'], found['void_id'], len(found['classes'])) == ('cityscapes8', 0, 8)
    assert found['classes'][1] == {'id': 1, 'name': 'flat', 'color': [128, 64, 128]}


@settings(max_examples=10)
@given(st.permutations(range(19)))
def test_class_names_in_any_order_give_each_channel_its_id(order: list[int]) -> None:
    scheme, channel_ids = scheme_of_class_names([HUB_NAMES[i] for i in order])
    assert scheme.name == 'cityscapes19'
    assert channel_ids.tolist() == order
    assert channel_ids.dtype == np.uint8


@pytest.mark.parametrize(
    'names',
    [
        [*HUB_NAMES, 'road'],
        HUB_NAMES[:-1],
        [*HUB_NAMES[:-1], 'road'],
        ['cat', 'dog'],
    ],
)
def test_other_class_names_are_refused(names: list[str]) -> None:
    with pytest.raises(SchemeError, match=r'no label scheme has the classes .*add one'):
        scheme_of_class_names(names)


def test_spelling_of_class_names_does_not_count() -> None:
    names = [name.upper().replace(' ', '-') for name in HUB_NAMES]
    assert scheme_of_class_names(names)[0].name == 'cityscapes19'


@pytest.mark.parametrize(
    'name', ['cityscapes', '', 'Cityscapes8', '../labels/cityscapes8', '../x', '/etc/passwd', '.']
)
def test_unknown_name_is_answered_with_the_names_that_exist(name: str) -> None:
    with pytest.raises(SchemeError) as caught:
        load_scheme(name)
    message = str(caught.value)
    assert repr(name) in message
    assert all(known in message for known in available_schemes())


def test_unknown_class_is_answered_with_the_names_that_exist() -> None:
    with pytest.raises(SchemeError, match="no class 'truck'; it has void, flat"):
        load_scheme('cityscapes8').id_of('truck')


def test_missing_file_is_answered_with_the_names_that_exist(tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match=r'none\.yaml.*No such file.*cityscapes19'):
        load_scheme(tmp_path / 'none.yaml')


def test_scheme_of_ones_own(tmp_path: Path) -> None:
    path = write_scheme(tmp_path, VOID, row(label_ids=[7, 8]), description='mine')
    scheme = load_scheme(str(path))
    assert (scheme.name, scheme.description, scheme.void_id) == ('own', 'mine', 0)
    assert scheme.mapping_to(load_scheme('cityscapes8')).tolist()[:2] == [0, 1]


@pytest.mark.parametrize(
    ('rows', 'says'),
    [
        ([VOID, row(), row(name='other')], 'id 1 twice'),
        ([VOID, row(), row(id=2)], 'name road twice'),
        ([VOID, row(label_ids=[7]), row(id=2, name='b', label_ids=[7])], 'labelId 7 twice'),
        ([row()], 'no void class.*void: true'),
        ([VOID | {'learned': False}], 'no class that is learned'),
        ([VOID, row(colour=[0, 0, 0])], 'unknown keys colour; there are category, color'),
        ([VOID, row(color=[0, 0])], 'the 3 colors must be integers in 0..255'),
        ([VOID, row(color=[0, 0, 256])], 'the 3 colors must be integers in 0..255'),
        ([VOID, row(color='red')], 'the 3 colors must be integers in 0..255'),
        ([VOID, row(color=[0.5, 0, 0])], 'the 3 colors must be integers in 0..255'),
        ([VOID, row(id=256)], 'id and the 3 colors must be integers in 0..255'),
        ([VOID, row(id=-1)], 'id and the 3 colors must be integers in 0..255'),
        ([VOID, row(id='1')], 'id and the 3 colors must be integers in 0..255'),
        ([VOID, row(name=False)], 'name and category must be text; put it in quotes'),
        ([VOID, row(label_ids=7)], 'label_ids must be a list of integers'),
        ([VOID, row(void='yes')], 'void, learned, scored and countable true or false'),
        ([VOID, {'id': 3}], 'needs id, name, color, category'),
        ([VOID, 'road'], 'needs id, name, color, category'),
        ([VOID, None], 'needs id, name, color, category'),
    ],
)
def test_malformed_file_is_named_with_what_is_wrong(
    tmp_path: Path, rows: list[Any], says: str
) -> None:
    path = write_scheme(tmp_path, *rows)
    with pytest.raises(SchemeError, match=f'own.*{says}'):
        load_scheme(path)


@pytest.mark.parametrize(
    'text', ['', '[]', 'classes: 3', 'classes', '{classes: [', 'a: b: c', 'classes: 2020-02-30']
)
def test_file_that_is_no_scheme(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'own.yaml'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(SchemeError, match=r'own\.yaml'):
        load_scheme(path)


def test_binary_file_is_no_scheme(tmp_path: Path) -> None:
    path = tmp_path / 'own.yaml'
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(SchemeError, match=r'own.yaml cannot be read'):
        load_scheme(path)


def test_schemes_compare_by_content() -> None:
    one, two = load_scheme('cityscapes8'), load_scheme('cityscapes8')
    assert one == two
    assert one != LabelScheme('cityscapes8', one.classes[:3], one.description)


@pytest.mark.parametrize('name', available_schemes())
def test_a_description_has_the_scheme_that_is_published(name: str) -> None:
    scheme = load_scheme(name)
    described = scheme_from_json(scheme.to_json())
    assert described.name == name
    assert described.void_id == scheme.void_id
    assert [(c.id, c.name) for c in described.classes] == [(c.id, c.name) for c in scheme.classes]
    assert np.array_equal(described.palette, scheme.palette)
    assert scheme_from_json(described.to_json()) == described


@pytest.mark.parametrize(
    'text',
    [
        '', '[]', '{}', '[' * 1000, '{"scheme": "a", "void_id": 0, "classes": 3}',
        '{"scheme": "a", "void_id": 0, "classes": [1]}',
        '{"scheme": "a", "void_id": 0, "classes": [{"id": 999, "name": "a", "color": [0, 0, 0]}]}',
        '{"scheme": "a", "void_id": 9, "classes": [{"id": 1, "name": "a", "color": [0, 0, 0]}]}',
        '{"scheme": "a", "void_id": 1, "classes": [{"id": [], "name": "a", "color": "red"}]}',
    ],
)  # fmt: skip
def test_what_describes_no_scheme_is_refused(text: str) -> None:
    with pytest.raises(SchemeError):
        scheme_from_json(text)
