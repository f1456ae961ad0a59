# SPDX-License-Identifier: Apache-2.0
"""Scores of label files are those of the same labels in a bag."""

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_making import image_topic, label_cdr, stamp_ns, string_cdr, string_topic

from segmentation_node.bags import score_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.folders.score_images import main
from segmentation_node.images.files import encode_png
from segmentation_node.labels import load_scheme
from segmentation_node.paths import config_dir

Labels = dict[str, Any]


def write_labels(folder: Path, labels: Labels, end: str = '') -> Path:
    for name, ids in labels.items():
        path = folder / f'{name}{end}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(np.array(ids, np.uint8)))
    return folder


def write_masks(folder: Path, labels: Labels, scheme: str = 'cityscapes8', end: str = '') -> Path:
    write_labels(folder / 'label_mask', labels, end)
    text = load_scheme(scheme).to_json()
    (folder / 'label_info.json').write_text(text, encoding='utf-8')
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in (*arguments, '--quiet')])


# camvid11: sky 0, road 3, car 8, unlabelled 11; cityscapes8: flat 1, sky 5, vehicle 7.
def test_figures_by_hand(tmp_path: Path, capsys: Any) -> None:
    truth = write_labels(tmp_path / 'truth', {'a': [[3, 8]], 'seq/b': [[3, 11]]})
    masks = write_masks(tmp_path / 'out', {'a': [[1, 1]], 'seq/b': [[1, 7]]})
    assert run(masks, '--truth', truth, '--truth-scheme', 'camvid11') == 0
    captured = capsys.readouterr()
    assert 'flat             66.67' in captured.out
    assert 'vehicle           0.00' in captured.out
    assert 'mIoU             33.33' in captured.out
    assert '2 frames scored; 2 had truth, 2 had a mask' in captured.out
    assert captured.err == ''


def test_a_bag_of_the_same_labels_has_the_same_table(tmp_path: Path, capsys: Any) -> None:
    random = np.random.default_rng(0)
    truth = {str(i): random.integers(0, 12, (9, 7)) for i in range(4)}
    masks = {str(i): random.integers(0, 8, (9, 7)) for i in range(4)}
    with BagWriter(tmp_path / 'bag') as bag:
        for place, scheme, labels in (
            ('/ground_truth', 'camvid11', truth), ('/segmentation_node', 'cityscapes8', masks)
        ):  # fmt: skip
            info = string_topic(f'{place}/label_info_json')
            bag.write(info, stamp_ns(0), string_cdr(load_scheme(scheme).to_json()))
            for name, ids in labels.items():
                topic = image_topic(f'{place}/label_mask')
                bag.write(topic, stamp_ns(int(name)), label_cdr(int(name), ids))
    assert score_bag.main([str(tmp_path / 'bag'), '--quiet']) == 0
    expected = capsys.readouterr().out
    write_labels(tmp_path / 'truth', truth)
    # Its label_mask alone, too, and other folders whose schemes are given.
    write_masks(tmp_path / 'out', masks)
    write_labels(tmp_path / 'masks', masks)
    for arguments in (
        [tmp_path / 'out'],
        [tmp_path / 'out' / 'label_mask'],
        [tmp_path / 'masks', '--predicted-scheme', 'cityscapes8'],
    ):
        options = ['--truth', tmp_path / 'truth', '--truth-scheme', 'camvid11']
        assert run(*arguments, *options) == 0
        assert capsys.readouterr().out == expected


def test_cityscapes_names_belong_together(tmp_path: Path, capsys: Any) -> None:
    road, car = (load_scheme('cityscapes34').id_of(name) for name in ('road', 'car'))
    truth = write_labels(tmp_path / 'gtFine', {'ulm/ulm_0_1': [[road, car]]}, '_gtFine_labelIds')
    write_labels(truth, {'ulm/ulm_0_1': [[9, 9]]}, '_gtFine_instanceIds')
    masks = write_masks(tmp_path / 'out', {'ulm/ulm_0_1': [[1, 7]]}, end='_leftImg8bit')
    assert run(masks, '--truth', truth, '--truth-scheme', 'cityscapes34') == 0
    captured = capsys.readouterr()
    assert 'mIoU            100.00' in captured.out
    assert '1 file (' in captured.err
    assert '_gtFine_instanceIds.png): not a label image' in captured.err


def test_what_has_no_partner_is_named(tmp_path: Path, capsys: Any) -> None:
    truth = write_labels(tmp_path / 'truth', {'a': [[3]], 'b': [[3]]})
    (truth / '._a.png').write_bytes(b'x')
    masks = write_masks(tmp_path / 'out', {'a': [[1]], 'c': [[1]]})
    assert run(masks, '--truth', truth, '--truth-scheme', 'camvid11') == EXIT_INCOMPLETE
    captured = capsys.readouterr()
    assert '1 frames scored; 2 had truth, 2 had a mask' in captured.out
    assert f'not scored, without a label mask: 1 file ({truth}/b.png)' in captured.err
    assert f'not scored, without truth: 1 file ({masks}/label_mask/c.png)' in captured.err
    assert '._a.png): hidden' in captured.err


def test_masks_without_truth_alone_are_no_failure(tmp_path: Path) -> None:
    truth = write_labels(tmp_path / 'truth', {'a': [[3]]})
    masks = write_masks(tmp_path / 'out', {'a': [[1]], 'c': [[1]]})
    assert run(masks, '--truth', truth, '--truth-scheme', 'camvid11') == 0


def test_a_scheme_to_score_in(tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / 'mine.yaml'
    own.write_text((config_dir() / 'labels' / 'cityscapes8.yaml').read_text(encoding='utf-8'))
    truth = write_labels(tmp_path / 'truth', {'a': [[3, 8]]})
    masks = write_masks(tmp_path / 'out', {'a': [[1, 7]]}, str(own))
    options = ('--truth', truth, '--truth-scheme', 'camvid11')
    assert run(masks, *options) == 1
    assert "unknown label scheme 'mine'" in capsys.readouterr().err
    assert run(masks, *options, '--label-scheme', own) == 0
    assert 'IoU in % (mine)' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('truth', 'mask', 'says'),
    [
        ({'a': [[3]]}, {'b': [[1]]}, 'no label mask .* has the name of its truth .* b.png and a'),
        ({'a': [[3]]}, {'a': [[1, 1]]}, 'a.png: the label mask is 2 x 1 but its truth is 1 x 1'),
        ({'a': [[3, 12]]}, {'a': [[1, 1]]}, r'truth.a.png: .* scheme camvid11 lacks: 12 '),
        ({'a': [[3, 8]]}, {'a': [[1, 77]]}, 'out.label_mask.a.png: .* cityscapes8 lacks: 77'),
        ({'a': [[11, 11]]}, {'a': [[1, 1]]}, 'without a pixel whose truth is a scored class'),
    ],
)  # fmt: skip
def test_what_cannot_be_scored(
    tmp_path: Path, capsys: Any, truth: Labels, mask: Labels, says: str
) -> None:
    write_labels(tmp_path / 'truth', truth)
    masks = write_masks(tmp_path / 'out', mask)
    assert run(masks, '--truth', tmp_path / 'truth', '--truth-scheme', 'camvid11') == 1
    captured = capsys.readouterr()
    assert re.search(says, captured.err), captured.err
    assert captured.out == ''


def test_damaged_files_and_jpeg_are_no_labels(tmp_path: Path, capsys: Any) -> None:
    truth = write_labels(tmp_path / 'truth', {'a': [[3]], 'b': [[3]]})
    masks = write_masks(tmp_path / 'out', {'a': [[1]], 'b': [[1]]})
    options = ('--truth', truth, '--truth-scheme', 'camvid11')
    (truth / 'b.png').write_bytes((truth / 'b.png').read_bytes()[:-20])
    assert run(masks, *options) == 1
    assert f'{truth}/b.png: PNG image is cut short' in capsys.readouterr().err
    for name in ('a', 'b'):
        (truth / f'{name}.png').unlink()
        cv2.imwrite(str(truth / f'{name}.jpg'), np.zeros((1, 1), np.uint8))
    assert run(masks, *options) == 1
    said = capsys.readouterr().err
    assert (
        'no image found, expected files that end in .png, .tif, .tiff; there are 2 files' in said
    )


def test_what_the_ids_mean_has_to_be_said(tmp_path: Path, capsys: Any) -> None:
    truth = write_labels(tmp_path / 'truth', {'a': [[3]]})
    masks = write_masks(tmp_path / 'out', {'a': [[1]]})
    assert run(masks, '--truth', truth) == 1
    assert 'give --truth-scheme NAME, for example cityscapes34' in capsys.readouterr().err
    options = ('--truth', truth, '--truth-scheme', 'camvid11')
    assert run(masks, *options, '--predicted-scheme', 'camvid11') == 1
    assert 'has ids of cityscapes8, as label_info.json says' in capsys.readouterr().err
    (masks / 'label_info.json').write_text('{"scheme": 3}')
    assert run(masks, *options) == 1
    assert 'is not a description of a label scheme' in capsys.readouterr().err
    assert run(tmp_path / 'none', *options) == 1
    assert 'none is not a folder' in capsys.readouterr().err


def test_two_runs_are_compared_without_naming_a_scheme(tmp_path: Path, capsys: Any) -> None:
    some = write_masks(tmp_path / 'some', {'a': [[1, 7]]})
    assert run(some, '--truth', write_masks(tmp_path / 'others', {'a': [[1, 1]]})) == 0
    assert 'pixel accuracy   50.00' in capsys.readouterr().out
