"""Does a judge agree with itself when the videos are swapped, and does one run really beat another?

A verdict names a *slot*: 1 is the video shown first. So a judge that sees the same pair in both
orders should answer 1 and then 2. Verdicts of the swapped order (BA) go in as the judge gave them;
the functions turn them around.

>>> ab, ba = [1, 1, 0, 2, 1], [2, 1, 0, 0, None]
>>> merge_orders(ab, ba)
[1, 0, 0, 0, None]
>>> result = swap_consistency(ab, ba)
>>> print(result.consistent, result.first_slot, result.unreadable, sep=" | ")
40.0 % (2/5) | 20.0 % (1/5) | 20.0 % (1/5)

Covers order (consistency, merging, position bias) and paired tests of two runs over the same rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from verl_videosearch.metrics.inputs import (
    FIRST,
    SECOND,
    TIE,
    UNREADABLE,
    check_same_length,
    pair_verdicts,
    read_correct,
    read_verdicts,
)
from verl_videosearch.metrics.rate import Rate, bootstrap_interval, sum_clusters

_SWAPPED: dict[object, int] = {FIRST: SECOND, SECOND: FIRST, TIE: TIE}


@dataclass(frozen=True)
class SwapConsistency:
    """Where the pairs judged in both orders end up: the five shares have one denominator and add up
    to 1."""

    consistent: Rate
    """Both orders prefer the same video, or both say tie."""
    first_slot: Rate
    """Both orders prefer whatever was shown first."""
    second_slot: Rate
    """Both orders prefer whatever was shown second."""
    half_tie: Rate
    """A tie in one order, a preference in the other."""
    unreadable: Rate
    """No readable verdict in at least one order."""


@dataclass(frozen=True)
class PositionBias:
    """P(predicted 1) - P(gold 1) over the rows with a gold label and a readable verdict."""

    predicted_first: Rate
    """How often the judge prefers the first slot."""
    gold_first: Rate
    """How often the label does, on the same rows."""

    @property
    def value(self) -> float:
        """Above 0 the first slot is favoured; a judge that says tie too often also lowers it."""
        return self.predicted_first.value - self.gold_first.value


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of run A minus accuracy of run B over the same rows."""

    a: Rate
    b: Rate
    only_a: int
    """Rows that A has right and B wrong."""
    only_b: int
    """Rows that B has right and A wrong."""
    low: float
    """Lower end of the bootstrap interval of the difference, a share."""
    high: float
    """Upper end."""
    p_value: float
    """Exact test of "both runs are equally often right": McNemar's, or its like over clusters."""
    num_clusters: int | None = None
    """Prompts (or other clusters) that were drawn and tested; None where every row was its own."""

    @property
    def value(self) -> float:
        """The difference, a share; NaN for no rows."""
        return self.a.value - self.b.value


def swap_verdict(verdict: object) -> int | None:
    """Return the verdict in the labels of the other order: 1 <-> 2, 0 stays, anything else is None.

    >>> [swap_verdict(verdict) for verdict in (0, 1, 2, None)]
    [0, 2, 1, None]
    """
    return _SWAPPED.get(verdict)


def merge_orders(verdicts_ab: Iterable[object], verdicts_ba: Iterable[object]) -> list[int | None]:
    """Return one verdict per pair in the labels of the AB order.

    Agreement gives the verdict and disagreement a tie. Unreadable in either order gives None, thus
    wrong: one verdict is no evidence of agreement, and a tie would reward a judge for breaking
    down.
    """
    verdicts_ab, unswapped = _unswap(verdicts_ab, verdicts_ba)
    merged = np.where(verdicts_ab == unswapped, verdicts_ab, TIE)
    unreadable = (verdicts_ab == UNREADABLE) | (unswapped == UNREADABLE)
    return [
        None if lost else int(verdict) for verdict, lost in zip(merged, unreadable, strict=True)
    ]


def swap_consistency(
    verdicts_ab: Iterable[object], verdicts_ba: Iterable[object]
) -> SwapConsistency:
    """Sort all pairs by what happened when the videos changed places; an unreadable pair is not
    consistent."""
    verdicts_ab, unswapped = _unswap(verdicts_ab, verdicts_ba)
    readable = (verdicts_ab != UNREADABLE) & (unswapped != UNREADABLE)
    consistent = readable & (verdicts_ab == unswapped)
    contradicts = readable & ~consistent
    half_tie = contradicts & ((verdicts_ab == TIE) | (unswapped == TIE))
    same_slot = contradicts & ~half_tie
    return SwapConsistency(
        consistent=Rate.of(consistent),
        first_slot=Rate.of(same_slot & (verdicts_ab == FIRST)),
        second_slot=Rate.of(same_slot & (verdicts_ab == SECOND)),
        half_tie=Rate.of(half_tie),
        unreadable=Rate.of(~readable),
    )


def position_bias(gold: Iterable[object], predicted: Iterable[object]) -> PositionBias:
    """Compare how often judge and labels prefer the first slot; rows without a readable verdict are
    left out of both.

    >>> bias = position_bias(gold=[1, 2, 0, 2], predicted=[1, 1, 1, None])
    >>> print(bias.predicted_first, bias.gold_first, f"{bias.value:+.3f}")
    100.0 % (3/3) 33.3 % (1/3) +0.667
    """
    gold, predicted = pair_verdicts(gold, predicted)
    readable = predicted != UNREADABLE
    return PositionBias(Rate.of(predicted[readable] == FIRST), Rate.of(gold[readable] == FIRST))


def paired_bootstrap(
    correct_a: Iterable[bool],
    correct_b: Iterable[bool],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> PairedDifference:
    """Compare two runs row by row, for example the columns that `correct_with_ties` returns; rows
    of one cluster are drawn together, and exchanged together by the test.

    >>> result = paired_bootstrap([1, 1, 1, 0], [1, 0, 0, 0])
    >>> result.value, result.only_a, result.only_b, result.p_value
    (0.5, 2, 0, 0.5)
    >>> paired_bootstrap([1, 1, 1, 0], [1, 0, 0, 0], clusters="abbc").p_value
    1.0
    """
    a, b = read_correct(correct_a), read_correct(correct_b)
    check_same_length(correct_a=a, correct_b=b)
    differences = a.astype(np.int64) - b
    interval = bootstrap_interval(
        differences, clusters, num_resamples=num_resamples, seed=seed, level=level
    )
    only_a, only_b = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    p_value, num_clusters = mcnemar_exact(only_a, only_b), None
    if clusters is not None:
        sums = sum_clusters(differences.astype(np.float64), clusters)
        p_value, num_clusters = cluster_exchange_test(sums[:, 0].astype(np.int64)), len(sums)
    low, high = interval.low, interval.high
    return PairedDifference(
        Rate.of(a), Rate.of(b), only_a, only_b, low, high, p_value, num_clusters
    )


def cluster_exchange_test(differences: Iterable[int]) -> float:
    """Return the two-sided exact p-value of "both runs are alike", when each cluster's results may
    be exchanged as a whole; with clusters of one row it is McNemar's.

    `differences` are, per cluster, the rows that only A has right minus those that only B has. The
    distribution of the sum over all 2 ** n exchanges is built up cluster by cluster.

    >>> cluster_exchange_test([1] * 9 + [-1]) == mcnemar_exact(9, 1)
    True
    >>> cluster_exchange_test([3, -3])
    1.0
    """
    sizes = [abs(int(each)) for each in differences if each]
    observed = abs(sum(int(each) for each in differences))
    reach = sum(sizes)
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for size in sizes:
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    sums = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(chances[sums >= observed].sum()))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of the exact (binomial) McNemar test; 1.0 when no row differs.

    >>> mcnemar_exact(1, 9)
    0.021484375
    """
    if only_a < 0 or only_b < 0:
        raise ValueError(
            f"mcnemar_exact: got counts {only_a} and {only_b}; allowed are counts >= 0"
        )
    num_flips, num_heads = only_a + only_b, min(only_a, only_b)
    tail, ways = 0, 1
    for heads in range(num_heads + 1):
        tail += ways
        ways = ways * (num_flips - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**num_flips)


def _unswap(
    verdicts_ab: Iterable[object], verdicts_ba: Iterable[object]
) -> tuple[np.ndarray, np.ndarray]:
    """Return both columns in the labels of the AB order."""
    ab, ba = (
        read_verdicts(verdicts_ab),
        read_verdicts(swap_verdict(verdict) for verdict in verdicts_ba),
    )
    check_same_length(verdicts_ab=ab, verdicts_ba=ba)
    return ab, ba
