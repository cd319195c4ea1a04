"""`metrics`: rates and intervals, accuracy of verdicts, baselines; literal tables, properties and
real label files.

The real label files are not part of the project: set VIDEOSEARCH_REAL_LABELS to a folder that holds
`genai_bench_video/data.json` and `mj_bench_video/test.json`.
"""

from __future__ import annotations

import doctest
import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch import metrics
from verl_videosearch.metrics import Interval, Rate

NAN = float("nan")


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(1298, 1889), "68.7 % (1298/1889)"),
        (Rate(0, 5), "0.0 % (0/5)"),
        (Rate(0, 0), "n/a (0/0)"),
        (Rate(1889 / 3, 1889), "33.3 % (629.7/1889)"),
        (Rate(1, 2, low=0.25, high=0.75), "50.0 % [25.0, 75.0] (1/2)"),
        (Rate(7, 7).with_interval(), "100.0 % [64.6, 100.0] (7/7)"),
    ],
)
def test_a_rate_prints_its_counts(rate: Rate, text: str) -> None:
    assert str(rate) == text


def test_a_rate_of_nothing_is_nan_with_and_without_interval() -> None:
    assert math.isnan(Rate(0, 0).value)
    assert str(Rate(0, 0).with_interval()) == "n/a (0/0)"


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="0 <= correct <= total"):
        Rate(*counts)


def test_bootstrap_interval_of_a_share_has_the_binomial_width() -> None:
    rate = Rate(400, 1000).with_interval(num_resamples=5000)
    standard_error = math.sqrt(0.4 * 0.6 / 1000)
    assert rate.low == pytest.approx(0.4 - 1.96 * standard_error, abs=0.003)
    assert rate.high == pytest.approx(0.4 + 1.96 * standard_error, abs=0.003)


def test_bootstrap_equals_resampling_row_by_row() -> None:
    values = np.random.default_rng(1).normal(size=80)
    rows = np.random.default_rng(2).integers(80, size=(5000, 80))
    expected = np.quantile(values[rows].mean(axis=1), [0.05, 0.95])
    interval = metrics.bootstrap_interval(values, num_resamples=5000, level=0.9)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=0.015)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.randoms())
def test_bootstrap_ignores_row_order_and_stays_inside_the_values(
    values: list[float], rng: random.Random
) -> None:
    interval = metrics.bootstrap_interval(values, num_resamples=50)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert metrics.bootstrap_interval(rng.sample(values, len(values)), num_resamples=50) == interval


def test_bootstrap_edge_cases() -> None:
    empty = metrics.bootstrap_interval([])
    assert math.isnan(empty.low) and math.isnan(empty.high)
    assert metrics.bootstrap_interval([1, 1]) == Interval(1.0, 1.0)
    with pytest.raises(ValueError, match="got NaN"):
        metrics.bootstrap_interval([1.0, NAN])
    with pytest.raises(ValueError, match="0 < level < 1"):
        metrics.bootstrap_interval([1.0], level=95)


@pytest.mark.parametrize(
    ("gold", "predicted", "with_ties", "without_ties"),
    [
        ([0, 1, 2], [0, 1, 2], (3, 3), (2, 2)),
        ([0, 1, 2], [0, 0, 0], (1, 3), (0, 2)),
        ([0, 1, 2], [None, NAN, 7], (0, 3), (0, 2)),
        ([0, 1, 2], [-1, "1", 1.5], (0, 3), (0, 2)),
        ([0, 0, 0], [0, 1, None], (1, 3), (0, 0)),
        ([1, 2], [1.0, np.int64(2)], (2, 2), (2, 2)),
        ([1, None, NAN, 2], [1, 1, 1, 1], (1, 2), (1, 2)),
        ([], [], (0, 0), (0, 0)),
    ],
)
def test_accuracy(gold: list, predicted: list, with_ties: tuple, without_ties: tuple) -> None:
    assert metrics.accuracy_with_ties(gold, predicted) == Rate(*with_ties)
    assert metrics.accuracy_without_ties(gold, predicted) == Rate(*without_ties)


@pytest.mark.parametrize("gold", [[1, -1, 0], ["1"], [3]])
def test_foreign_gold_labels_are_refused(gold: list) -> None:
    with pytest.raises(ValueError, match="allowed are 0 .tie., 1, 2 and None"):
        metrics.accuracy_with_ties(gold, [1] * len(gold))


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="'gold': 2, 'predicted': 1"):
        metrics.accuracy_with_ties([1, 2], [1])


def test_confusion_and_recall() -> None:
    gold, predicted = [0, 0, 1, 1, 1, 2], [0, 1, 1, None, 2, NAN]
    assert metrics.confusion(gold, predicted).tolist() == [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1]]
    assert metrics.per_class_recall(gold, predicted) == {
        0: Rate(1, 2),
        1: Rate(1, 3),
        2: Rate(0, 1),
    }


def test_dimensions_are_scored_over_their_own_rows() -> None:
    gold = {"TA": [1, None, 0], "VQ": [2, 2, 2]}
    predicted = {"TA": [1, 1, None], "VQ": [2, 0, None], "OA": [1, 1, 1]}
    figures = metrics.score_dimensions(gold, predicted)
    assert list(figures) == ["TA", "VQ"]
    assert figures["TA"] == metrics.Accuracies(Rate(1, 2), Rate(1, 1), Rate(1, 2), Rate(1, 3))
    assert figures["VQ"] == metrics.Accuracies(Rate(1, 3), Rate(1, 3), Rate(1, 3), Rate(0, 3))
    with pytest.raises(ValueError, match=r"missing \['MQ'\]"):
        metrics.score_dimensions({"MQ": [1]}, predicted)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.sampled_from([0, 1, 2, None]))))
def test_figures_of_one_column_fit_together(rows: list[tuple]) -> None:
    gold, predicted = [row[0] for row in rows], [row[1] for row in rows]
    figures, table = metrics.score_verdicts(gold, predicted), metrics.confusion(gold, predicted)
    recalls = metrics.per_class_recall(gold, predicted)
    assert figures.with_ties == Rate(int(np.trace(table)), len(rows))
    assert figures.without_ties == Rate(
        recalls[1].correct + recalls[2].correct, recalls[1].total + recalls[2].total
    )
    assert figures.unreadable == Rate(int(table[:, 3].sum()), len(rows))


def test_baselines_are_exact() -> None:
    rows = metrics.score_baselines([0] * 3 + [1] * 2 + [2] * 1 + [None])
    assert rows.majority == metrics.Accuracies(Rate(3, 6), Rate(2, 3), Rate(0, 6), Rate(1, 7))
    assert rows.always_tie == metrics.Accuracies(Rate(3, 6), Rate(0, 3), Rate(0, 6), Rate(1, 7))
    assert rows.random == metrics.Accuracies(Rate(2, 6), Rate(1.5, 3), Rate(0, 6), Rate(1, 7))


def test_baselines_of_nothing_print_as_not_available() -> None:
    rows = metrics.score_baselines([])
    assert {str(row.with_ties) for row in (rows.majority, rows.always_tie, rows.random)} == {
        "n/a (0/0)"
    }


def test_random_verdicts_meet_their_expected_accuracy() -> None:
    gold = [0] * 500 + [1] * 1000 + [2] * 1500
    drawn = [
        metrics.accuracy_with_ties(gold, metrics.random_verdicts(3000, seed=seed)).value
        for seed in range(50)
    ]
    assert np.mean(drawn) == pytest.approx(metrics.expected_random_accuracy(gold).value, abs=0.005)
    assert metrics.random_verdicts(20, seed=1, choices=(1, 2)) != metrics.random_verdicts(
        20, seed=2, choices=(1, 2)
    )


def test_the_examples_of_the_documentation_hold() -> None:
    page = Path(__file__).parents[2] / "docs" / "metrics.md"
    results = doctest.testfile(str(page), module_relative=False)
    assert results.attempted > 10 and results.failed == 0


@pytest.fixture(scope="module")
def real_labels() -> Path:
    """The folder of published label files; absent it is a skip on a developer's machine and a
    failure in CI."""
    folder = os.environ.get("VIDEOSEARCH_REAL_LABELS")
    if folder is None:
        reason = (
            "set VIDEOSEARCH_REAL_LABELS to the folder of published label files (see "
            "this module's docstring)"
        )
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return Path(folder)


def test_baselines_of_genai_bench(real_labels: Path) -> None:
    rows = json.loads((real_labels / "genai_bench_video" / "data.json").read_text(encoding="utf-8"))
    votes = Counter(row["vote_type"] for row in rows)
    assert votes == {"leftvote": 619, "rightvote": 651, "tievote": 215, "bothbad_vote": 404}
    baselines = metrics.score_baselines(
        {"leftvote": 1, "rightvote": 2}.get(row["vote_type"], 0) for row in rows
    )
    assert baselines.always_tie == metrics.Accuracies(
        Rate(619, 1889), Rate(0, 1270), Rate(0, 1889), Rate(0, 1889)
    )
    assert baselines.majority == metrics.Accuracies(
        Rate(651, 1889), Rate(651, 1270), Rate(0, 1889), Rate(0, 1889)
    )
    assert baselines.random.without_ties == Rate(635, 1270)


def test_baselines_of_mj_bench(real_labels: Path) -> None:
    rows = json.loads((real_labels / "mj_bench_video" / "test.json").read_text(encoding="utf-8"))
    words = Counter(row["overall_preference"] for row in rows)
    assert words == {
        "Same": 959,
        "Video 1 better": 66,
        "Video 1 Better": 6,
        "Video 2 better": 46,
        "Hard to judge": 8,
    }
    label = {"same": 0, "video 1 better": 1, "video 2 better": 2, "hard to judge": None}
    baselines = metrics.score_baselines(label[row["overall_preference"].lower()] for row in rows)
    assert baselines.always_tie == metrics.Accuracies(
        Rate(959, 1077), Rate(0, 118), Rate(0, 1077), Rate(8, 1085)
    )
    assert baselines.majority == metrics.Accuracies(
        Rate(959, 1077), Rate(72, 118), Rate(0, 1077), Rate(8, 1085)
    )
