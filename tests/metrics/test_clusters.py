"""Pairs of one prompt are drawn together; all or nothing gets Wilson's interval."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.coverage import simulate
from verl_videosearch import metrics
from verl_videosearch.metrics import Rate, cluster_exchange_test, mcnemar_exact, wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # by hand: (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (81, 118, 0.5980, 0.7631),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson(correct: int, total: int, low: float, high: float) -> None:
    interval = wilson_interval(correct, total)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


def test_all_or_nothing_has_a_width_that_counts_prompts() -> None:
    by_pair, by_prompt = Rate(40, 40).with_interval(), Rate.over([True] * 40, list(range(20)) * 2)
    assert by_pair.low == pytest.approx(0.9124, abs=1e-4)
    assert by_prompt.low == pytest.approx(0.8389, abs=1e-4) and by_prompt.num_clusters == 20
    assert Rate.over([False] * 5, "aabbc").high == pytest.approx(0.5615, abs=1e-4)


def test_a_cluster_bootstrap_is_wider_where_clusters_are_alike() -> None:
    alike = np.repeat(np.arange(100) % 2, 4)
    prompts = np.repeat(np.arange(100), 4).tolist()
    by_pair, by_prompt = Rate.over(alike), Rate.over(alike, prompts)
    assert (by_prompt.high - by_prompt.low) / (by_pair.high - by_pair.low) == pytest.approx(
        2.0, rel=0.1
    )
    one_each = Rate.over(alike, range(400))
    assert (one_each.low, one_each.high) == (by_pair.low, by_pair.high)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1), st.randoms())
def test_the_order_of_the_rows_never_matters(rows: list, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    first, second = (Rate.over(*map(list, zip(*each, strict=True))) for each in (rows, shuffled))
    assert first == second and 0 <= first.low <= first.high <= 1


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (9, 1), (3, 3), (12, 0), (40, 21)])
def test_clusters_of_one_row_give_mcnemar(only_a: int, only_b: int) -> None:
    found = cluster_exchange_test([1] * only_a + [-1] * only_b + [0] * 7)
    assert found == pytest.approx(mcnemar_exact(only_a, only_b), rel=1e-9)


def test_clusters_are_exchanged_as_a_whole() -> None:
    assert cluster_exchange_test([4, 4, 4, -1]) == pytest.approx(4 / 16)  # ±11, ±13 of 16 sums
    test = metrics.paired_bootstrap([1] * 12 + [0] * 4, [0] * 16, [0] * 12 + [1] * 4)
    assert (test.p_value, test.num_clusters, test.only_a) == (1.0, 2, 12)
    assert mcnemar_exact(12, 0) < 0.001


def test_one_cluster_has_a_width() -> None:
    rate = Rate.over([True, False, True], "aaa")
    assert rate.num_clusters == 1 and rate.high - rate.low > 0.5


def test_no_rows() -> None:
    rate = Rate.over([], [])
    assert rate.total == 0 and math.isnan(rate.low) and str(rate) == "n/a (0/0)"
    with pytest.raises(ValueError, match="2 values and 1 clusters"):
        Rate.over([1, 0], ["a"])


def test_coverage_at_the_size_of_genai_bench() -> None:
    """A right interval (94.5 %) holds fewer than 51 of 60 once in a thousand seeds; the one over
    pairs holds 48 (80 %)."""
    found = simulate(1889, 502, 0.687, 0.3, num_trials=60, seed=1)
    assert found.by_prompt >= 51 and found.difference >= 51 and found.false_alarms <= 9
    assert found.by_pair < found.by_prompt
