# SPDX-License-Identifier: Apache-2.0
"""Scores from bags are the scores of the same arrays."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_making import image_topic, label_cdr, stamp_ns, string_cdr, string_topic

from segmentation_node.bags import messages
from segmentation_node.bags.score_bag import main, score_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError, DatasetError, SchemeError
from segmentation_node.labels import load_scheme
from segmentation_node.metrics import Confusion, truth_lut_of
from segmentation_node.paths import config_dir

TRUTH, MASK = '/ground_truth', '/segmentation_node'
Labels = dict[int, list[list[int]]]


def write_labels(bag: BagWriter, namespace: str, scheme: str, labels: Labels) -> None:
    info = string_topic(f'{namespace}/label_info_json')
    bag.write(info, stamp_ns(0), string_cdr(load_scheme(scheme).to_json()))
    for index, ids in labels.items():
        bag.write(image_topic(f'{namespace}/label_mask'), stamp_ns(index), label_cdr(index, ids))


def bag_with(
    path: Path, truth: Labels, masks: Labels, truth_scheme: str = 'camvid11',
    mask_scheme: str = 'cityscapes8',
) -> Path:  # fmt: skip
    with BagWriter(path) as bag:
        write_labels(bag, TRUTH, truth_scheme, truth)
        write_labels(bag, MASK, mask_scheme, masks)
    return path


# camvid11: sky 0, building 1, road 3, tree 5, car 8, unlabelled 11;
# cityscapes8: void 0, flat 1, construction 2, nature 4, sky 5, vehicle 7.
def test_figures_by_hand(tmp_path: Path) -> None:
    path = bag_with(
        tmp_path / 'bag',
        truth={0: [[3, 3, 3, 3], [8, 8, 11, 11]], 1: [[3, 3, 0, 0], [0, 0, 0, 0]]},
        masks={0: [[1, 1, 1, 7], [7, 0, 7, 1]], 1: [[1, 1, 5, 5], [5, 5, 5, 5]]},
    )
    result = score_bag(path)
    iou = result.scores.class_iou()
    assert iou['flat'] == pytest.approx(5 / 6)
    assert iou['vehicle'] == pytest.approx(1 / 3)  # one hit, one miss as void, one false alarm
    assert iou['sky'] == 1
    assert math.isnan(iou['human'])
    assert result.scores.miou() == pytest.approx((5 / 6 + 1 / 3 + 1) / 3)
    assert (result.scored_frames, result.truth_frames, result.predicted_frames) == (2, 2, 2)


def test_frames_are_paired_by_their_stamps(tmp_path: Path) -> None:
    truth = {index: [[3, 8]] for index in range(6)}
    masks = {4: [[1, 7]], 1: [[1, 7]], 2: [[1, 7]], 9: [[7, 1]]}
    result = score_bag(bag_with(tmp_path / 'bag', truth, masks))
    assert result.scores.miou() == 1
    assert (result.scored_frames, result.truth_frames, result.predicted_frames) == (3, 6, 4)


@pytest.mark.parametrize('recorded_apart', [False, True])
def test_stamps_that_are_zero_match_no_frame_with_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recorded_apart: bool
) -> None:
    path = tmp_path / 'bag'
    with BagWriter(path) as bag:
        for namespace, scheme, labels in (
            (TRUTH, 'camvid11', [3, 3, 8, 8]), (MASK, 'cityscapes8', [1, 7, 1, 7]),
        ):  # fmt: skip
            write_labels(bag, namespace, scheme, {})
            late_ns = 7 if recorded_apart and namespace == MASK else 0
            for index, label in enumerate(labels):
                pixels = np.array([[label]], np.uint8)
                message = messages.image(pixels, 'mono8', messages.header(0, 'front'))
                topic = image_topic(f'{namespace}/label_mask')
                bag.write(topic, stamp_ns(index) + late_ns, messages.serialize(message))
    status = main([str(path), '--quiet'])
    said = capsys.readouterr()
    if recorded_apart:
        assert status == 1
        assert 'header stamps repeat' in said.err
    else:
        assert status == 0
        assert 'mIoU             33.33' in said.out  # the first frame alone has 100
        assert '4 frames scored; 4 had truth, 4 had a mask' in said.out
        assert '4 of them were matched by recording time' in said.out


def test_many_frames_are_counted_as_one_set(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = {i: random.integers(0, 12, (9, 7)).tolist() for i in range(8)}
    masks = {i: random.integers(0, 8, (9, 7)).tolist() for i in reversed(range(8))}
    camvid, target = load_scheme('camvid11'), load_scheme('cityscapes8')
    expected = Confusion()
    for index in range(8):
        expected.add(
            camvid.mapping_to(target)[np.array(truth[index])], np.array(masks[index], np.uint8)
        )
    got = score_bag(bag_with(tmp_path / 'bag', truth, masks)).scores
    # Unlabelled truth becomes void, which the official figures leave out as well.
    assert got.class_iou() == expected.scores(target).class_iou()


def test_truth_in_another_bag(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'truth') as bag:
        write_labels(bag, TRUTH, 'camvid11', {0: [[3]]})
    with BagWriter(tmp_path / 'masks.mcap') as bag:
        write_labels(bag, MASK, 'cityscapes8', {0: [[1]]})
    result = score_bag(tmp_path / 'masks.mcap', truth_path=tmp_path / 'truth')
    assert result.scores.miou() == 1


def test_not_annotated_and_unscored_truth_counts_for_nothing() -> None:
    target = load_scheme('cityscapes8')
    camvid = truth_lut_of(load_scheme('camvid11'), target)
    assert camvid[11] == -1
    assert camvid[3] == target.id_of('flat')
    cityscapes = truth_lut_of(load_scheme('cityscapes34'), target)
    assert cityscapes[255] == -1  # licence plates
    assert cityscapes[9] == -1  # parking: flat, but left out of the official figures
    assert cityscapes[7] == target.id_of('flat')
    assert cityscapes[1] == target.void_id  # the own bonnet is annotated as void


def test_finer_masks_are_scored_in_a_scheme_both_have(tmp_path: Path) -> None:
    road, car = (load_scheme('cityscapes19').id_of(name) for name in ('road', 'car'))
    path = bag_with(
        tmp_path / 'bag', {0: [[3, 8]]}, {0: [[road, car]]}, mask_scheme='cityscapes19'
    )
    with pytest.raises(SchemeError, match='no unambiguous counterpart'):
        score_bag(path)
    assert score_bag(path, label_scheme='cityscapes8').scores.miou() == 1


def test_scheme_that_is_not_installed_is_given_as_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / 'mine.yaml'
    own.write_text((config_dir() / 'labels' / 'cityscapes8.yaml').read_text(encoding='utf-8'))
    path = bag_with(tmp_path / 'bag', {0: [[3, 8]]}, {0: [[1, 7]]}, mask_scheme=str(own))
    assert main([str(path)]) == 1
    said = capsys.readouterr().err
    assert "unknown label scheme 'mine'" in said
    assert 'give the path of a .yaml file as the label scheme to score in' in said
    assert score_bag(path, label_scheme=str(own)).scores.miou() == 1


def test_what_cannot_be_scored(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'no stamp of .*label_mask .1 frames'):
        score_bag(bag_with(tmp_path / 'apart', {0: [[3]]}, {1: [[1]]}))
    with pytest.raises(DatasetError, match='mask is 2 x 1 but its truth is 1 x 1; both must'):
        score_bag(bag_with(tmp_path / 'sizes', {0: [[3]]}, {0: [[1, 1]]}))
    with BagWriter(tmp_path / 'no_truth') as bag:
        write_labels(bag, MASK, 'cityscapes8', {0: [[1]]})
    with pytest.raises(BagError, match="no topic '/ground_truth/label_mask'; it has"):
        score_bag(tmp_path / 'no_truth')


@pytest.mark.parametrize(
    ('truth', 'mask', 'says'),
    [
        (
            [[3, 12]],
            [[1, 1]],
            r'labels with values that label scheme camvid11 lacks: 12 \(1 pixels\)',
        ),
        ([[3, 8]], [[1, 255]], 'labels with values that label scheme cityscapes8 lacks: 255'),
    ],
)
def test_ids_that_no_class_has_are_refused(
    tmp_path: Path, truth: list[list[int]], mask: list[list[int]], says: str
) -> None:
    with pytest.raises(DatasetError, match=f'at {stamp_ns(1)} ns: {says}'):
        score_bag(bag_with(tmp_path / 'bag', {0: [[3]], 1: truth}, {0: [[1]], 1: mask}))


def test_truth_without_a_scored_pixel_is_no_score(tmp_path: Path, capsys: Any) -> None:
    # 11 is "unlabelled", which means not annotated.
    path = bag_with(tmp_path / 'bag', {0: [[11, 11]]}, {0: [[1, 1]]})
    assert main([str(path)]) == 1
    captured = capsys.readouterr()
    assert '1 frames without a pixel whose truth is a scored class of cityscapes8' in captured.err
    assert 'nan' not in captured.out


@pytest.mark.parametrize('option', ['--predicted', '--truth'])
def test_what_is_no_label_mask_is_named(tmp_path: Path, capsys: Any, option: str) -> None:
    path = bag_with(tmp_path / 'bag', {0: [[3]]}, {0: [[1]]})
    assert main([str(path), option, f'{TRUTH}/label_info_json']) == 1
    assert 'is a std_msgs/msg/String, expected a sensor_msgs/msg/Image' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'is not a description of a label scheme'),
        ('{"scheme": "kitchen", "classes": []}', "scheme 'kitchen'.*to score in"),
        ('{"scheme": "cityscapes8"}', 'is not a description of a label scheme'),
        (
            '{"scheme": "cityscapes8", "classes": []}',
            'whose classes differ from the',
        ),
    ],
)
def test_other_schemes_than_ours_are_refused(tmp_path: Path, text: str, says: str) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        write_labels(bag, TRUTH, 'camvid11', {0: [[3]]})
        bag.write(string_topic(f'{MASK}/label_info_json'), stamp_ns(0), string_cdr(text))
        bag.write(image_topic(f'{MASK}/label_mask'), stamp_ns(0), label_cdr(0, [[1]]))
    with pytest.raises(BagError, match=says):
        score_bag(tmp_path / 'bag')


def test_the_command(tmp_path: Path, capsys: Any) -> None:
    path = bag_with(tmp_path / 'bag', {0: [[3, 8]]}, {0: [[1, 1]]})
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert 'mIoU             25.00' in said
    assert '1 frames scored; 1 had truth, 1 had a mask' in said
    assert main([str(path), '--truth', '/nothing']) == 1
    assert 'score_bag: ' in capsys.readouterr().err
