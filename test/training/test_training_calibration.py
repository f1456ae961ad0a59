# SPDX-License-Identifier: Apache-2.0
"""Tests of calibration error and risk-coverage area: manual results and their formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segmentation_node.arrays import UInt8Array
from segmentation_node.metrics import UNCOUNTED
from segmentation_node.networks.confidence import TEMPERATURES, calibrated, confidence_table
from training.calibration import Calibration


def calibration(target: list[int], predicted: list[int], confidence: list[int]) -> Calibration:
    found = Calibration()
    found.add(
        np.array([target], np.int16), np.array([predicted], np.uint8),
        np.array([confidence], np.uint8),
    )  # fmt: skip
    return found


def test_error_by_hand() -> None:
    # 51 / 255 = 0.2 and 204 / 255 = 0.8: 1 of 2 is correct at 0.2, 0 of 2 at 0.8.
    found = calibration([1, 1, 1, 1], [1, 2, 2, 2], [51, 51, 204, 204])
    assert found.ece() == pytest.approx(0.5 * abs(0.5 - 0.2) + 0.5 * abs(0 - 0.8))


def test_right_and_certain_is_no_error_wrong_and_certain_is_all() -> None:
    assert calibration([1, 1], [1, 1], [255, 255]).ece() == 0
    assert calibration([1, 1], [2, 2], [255, 255]).ece() == 1


def test_surer_and_less_sure_cancel_only_within_a_bin() -> None:
    # With a single bin, 1 of 2 is correct, at a mean confidence of 0.5.
    found = calibration([1, 1], [1, 2], [0, 255])
    assert found.ece(bins=1) == pytest.approx(0)
    assert found.ece() == 1


def test_uncounted_truth_does_not_count() -> None:
    found = calibration([UNCOUNTED, 1], [1, 1], [51, 255])
    assert found.pixels.sum() == 1
    assert found.ece() == 0


def test_nothing_counted_has_no_error() -> None:
    assert math.isnan(Calibration().ece())


def test_table_has_a_row_a_bin_closed_above() -> None:
    # 17 / 255 is exactly 1 / 15, the end of the first bin.
    table = calibration([1, 1, 1, 1], [1, 1, 1, 2], [0, 17, 18, 255]).table()
    assert len(table) == 15
    assert [b.pixels for b in table] == [2, 1, *[0] * 12, 1]
    assert table[0].confidence == pytest.approx(17 / 255 / 2)
    assert table[0].accuracy == 1
    assert table[14].low == pytest.approx(14 / 15)
    assert table[14].high == 1
    assert table[14].accuracy == 0
    assert math.isnan(table[5].accuracy)


@pytest.mark.parametrize('bins', range(1, 21))
def test_every_value_is_in_the_bin_that_holds_it(bins: int) -> None:
    for value in range(256):
        table = calibration([1], [1], [value]).table(bins)
        (held,) = [i for i, b in enumerate(table) if b.pixels]
        assert held * 255 < value * bins <= (held + 1) * 255 or held == value == 0


rows = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.uint8, n, elements=st.integers(0, 1)), hnp.arrays(np.uint8, n)
    )
)


@given(rows, st.integers(1, 20))
def test_error_is_that_of_the_formula(row: tuple[UInt8Array, UInt8Array], bins: int) -> None:
    right, confidence = row
    expected = 0.0
    for m in range(bins):
        of_bin = [
            i for i, value in enumerate(confidence.tolist())
            if m * 255 < value * bins <= (m + 1) * 255 or (m == 0 and value == 0)
        ]  # fmt: skip
        if of_bin:
            accuracy = sum(int(right[i]) for i in of_bin) / len(of_bin)
            mean = sum(int(confidence[i]) / 255 for i in of_bin) / len(of_bin)
            expected += len(of_bin) / len(right) * abs(accuracy - mean)
    found = calibration([1] * len(right), (2 - right).tolist(), confidence.tolist())
    assert found.ece(bins) == pytest.approx(expected, abs=1e-12)
    assert 0 <= found.ece(bins) <= 1
    assert sum(b.pixels for b in found.table(bins)) == len(right)


@given(rows)
def test_finer_bins_hide_no_more(row: tuple[UInt8Array, UInt8Array]) -> None:
    right, confidence = row
    found = calibration([1] * len(right), (2 - right).tolist(), confidence.tolist())
    assert found.ece(15) >= found.ece(5) - 1e-12  # each of 5 bins covers 3 of 15


def test_mean_confidence_is_over_the_counted_pixels() -> None:
    found = calibration([1, 1, UNCOUNTED], [1, 2, 1], [255, 51, 0])
    assert found.mean_confidence() == pytest.approx((1 + 0.2) / 2)
    assert math.isnan(Calibration().mean_confidence())


def test_area_under_the_risk_coverage_curve_by_hand() -> None:
    # From sure to unsure: right, wrong, right, wrong. Risks 0 / 1, 1 / 2, 1 / 3, 2 / 4.
    found = calibration([1, 1, 1, 1], [1, 2, 1, 2], [250, 200, 100, 50])
    assert found.aurc() == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_pixels_of_equal_confidence_enter_the_curve_together() -> None:
    # One sure pixel is right; of the three others, one is wrong: risk 1 / 4 for each of them.
    found = calibration([1, 1, 1, 1], [1, 2, 1, 1], [255, 128, 128, 128])
    assert found.aurc() == pytest.approx((0 + 3 * 1 / 4) / 4)


def test_area_of_a_useless_confidence_is_the_share_of_errors() -> None:
    assert calibration([1] * 4, [1, 2, 1, 1], [7] * 4).aurc() == pytest.approx(1 / 4)
    assert calibration([1, 1], [1, 1], [0, 255]).aurc() == 0
    assert calibration([1, 1], [2, 2], [0, 255]).aurc() == 1
    assert math.isnan(Calibration().aurc())


@given(rows)
def test_area_is_the_mean_risk_at_the_confidence_of_each_pixel(
    row: tuple[UInt8Array, UInt8Array],
) -> None:
    right, confidence = row
    risks = [1 - right[confidence >= value].mean() for value in confidence]
    found = calibration([1] * len(right), (2 - right).tolist(), confidence.tolist())
    assert found.aurc() == pytest.approx(sum(risks) / len(risks), abs=1e-12)


# Temperature.


def counted(chances: list[float], pixels: int = 1_000_000) -> Calibration:
    """Return pixels with every confidence, of which the given shares are correct."""
    return Calibration(np.full(256, pixels), np.rint(np.array(chances) * pixels).astype(np.int64))


@pytest.mark.parametrize('temperature', [0.25, 0.8, 1, 1.7, 6])
def test_temperature_that_made_the_pixels_is_found(temperature: float) -> None:
    found = counted(calibrated(temperature).tolist())
    assert found.temperature() == pytest.approx(temperature, rel=0.001)
    assert found.at(found.temperature()).ece() < 0.002


def test_pixels_that_are_all_right_or_all_wrong_give_the_bounds() -> None:
    assert counted([1.0] * 128 + [1.0] * 128).temperature() >= TEMPERATURES[0]
    right_above_half = counted([0.0] * 128 + [1.0] * 128)
    assert right_above_half.temperature() == pytest.approx(TEMPERATURES[0], rel=0.01)
    wrong_above_half = counted([1.0] * 128 + [0.0] * 128)
    assert wrong_above_half.temperature() == pytest.approx(TEMPERATURES[1], rel=0.01)


def test_no_pixel_has_temperature_1() -> None:
    assert Calibration().temperature() == 1


@given(rows, st.floats(*TEMPERATURES))
def test_counts_at_a_temperature_are_those_of_its_confidence(
    row: tuple[UInt8Array, UInt8Array], temperature: float
) -> None:
    right, confidence = row
    target, predicted = [1] * len(right), (2 - right).tolist()
    published = confidence_table(temperature)[confidence].tolist()
    found = calibration(target, predicted, confidence.tolist()).at(temperature)
    expected = calibration(target, predicted, published)
    assert found.pixels.tolist() == expected.pixels.tolist()
    assert found.right.tolist() == expected.right.tolist()


def test_sum_counts_the_pixels_of_both() -> None:
    found = calibration([1], [1], [51]) + calibration([1, 1], [2, 1], [51, 255])
    assert (found.pixels[51], found.right[51]) == (2, 1)
    assert (found.pixels[255], found.right[255]) == (1, 1)
