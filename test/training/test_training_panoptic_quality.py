# SPDX-License-Identifier: Apache-2.0
"""Tests of PQ, SQ and RQ: literal pictures, cityscapesScripts on the same files, properties."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import (  # type: ignore[import-untyped]
    evaluatePanoptic,
)
from cityscapesscripts.preparation.createPanopticImgs import (  # type: ignore[import-untyped]
    convert2panoptic,
)
from hypothesis import given
from hypothesis import strategies as st
from segmented_streets import LABEL_IDS, TRAIN_IDS, Segmented, label_ids_of, segmented, write_truth

from segmentation_node.images.files import encode_png
from segmentation_node.labels import LabelClass, LabelScheme
from segmentation_node.metrics import UNCOUNTED, truth_lut_of
from training.panoptic_quality import PanopticCounts, SegmentQuality

ROAD, CAR, VOID = 1, 2, 0
SMALL = LabelScheme(
    'small',
    (
        LabelClass(VOID, 'void', (0, 0, 0), 'void', void=True),
        LabelClass(ROAD, 'road', (0, 0, 0), 'flat'),
        LabelClass(CAR, 'car', (0, 0, 0), 'vehicle', countable=True),
    ),
)
NAN = SegmentQuality(math.nan, math.nan, math.nan)


def counts_of(
    target: list[int], instances: list[int], labels: list[int], predicted: list[int]
) -> PanopticCounts:
    """Return the counts of one row of pixels."""
    counts = PanopticCounts(SMALL)
    counts.add(
        np.array([target], np.int16), np.array([instances], np.uint16),
        np.array([labels], np.uint8), np.array([predicted], np.uint16),
    )  # fmt: skip
    return counts


# Literal pictures.


def test_two_cars_on_a_road() -> None:
    """The first car is found with IoU 3/4, the second is missed, the road has IoU 4/6."""
    found = counts_of(
        [1, 1, 1, 1, 2, 2, 2, 2, 2, 2], [0, 0, 0, 0, 7, 7, 7, 7, 8, 8],
        [1, 1, 1, 1, 1, 2, 2, 2, 0, 1], [0, 0, 0, 0, 0, 3, 3, 3, 0, 0],
    )  # fmt: skip
    car = SegmentQuality(0.75 / 1.5, 0.75, 1 / 1.5)
    assert found.by_class() == {'road': pytest.approx((4 / 6, 4 / 6, 1)), 'car': car}
    assert found.mean(countable=True) == car
    assert found.mean(countable=False) == pytest.approx((4 / 6, 4 / 6, 1))
    assert found.mean() == pytest.approx(((4 / 6 + 0.5) / 2, (4 / 6 + 0.75) / 2, (1 + 2 / 3) / 2))


def test_an_iou_of_one_half_is_no_match() -> None:
    found = counts_of([2, 2, 2, 2], [1, 1, 1, 1], [2, 2, 0, 0], [1, 1, 0, 0])
    assert found.by_class()['car'] == (0, 0, 0)
    assert found.sums[:, CAR].tolist() == [0, 0, 1, 1]


def test_pixels_that_are_not_scored_are_in_no_union() -> None:
    found = counts_of([2, 2, -1, -1, -1], [1, 1, 0, 9, 9], [2, 2, 2, 2, 2], [1, 1, 1, 1, 1])
    assert found.by_class() == {'road': pytest.approx(NAN, nan_ok=True), 'car': (1, 1, 1)}


@pytest.mark.parametrize(('unscored', 'false'), [(1, 1), (2, 1), (3, 0)])
def test_a_segment_mostly_on_unscored_pixels_is_no_error(unscored: int, false: int) -> None:
    target = [UNCOUNTED] * unscored + [1] * (4 - unscored)
    found = counts_of([*target, 1, 1, 1, 1], [0] * 8, [2] * 4 + [1] * 4, [1] * 4 + [0] * 4)
    assert found.sums[:, CAR].tolist() == [0, 0, false, 0]


@pytest.mark.parametrize(('class_id', 'false'), [(CAR, 0), (ROAD, 1)])
def test_a_group_is_not_missed_and_excuses_its_class(class_id: int, false: int) -> None:
    group = [2, 2, 2, 2]
    found = counts_of(group, [0] * 4, [class_id] * 3 + [0], [1] * 3 + [0])
    assert found.sums[:, CAR].tolist() == [0, 0, 0, 0]
    assert found.sums[:, ROAD].tolist() == [0, 0, false, 0]


def test_instances_of_classes_that_are_not_countable_are_one_segment() -> None:
    found = counts_of([1, 1, 1, 1], [3, 3, 4, 4], [1, 1, 1, 1], [5, 6, 7, 8])
    assert found.by_class()['road'] == (1, 1, 1)


def test_nothing_has_no_quality() -> None:
    counts = PanopticCounts(SMALL)
    assert all(map(math.isnan, counts.mean()))
    assert all(map(math.isnan, counts.mean(countable=True)))


# cityscapesScripts


def test_quality_is_that_of_cityscapesscripts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    images = list(segmented(12))
    for image in images:
        write_truth(tmp_path, image)
    folder = tmp_path / 'gtFine'
    convert2panoptic(str(folder), useTrainId=False, setNames=['val'])
    write_coco(tmp_path / 'predicted', images)
    official = evaluatePanoptic(
        str(folder / 'cityscapes_panoptic_val.json'), str(folder / 'cityscapes_panoptic_val'),
        str(tmp_path / 'predicted.json'), str(tmp_path / 'predicted'), str(tmp_path / 'out.json'),
    )  # fmt: skip
    capfd.readouterr()
    counts = PanopticCounts(TRAIN_IDS)
    lut = truth_lut_of(LABEL_IDS, TRAIN_IDS)
    for image in images:
        instances = np.where(image.truth < 1000, 0, image.truth).astype(np.uint16)
        target = lut[label_ids_of(image.truth)]
        counts.add(target, instances, image.labels, image.instances.ids)
    for part, countable in (('All', None), ('Things', True), ('Stuff', False)):
        expected = tuple(official[part][kind] for kind in ('pq', 'sq', 'rq'))
        assert counts.mean(countable) == pytest.approx(expected, abs=1e-6)
        assert 0.1 < expected[0] < 0.9
    by_class = counts.by_class()
    for c in TRAIN_IDS.learned:
        if math.isfinite(by_class[c.name].pq):
            expected = tuple(official['per_class'][c.label_ids[0]][k] for k in ('pq', 'sq', 'rq'))
            assert by_class[c.name] == pytest.approx(expected, abs=1e-6)


def write_coco(folder: Path, images: list[Segmented]) -> None:
    """Write predictions as COCO's panoptic format has them: colors are numbers of segments."""
    folder.mkdir()
    rows = []
    for image in images:
        segments = image.labels.astype(np.uint32) + 1 + 256 * image.instances.ids
        segments[image.labels == TRAIN_IDS.void_id] = 0
        colors = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1)
        (folder / f'{image.name}.png').write_bytes(encode_png(colors.astype(np.uint8)))
        infos: list[Any] = [
            {'id': number, 'category_id': TRAIN_IDS.learned[number % 256 - 1].label_ids[0]}
            for number in np.unique(segments[segments > 0]).tolist()
        ]
        rows.append(
            {'image_id': image.name, 'file_name': f'{image.name}.png', 'segments_info': infos}
        )
    folder.with_suffix('.json').write_text(json.dumps({'annotations': rows}), encoding='utf-8')


# Properties


@given(st.integers(0, 2**32 - 1))
def test_quality_is_a_share_and_perfect_for_the_truth(seed: int) -> None:
    (image,) = segmented(1, seed)
    target = truth_lut_of(TRAIN_IDS, TRAIN_IDS)[image.labels]
    counts = PanopticCounts(TRAIN_IDS)
    counts.add(target, image.instances.ids, image.labels, image.instances.ids)
    for quality in counts.by_class().values():
        assert math.isnan(quality.pq) or quality == (1, 1, 1)
    (other,) = segmented(1, seed + 1)
    counts.add(target, image.instances.ids, other.labels, other.instances.ids)
    for quality in counts.by_class().values():
        if not math.isnan(quality.pq):
            assert 0 <= quality.pq <= quality.sq <= 1
            assert quality.pq == pytest.approx(quality.sq * quality.rq)


@given(st.integers(0, 2**32 - 1))
def test_numbers_of_instances_do_not_matter(seed: int) -> None:
    (image,) = segmented(1, seed)
    target = truth_lut_of(LABEL_IDS, TRAIN_IDS)[label_ids_of(image.truth)]
    instances = np.where(image.truth < 1000, 0, image.truth).astype(np.uint16)
    renamed = np.append(0, 1 + np.random.default_rng(seed).permutation(2**16 - 1))
    expected, found = PanopticCounts(TRAIN_IDS), PanopticCounts(TRAIN_IDS)
    expected.add(target, instances, image.labels, image.instances.ids)
    found.add(
        target, renamed[instances].astype(np.uint16),
        image.labels, renamed[image.instances.ids].astype(np.uint16),
    )  # fmt: skip
    assert found.sums == pytest.approx(expected.sums)
