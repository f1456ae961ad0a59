# SPDX-License-Identifier: Apache-2.0
"""Tests of AP: literal pictures, and cityscapesScripts on the same files."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cityscapesscripts.evaluation import (  # type: ignore[import-untyped]
    evalInstanceLevelSemanticLabeling,
)
from hypothesis import given
from hypothesis import strategies as st
from segmented_streets import LABEL_IDS, TRAIN_IDS, Segmented, label_ids_of, segmented, write_truth

from segmentation_node.arrays import UInt16Array
from segmentation_node.images.files import encode_png
from segmentation_node.instances import Instances
from segmentation_node.metrics import UNCOUNTED, Target, truth_lut_of
from training.average_precision import MIN_IOUS, InstanceCounts

official: Any = evalInstanceLevelSemanticLabeling
CAR, BUS = TRAIN_IDS.id_of('car'), TRAIN_IDS.id_of('bus')


def bar(*parts: tuple[int, int]) -> UInt16Array:
    """Return pixels with the values of the parts, each (value, width), (10, W)."""
    return np.repeat([np.repeat(*np.array(parts, np.uint16).T)], 10, axis=0).astype(np.uint16)


def target_of(instances: UInt16Array, class_id: int = CAR) -> Target:
    return np.where(instances > 0, class_id, TRAIN_IDS.id_of('road')).astype(np.int16)


def counts_of(
    target: Target, instances: UInt16Array, predicted: UInt16Array, *scores: float
) -> InstanceCounts:
    counts = InstanceCounts(TRAIN_IDS)
    class_ids = np.full(len(scores), CAR, np.uint8)
    counts.add(target, instances, Instances(predicted, class_ids, np.array(scores, np.float32)))
    return counts


# Literal pictures.


def test_the_area_under_a_curve_by_hand() -> None:
    """Of two cars one is found, with the second best score: recall 1/2 at precision 1/2.

    The curve has the points (0, 1), (0, 0) and (1/2, 1/2).
    """
    truth = bar((0, 40), (1, 20), (2, 20), (0, 20))
    found = counts_of(target_of(truth), truth, bar((1, 20), (0, 20), (2, 20), (0, 40)), 0.9, 0.8)
    assert found.ap() == pytest.approx(0.5 * (0 + 0.5) / 2)
    # Of equal score, both are accepted together: the curve has the points (0, 1) and (1/2, 1/2).
    found = counts_of(target_of(truth), truth, bar((1, 20), (0, 20), (2, 20), (0, 40)), 0.8, 0.8)
    assert found.ap() == pytest.approx(0.5 * (1 + 0.5) / 2)
    assert found.class_ap()['car'] == found.ap()
    assert math.isnan(found.class_ap()['bus'])


def test_ap_is_the_mean_over_the_thresholds() -> None:
    """With an IoU of 0.62, a car is found at the thresholds 0.5, 0.55 and 0.6."""
    truth = bar((1, 50), (0, 50))
    found = counts_of(target_of(truth), truth, bar((1, 31), (0, 69)), 0.5)
    assert found.by_class()['car'].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert found.ap() == pytest.approx(0.3)
    assert found.ap50() == 1
    assert pytest.approx([0.5 + 0.05 * i for i in range(10)]) == MIN_IOUS


@pytest.mark.parametrize('kind', ['unscored', 'group', 'small'])
def test_what_need_not_be_found_is_no_error(kind: str) -> None:
    truth = bar((1, 20), (0, 20), (2, 20))
    target = target_of(truth)
    there = np.s_[:, 40:]
    if kind == 'unscored':
        target[there], truth[there] = UNCOUNTED, 0
    elif kind == 'group':
        truth[there] = 0
    else:
        truth[:, 49:], target[:, 49:] = 0, UNCOUNTED  # leaves 90 pixels of the instance
    predicted = bar((1, 20), (0, 20), (2, 20))
    assert counts_of(target, truth, predicted, 0.5, 0.9).ap() == 1
    wrong = bar((1, 20), (2, 20), (0, 20))
    assert counts_of(target, truth, wrong, 0.5, 0.9).ap() == pytest.approx(0.25)
    missed = bar((1, 20), (0, 40))
    assert counts_of(target, truth, missed, 0.5).ap() == 1


def test_an_instance_of_an_unscored_class_is_no_excuse() -> None:
    truth = bar((1, 20), (2, 20))
    target = target_of(truth)
    target[:, 20:] = UNCOUNTED
    assert counts_of(target, truth, bar((1, 20), (2, 20)), 0.5, 0.9).ap() == pytest.approx(0.25)


def test_without_predictions_ap_is_0_and_without_truth_undefined() -> None:
    truth, nothing = bar((1, 20)), bar((0, 20))
    assert counts_of(target_of(truth), truth, nothing).ap() == 0
    assert counts_of(target_of(truth, BUS), truth, truth, 0.5).class_ap()['bus'] == 0
    assert math.isnan(counts_of(target_of(nothing), nothing, truth, 0.5).ap())
    assert math.isnan(InstanceCounts(TRAIN_IDS).ap())
    # An instance whose pixels all belong to others is none.
    assert counts_of(target_of(truth), truth, bar((2, 20)), 0.9, 0.5).ap() == 1


# cityscapesScripts


def test_ap_is_that_of_cityscapesscripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = list(segmented(12))
    truth = [str(write_truth(tmp_path, image)) for image in images]
    predictions = [write_prediction(tmp_path / 'predicted', image) for image in images]
    args = copy.copy(official.args)
    args.quiet, args.predictionPath = True, str(tmp_path / 'predicted')
    args.gtInstancesFile = str(tmp_path / 'instances.json')
    monkeypatch.setattr(np, 'in1d', np.isin, raising=False)  # missing since NumPy 2.4
    # The steps of its evaluateImgLists, which cannot write NumPy's integers as JSON.
    official.setInstanceLabels(args)
    true_instances = official.getGtInstances(truth, args)
    matches = official.matchGtWithPreds(predictions, truth, true_instances, args)
    expected = official.computeAverages(official.evaluateMatches(matches, args), args)
    counts = InstanceCounts(TRAIN_IDS)
    lut = truth_lut_of(LABEL_IDS, TRAIN_IDS)
    for image in images:
        instances = np.where(image.truth < 1000, 0, image.truth).astype(np.uint16)
        counts.add(lut[label_ids_of(image.truth)], instances, image.instances)
    assert counts.ap() == pytest.approx(expected['allAp'], abs=1e-6)
    assert counts.ap50() == pytest.approx(expected['allAp50%'], abs=1e-6)
    assert 0.1 < counts.ap() < counts.ap50() < 0.9
    for name, found in expected['classes'].items():
        assert counts.class_ap()[name] == pytest.approx(found['ap'], abs=1e-6, nan_ok=True)
        assert counts.class_ap50()[name] == pytest.approx(found['ap50%'], abs=1e-6, nan_ok=True)


def write_prediction(folder: Path, image: Segmented) -> str:
    """Write a mask per instance, and a text file that lists them; returns the latter."""
    folder.mkdir(exist_ok=True)
    lines = []
    for segment in image.instances.segments:
        mask = folder / f'{image.name}_{segment.id}.png'
        mask.write_bytes(encode_png(((image.instances.ids == segment.id) * 255).astype(np.uint8)))
        label_id = TRAIN_IDS.learned[segment.class_id].label_ids[0]
        lines.append(f'{mask.name} {label_id} {segment.score!r}')
    path = folder / f'{image.name}.txt'
    path.write_text('\n'.join(lines), encoding='utf-8')
    return str(path)


# Properties


@given(st.integers(0, 2**32 - 1))
def test_ap_is_a_share(seed: int) -> None:
    counts = InstanceCounts(TRAIN_IDS)
    lut = truth_lut_of(LABEL_IDS, TRAIN_IDS)
    for image in segmented(2, seed):
        instances = np.where(image.truth < 1000, 0, image.truth).astype(np.uint16)
        counts.add(lut[label_ids_of(image.truth)], instances, image.instances)
    for precisions in counts.by_class().values():
        if np.isfinite(precisions).all():
            assert (precisions >= 0).all()
            assert (precisions <= 1).all()
