"""`metrics.agreement`: swapped orders, position bias and paired tests, by hand and as
properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch import metrics
from verl_videosearch.metrics import Rate

NAN = float("nan")
VERDICT = st.sampled_from([0, 1, 2, None])


@pytest.mark.parametrize(
    ("ab", "ba", "merged", "share"),
    [
        (1, 2, 1, "consistent"),
        (2, 1, 2, "consistent"),
        (0, 0, 0, "consistent"),
        (1, 1, 0, "first_slot"),
        (2, 2, 0, "second_slot"),
        (1, 0, 0, "half_tie"),
        (0, 2, 0, "half_tie"),
        (None, 1, None, "unreadable"),
        (2, NAN, None, "unreadable"),
        (None, None, None, "unreadable"),
    ],
)
def test_what_two_orders_mean(ab: object, ba: object, merged: object, share: str) -> None:
    assert metrics.merge_orders([ab], [ba]) == [merged]
    counts = {
        name: rate.correct for name, rate in vars(metrics.swap_consistency([ab], [ba])).items()
    }
    assert counts == {**dict.fromkeys(counts, 0), share: 1}


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.tuples(VERDICT, VERDICT)))
def test_swap_shares_are_a_partition_and_merging_knows_no_order(rows: list[tuple]) -> None:
    ab, ba = [row[0] for row in rows], [row[1] for row in rows]
    rates = vars(metrics.swap_consistency(ab, ba)).values()
    assert sum(rate.correct for rate in rates) == len(rows) and {rate.total for rate in rates} == {
        len(rows)
    }
    assert metrics.swap_consistency(ba, ab) == metrics.swap_consistency(ab, ba)
    assert metrics.merge_orders(ba, ab) == [
        metrics.swap_verdict(verdict) for verdict in metrics.merge_orders(ab, ba)
    ]


def test_position_bias_counts_the_same_rows_on_both_sides() -> None:
    bias = metrics.position_bias([1, 1, 2, 0, None], [1, None, 1, 1, 1])
    assert (bias.predicted_first, bias.gold_first) == (Rate(3, 3), Rate(1, 3))
    assert bias.value == pytest.approx(2 / 3)
    assert math.isnan(metrics.position_bias([], []).value)


@pytest.mark.parametrize(
    ("only_a", "only_b", "p_value"),
    [
        (0, 0, 1.0),
        (5, 5, 1.0),
        (0, 1, 1.0),
        (0, 5, 0.0625),
        (9, 1, 22 / 1024),
        (1, 9, 22 / 1024),
        (3, 8, 464 / 2048),
    ],
)
def test_mcnemar_exact(only_a: int, only_b: int, p_value: float) -> None:
    assert metrics.mcnemar_exact(only_a, only_b) == p_value


def test_mcnemar_stays_exact_for_large_counts() -> None:
    z_score = 400 / math.sqrt(20000)
    normal = math.erfc((z_score - 1 / math.sqrt(20000)) / math.sqrt(2))
    assert metrics.mcnemar_exact(10200, 9800) == pytest.approx(normal, rel=0.01)
    with pytest.raises(ValueError, match="counts >= 0"):
        metrics.mcnemar_exact(-1, 2)


def test_paired_bootstrap_sees_a_difference_that_separate_intervals_hide() -> None:
    b = [True] * 60 + [False] * 40
    a = [True] * 70 + [False] * 30
    result = metrics.paired_bootstrap(a, b)
    assert (result.a, result.b, result.only_a, result.only_b) == (
        Rate(70, 100),
        Rate(60, 100),
        10,
        0,
    )
    assert (
        result.value == pytest.approx(0.1) and 0.03 < result.low < 0.06 < 0.14 < result.high < 0.17
    )
    assert result.p_value == 2 / 1024
    assert result.a.with_interval().low < result.b.with_interval().high
    backwards = metrics.paired_bootstrap(b, a)
    assert backwards.value == pytest.approx(-0.1) and backwards.high < 0


def test_paired_bootstrap_edge_cases() -> None:
    assert math.isnan(metrics.paired_bootstrap([], []).value)
    with pytest.raises(ValueError, match="equally long"):
        metrics.paired_bootstrap([1], [1, 0])
    for unscored in ([NAN, 1.0], [None, True], [2, 1]):
        with pytest.raises(ValueError, match="0/1"):
            metrics.paired_bootstrap(unscored, [1, 0])
