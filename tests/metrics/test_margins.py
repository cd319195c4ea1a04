"""`metrics.margins` against a brute force over thresholds and against VideoAlign's published
procedure."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_videosearch import metrics
from verl_videosearch.metrics import Rate

NAN = float("nan")
GOLD = st.sampled_from([0, 1, 2])
MARGIN = st.one_of(st.none(), st.integers(-3, 3))


def brute_force(gold: list[int], margin: list) -> tuple[int, float]:
    """Try every threshold with plain loops; return most rows right and the smallest threshold that
    reaches it."""
    thresholds = sorted(
        {0.0, *(abs(value) for value in margin if value is not None and value == value)}
    )
    counts = []
    for threshold in thresholds:
        num_correct = 0
        for label, value in zip(gold, margin, strict=True):
            if value is None or value != value:
                continue
            verdict = 0 if abs(value) <= threshold else (1 if value > 0 else 2)
            num_correct += verdict == label
        counts.append(num_correct)
    return max(counts), thresholds[counts.index(max(counts))]


RIGHT = {(1, True, False), (2, False, True)}
"""(label, margin > 0, margin < 0) of a decided row that is right."""


def videoalign_by_prefixes(gold: list[int], margin: list[float]) -> tuple[int, float]:
    """What VideoAlign's counters amount to: sort by |margin|, make k >= 1 rows ties, keep the first
    best k."""
    rows = sorted(zip(gold, margin, strict=True), key=lambda row: abs(row[1]))
    best = (-1, NAN)
    for num_ties in range(1, len(rows) + 1):
        ties_right = sum(label == 0 for label, _ in rows[:num_ties])
        decided_right = sum(
            (label, value > 0, value < 0) in RIGHT for label, value in rows[num_ties:]
        )
        if ties_right + decided_right > best[0]:
            best = (ties_right + decided_right, abs(rows[num_ties - 1][1]))
    return best


def random_case(seed: int, *, with_gaps: bool) -> tuple[list[int], list]:
    """Draw labels and margins; three cases in four repeat margins, and gaps are None and NaN."""
    rng = random.Random(seed)
    num_rows = rng.randint(1, 40)
    draw = [
        lambda: rng.gauss(0, 1),
        lambda: rng.choice([-1, 0, 1]),
        lambda: rng.randint(-3, 3),
        lambda: 0.5,
    ][seed % 4]
    gold = [rng.choice([0, 1, 2]) for _ in range(num_rows)]
    gap_share = 0.1 if with_gaps else 0.0
    return gold, [
        rng.choice([None, NAN]) if rng.random() < gap_share else draw() for _ in range(num_rows)
    ]


@pytest.mark.parametrize("seed", range(300))
def test_calibrated_accuracy_equals_brute_force(seed: int) -> None:
    gold, margin = random_case(seed, with_gaps=True)
    result = metrics.accuracy_with_ties_calibrated(gold, margin)
    assert (result.accuracy.correct, result.threshold) == brute_force(gold, margin)
    verdicts = metrics.verdicts_from_margins(margin, threshold=result.threshold)
    assert metrics.accuracy_with_ties(gold, verdicts) == result.accuracy


@pytest.mark.parametrize("seed", range(300))
def test_videoalign_variant_equals_its_published_procedure(seed: int) -> None:
    gold, margin = random_case(seed, with_gaps=False)
    result = metrics.accuracy_with_ties_videoalign(gold, margin)
    assert (result.accuracy.correct, result.threshold) == videoalign_by_prefixes(gold, margin)


@pytest.mark.parametrize(
    ("gold", "margin", "correct", "threshold"),
    [
        pytest.param([0, 0, 0], [1, -2, 3], 3, 3.0, id="all gold ties"),
        pytest.param([1, 2, 1], [1, -2, 3], 3, 0.0, id="no gold ties"),
        pytest.param([0, 1, 2], [5, 5, 5], 1, 0.0, id="equal margins, deciding is as good"),
        pytest.param([0, 0, 1, 2], [5, 5, 5, 5], 2, 5.0, id="equal margins, ties win"),
        pytest.param([0, 1, 2], [0, 0, 0], 1, 0.0, id="natural ties"),
        pytest.param([0, 0, 1], [None, NAN, 2], 1, 0.0, id="no margin is never a tie"),
        pytest.param([0], [math.inf], 1, math.inf, id="infinite margin"),
        pytest.param([], [], 0, 0.0, id="no rows"),
    ],
)
def test_calibrated_accuracy_of_edge_cases(
    gold: list, margin: list, correct: int, threshold: float
) -> None:
    result = metrics.accuracy_with_ties_calibrated(gold, margin)
    assert result == metrics.CalibratedAccuracy(Rate(correct, len(gold)), threshold)


@settings(deadline=None)  # machines that run the tests are shared
@given(st.lists(st.tuples(GOLD, MARGIN)), st.randoms(), st.integers(1, 1000))
def test_calibrated_accuracy_ignores_order_scale_and_swap(
    rows: list, rng: random.Random, factor: int
) -> None:
    gold, margins = [row[0] for row in rows], [row[1] for row in rows]
    result = metrics.accuracy_with_ties_calibrated(gold, margins)

    order = rng.sample(range(len(rows)), len(rows))
    shuffled = metrics.accuracy_with_ties_calibrated(
        [gold[i] for i in order], [margins[i] for i in order]
    )
    assert shuffled == result

    scaled = metrics.accuracy_with_ties_calibrated(
        gold, [None if each is None else each * factor for each in margins]
    )
    assert (scaled.accuracy, scaled.threshold) == (result.accuracy, result.threshold * factor)

    negated = [None if each is None else -each for each in margins]
    assert (
        metrics.accuracy_with_ties_calibrated(
            [metrics.swap_verdict(label) for label in gold], negated
        )
        == result
    )


def test_videoalign_depends_on_row_order_and_calibration_does_not() -> None:
    """A judge that never says tie, always with |margin| 1: 46 right, 14 wrong, 40 gold ties. The
    truth is 46 %."""
    rows = [(0, 1)] * 40 + [(1, 1)] * 46 + [(1, -1)] * 14
    shuffles = [
        list(zip(*random.Random(seed).sample(rows, len(rows)), strict=True)) for seed in range(200)
    ]
    calibrated = {metrics.accuracy_with_ties_calibrated(*columns).accuracy for columns in shuffles}
    assert calibrated == {Rate(46, 100)}

    published = [
        metrics.accuracy_with_ties_videoalign(*columns).accuracy.correct for columns in shuffles
    ]
    assert min(published) == 45 and max(published) >= 55
    ties_first = metrics.accuracy_with_ties_videoalign(*zip(*rows, strict=True))
    assert ties_first.accuracy == Rate(86, 100)


def test_videoalign_never_tries_no_added_ties() -> None:
    gold, perfect = [1, 2, 1, 2], [4, -3, 2, -1]
    assert metrics.accuracy_with_ties_videoalign(gold, perfect).accuracy == Rate(3, 4)
    assert metrics.accuracy_with_ties_calibrated(gold, perfect).accuracy == Rate(4, 4)


@pytest.mark.parametrize("gold", [[], [0, 1]])
def test_videoalign_without_any_margin_has_nothing_right(gold: list) -> None:
    result = metrics.accuracy_with_ties_videoalign(gold, [NAN] * len(gold))
    assert result.accuracy == Rate(0, len(gold)) and math.isnan(result.threshold)


def test_videoalign_is_one_row_off_at_most_when_margins_are_distinct() -> None:
    rng = np.random.default_rng(0)
    gold, margin = rng.choice([0, 1, 2], p=[0.2, 0.4, 0.4], size=3000), rng.normal(size=3000)
    published = metrics.accuracy_with_ties_videoalign(gold, margin).accuracy.correct
    assert (
        0 <= metrics.accuracy_with_ties_calibrated(gold, margin).accuracy.correct - published <= 1
    )


@pytest.mark.parametrize("threshold", [-0.1, NAN])
def test_a_threshold_below_zero_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="allowed are values >= 0"):
        metrics.verdicts_from_margins([1.0], threshold=threshold)
