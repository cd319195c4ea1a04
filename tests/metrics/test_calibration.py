"""`metrics.calibration`: calibration error and risk-coverage, by hand and as properties."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch import metrics
from verl_videosearch.metrics import Rate


def test_calibration_error_by_hand() -> None:
    result = metrics.expected_calibration_error(
        [0.05, 0.15, 0.95, 1.0, None], [0, 1, 1, 0, 1], num_bins=10
    )
    assert result.value == pytest.approx((0.05 + 0.85 + 2 * abs(0.5 - 0.975)) / 4)
    assert [each.accuracy for each in result.bins] == [
        Rate(0, 1),
        Rate(1, 1),
        *[Rate(0, 0)] * 7,
        Rate(1, 2),
    ]
    assert result.missing == Rate(1, 5)


@pytest.mark.parametrize(
    ("confidence", "number"), [(0.0, 0), (0.29, 29), (0.57, 57), (0.99, 99), (1.0, 99)]
)
def test_bins_are_half_open_and_the_last_is_closed(confidence: float, number: int) -> None:
    bins = metrics.expected_calibration_error([confidence], [1], num_bins=100).bins
    assert [each.accuracy.total for each in bins].index(1) == number


def test_a_calibrated_judge_has_a_small_error_and_an_overconfident_one_has_not() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(20000)
    correct = rng.random(20000) < confidence
    assert metrics.expected_calibration_error(confidence, correct).value < 0.02
    assert metrics.expected_calibration_error(np.ones(20000), correct).value == pytest.approx(
        0.5, abs=0.01
    )


def test_calibration_refuses_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match=r"from 1 to 3; allowed is \[0, 1\]"):
        metrics.expected_calibration_error([1, 3], [1, 0])
    with pytest.raises(ValueError, match="num_bins"):
        metrics.expected_calibration_error([0.5], [1], num_bins=0)
    assert math.isnan(metrics.expected_calibration_error([], []).value)


def test_risk_coverage_by_hand() -> None:
    curve = metrics.risk_coverage([3, 1, 2, 2, None], [1, 1, 0, 1, 0])
    assert [(point.threshold, point.covered, point.wrong) for point in curve.points] == [
        (3.0, Rate(1, 5), Rate(0, 1)),
        (2.0, Rate(3, 5), Rate(1, 3)),
        (1.0, Rate(4, 5), Rate(1, 4)),
        (-math.inf, Rate(5, 5), Rate(2, 5)),
    ]
    assert curve.area == pytest.approx((0 + 2 / 3 + 1 / 4 + 2 / 5) / 5)
    assert curve.widest_within(0.3).threshold == 1.0
    assert curve.widest_within(0.1).threshold == 3.0
    assert metrics.risk_coverage([1, 1], [0, 1]).widest_within(0.4) is None
    assert math.isnan(metrics.risk_coverage([], []).area)


@settings(deadline=None)  # machines that run the tests are shared
@given(
    st.lists(st.tuples(st.sampled_from([None, 0.1, 0.5, 0.9]), st.booleans()), min_size=1),
    st.randoms(),
)
def test_confidence_figures_ignore_row_order(rows: list[tuple], rng: random.Random) -> None:
    shuffled = rng.sample(rows, len(rows))
    curves = [metrics.risk_coverage(*zip(*each, strict=True)) for each in (rows, shuffled)]
    errors = [
        metrics.expected_calibration_error(*zip(*each, strict=True)).value
        for each in (rows, shuffled)
    ]
    assert curves[0] == curves[1] and errors[0] == pytest.approx(errors[1], nan_ok=True)
    assert curves[0].points[-1].wrong == Rate.of([not correct for _, correct in rows])
