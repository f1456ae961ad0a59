# SPDX-License-Identifier: Apache-2.0
"""Tests of the temperature of the confidence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmentation_node.networks.confidence import TEMPERATURES, calibrated, confidence_table


def test_temperature_1_changes_nothing() -> None:
    assert confidence_table(1).tolist() == list(range(256))


def test_two_classes_are_divided_as_logits_are() -> None:
    """A score of 204 / 255 = 0.8 is the softmax of the logits log(4) and 0."""
    logits = np.array([np.log(4), 0]) / 2.5
    assert calibrated(2.5)[204] == pytest.approx(np.exp(logits[0]) / np.exp(logits).sum())
    assert confidence_table(0.5)[204] == round(255 * 16 / 17)


@given(st.floats(*TEMPERATURES))
def test_a_surer_score_is_never_published_as_a_less_sure_one(temperature: float) -> None:
    assert (np.diff(confidence_table(temperature).astype(int)) >= 0).all()
    exact = calibrated(temperature)
    assert ((exact >= 0) & (exact <= 1)).all()
    # Equal scores for both of two classes are equal at any temperature.
    assert exact[127] <= 0.5 <= exact[128]


@given(st.floats(1, TEMPERATURES[1]), st.floats(1, TEMPERATURES[1]))
def test_a_higher_temperature_is_less_sure(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (calibrated(high)[128:] <= calibrated(low)[128:]).all()
