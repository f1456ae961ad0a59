# SPDX-License-Identifier: Apache-2.0
"""Tests of the check of a Cityscapes tree, and of the experiments that the tree can run."""

from pathlib import Path

import numpy as np
import pytest
from training_data import write_cityscapes

from segmentation_node.images.files import encode_jpeg, encode_png
from training.check_dataset import CONFIGS, SAMPLE, experiments, main
from training.config import load_experiment
from training.datasets import open_files

FAMILIES = ('deeplabv3plus', 'mask2former', 'unet')


def write(root: Path, train: int, val: int) -> Path:
    """Write a tree of small images."""
    for split, count in (('train', train), ('val', val)):
        write_cityscapes(root, split, count, height=8, width=40)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Tree with two cities for training, too small for a study."""
    write(tmp_path / 'cityscapes', 3 * SAMPLE, 2)
    return write_cityscapes(
        tmp_path / 'cityscapes', 'train', 4, city='othertown', height=8, width=40
    )


@pytest.fixture(scope='module')
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tree that is large enough for the smaller study; nothing changes it."""
    root = write(tmp_path_factory.mktemp('large') / 'cityscapes', 301, 50)
    write_cityscapes(root, 'test', 1, height=8, width=40)
    for path in root.glob('gtFine/test/*/*'):
        path.unlink()
    return root


def check(capsys: pytest.CaptureFixture[str], root: Path, *options: str) -> tuple[int, list[str]]:
    status = main([str(root), '--quiet', *options])
    return status, capsys.readouterr().out.splitlines()


def file(root: Path, kind: str, number: int) -> Path:
    """Return a file of the first training city by the number of its frame."""
    return next(root.glob(f'*/train/testville/testville_{number:06}_*_{kind}'))


def test_tree_runs_the_study_that_it_is_large_enough_for(
    capsys: pytest.CaptureFixture[str], large: Path
) -> None:
    status, said = check(capsys, large)
    assert status == 0
    assert [line.split() for line in said[:-2]] == [
        ['split', 'city', 'images', 'label', 'images', 'polygons'],
        ['test', 'testville', '1', '0', '0'],  # needs no labels
        ['test', 'all', '1', '0', '0'],
        ['train', 'testville', '301', '301', '0'],
        ['train', 'all', '301', '301', '0'],
        ['val', 'testville', '50', '50', '0'],
        ['val', 'all', '50', '50', '0'],
    ]
    names = [f'{f}_cityscapes8_300{end}' for f in FAMILIES for end in ('', '_noaug')]
    assert said[-2] == f'study_300 can run: {", ".join(names)}'
    assert said[-1] == (
        'study_2975 cannot run: train has 301 of 2975 images; val has 50 of 500 images'
    )


def test_every_family_is_trained_on_the_same_images(large: Path) -> None:
    names = experiments('study_300')
    loaded = [
        load_experiment(CONFIGS / f'{name}.yaml', [f'data_root={large.parent}']) for name in names
    ]
    chosen = [[open_files(e, use).pairs for use in (*e.train, *e.val.values())] for e in loaded]
    assert [len(pairs) for pairs in chosen[0]] == [300, 50]
    assert all(pairs == chosen[0] for pairs in chosen)
    assert [e.augment for e in loaded] == [True, False] * 3


def test_small_tree_runs_no_study(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    status, said = check(capsys, tree)
    assert status == 1
    assert [line.split() for line in said[1:4]] == [
        ['train', 'othertown', '4', '4', '0'],
        ['train', 'testville', '24', '24', '0'],
        ['train', 'all', '28', '28', '0'],
    ]
    assert said[-2].startswith('study_300 cannot run: train has 28 of 300 images; val has 2 of 50')


def test_unpaired_files_are_listed(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    image, labels = file(tree, 'leftImg8bit.png', 3), file(tree, 'gtFine_labelIds.png', 5)
    image.unlink()
    labels.unlink()
    file(tree, 'gtFine_polygons.json', 5).unlink()
    status, said = check(capsys, tree)
    assert status == 1
    missing = file(tree, 'leftImg8bit.png', 5)
    assert f'train: {missing} has no labels (expected {labels})' in said
    assert f'train: {file(tree, "gtFine_labelIds.png", 3)} has no image' in said
    assert 'study_300 cannot run: train has 2 unpaired files' in said[-2]


def test_labels_from_polygons_are_counted(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    file(tree, 'gtFine_labelIds.png', 5).unlink()
    said = check(capsys, tree)[1]
    assert said[2].split() == ['train', 'testville', '24', '23', '1']
    file(tree, 'gtFine_polygons.json', 5).write_text('{}', encoding='utf-8')
    assert any('has neither "objects"' in line for line in check(capsys, tree)[1])


@pytest.mark.parametrize('number', [5, 6])  # decoded by default, and not
def test_invalid_files_are_listed(
    capsys: pytest.CaptureFixture[str], tree: Path, number: int
) -> None:
    image, labels = (file(tree, kind, number) for kind in ('leftImg8bit.png', 'labelIds.png'))
    content = image.read_bytes()
    image.write_bytes(content[:-20])
    assert any(f'{image} cannot be read: PNG' in line for line in check(capsys, tree)[1])
    image.write_bytes(b'')
    assert any(f'{image} cannot be read: ' in line for line in check(capsys, tree)[1])
    image.write_bytes(content)
    labels.write_bytes(encode_png(np.zeros((9, 9), np.uint8)))
    said = check(capsys, tree)[1]
    assert any(f'{labels} has size (9, 9), but its image (8, 40)' in line for line in said)


def test_other_content_than_png_is_read_as_it_is(
    capsys: pytest.CaptureFixture[str], tree: Path
) -> None:
    image = file(tree, 'leftImg8bit.png', 5)
    whole = encode_jpeg(np.zeros((8, 40, 3), np.uint8))
    image.write_bytes(whole)
    assert not any(line.startswith('train: ') for line in check(capsys, tree)[1])
    image.write_bytes(whole[:-9])
    assert any('JPEG image is cut short' in line for line in check(capsys, tree)[1])


def test_unknown_ids_are_found_in_all_files_on_request(
    capsys: pytest.CaptureFixture[str], tree: Path
) -> None:
    labels = file(tree, 'labelIds.png', 6)
    labels.write_bytes(encode_png(np.full((8, 40), 99, np.uint8)))
    assert not any('lacks: 99' in line for line in check(capsys, tree)[1])
    said = check(capsys, tree, '--full')[1]
    assert any(f'{labels} cannot be read' in line and 'lacks: 99' in line for line in said)


def test_list_of_problems_is_short(capsys: pytest.CaptureFixture[str], tree: Path) -> None:
    for path in tree.glob('leftImg8bit/train/*/*.png'):
        path.write_bytes(b'')
    said = check(capsys, tree)[1]
    assert sum(line.startswith('train: ') for line in said) == 11
    assert 'train: and 18 more problems' in said


def test_invalid_image_outside_of_the_subset_does_not_matter(
    capsys: pytest.CaptureFixture[str], large: Path
) -> None:
    experiment = load_experiment(
        CONFIGS / 'unet_cityscapes8_300.yaml', [f'data_root={large.parent}']
    )
    chosen = {pair.image for pair in open_files(experiment, experiment.train[0]).pairs}
    (outside,) = set(large.glob('leftImg8bit/train/*/*.png')) - chosen
    for image, expected in ((outside, 0), (min(chosen), 1)):
        content = image.read_bytes()
        image.write_bytes(b'')
        try:
            status, said = check(capsys, large)
        finally:
            image.write_bytes(content)
        assert status == expected
        assert any(f'{image} cannot be read' in line for line in said)
    assert 'study_300 cannot run: train has 1 invalid images' in said


def test_folder_of_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([str(tmp_path)]) == 1
    assert 'has no splits; expected leftImg8bit/SPLIT/CITY' in capsys.readouterr().err
