"""A share that never loses its counts, and the interval that says how sure it is.

Every figure of this package is a `Rate`: k of n, so that two tables can be compared and a changed
denominator shows.

>>> print(Rate(1298, 1889))
68.7 % (1298/1889)
>>> print(Rate(81, 118).with_interval())
68.6 % [60.2, 77.1] (81/118)
>>> print(Rate(5, 5).with_interval())
100.0 % [56.6, 100.0] (5/5)
>>> print(Rate(0, 0))
n/a (0/0)

Pairs of one prompt are alike, so rows that share a *cluster* are drawn together (a cluster
bootstrap); without clusters every row is its own. A resample is a multinomial draw over the
distinct clusters' sums, so an interval depends on the values and the seed, never on the order of
the rows, and is cheap. A bootstrap of all or nothing has no width: there stands Wilson's interval,
with the number of clusters as its n (inside a cluster nothing more was learned).

Sources: Efron and Tibshirani 1993, chapter 13; Wilson 1927; cluster bootstrap: Field and Welsh
2007. Coverage by simulation: `python -m benchmarks.coverage`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from verl_videosearch.metrics.inputs import read_correct


@dataclass(frozen=True)
class Interval:
    """A two-sided interval; both ends are NaN when there was nothing to resample."""

    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """`correct` of `total` rows have the property that the figure is named after."""

    correct: float
    """How many; whole except for an expected count (the random baseline)."""
    total: int
    """Out of how many."""
    low: float | None = None
    """Lower end of the interval, a share; None until asked for."""
    high: float | None = None
    """Upper end."""
    num_clusters: int | None = None
    """Prompts (or other clusters) that the interval drew; None where every row was its own."""

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total:
            raise ValueError(
                f"Rate: got {self.correct} of {self.total}; allowed is 0 <= correct <= total"
            )

    @classmethod
    def of(cls, flags: Iterable[bool]) -> Rate:
        """Count the true flags.

        >>> Rate.of([True, False, True]).correct
        2
        """
        flags = read_correct(flags)
        return cls(int(flags.sum()), flags.size)

    @property
    def value(self) -> float:
        """The share, NaN for 0 of 0."""
        return self.correct / self.total if self.total else math.nan

    @classmethod
    def over(
        cls, flags: Iterable[bool], clusters: Sequence[Hashable] | None = None, *, seed: int = 0
    ) -> Rate:
        """Count the true flags and give them an interval; rows of one cluster are drawn together.

        >>> print(Rate.over([True, True, False, False, True, True], clusters="aabbcc"))
        66.7 % [0.0, 100.0] (4/6)
        """
        values = read_correct(flags)
        if clusters is None:
            return cls.of(values).with_interval(seed=seed)
        sums = sum_clusters(values, clusters)
        rate, num_clusters = cls.of(values), len(sums)
        interval = mean_interval(sums, seed=seed)
        return replace(rate, low=interval.low, high=interval.high, num_clusters=num_clusters)

    def with_interval(
        self, *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
    ) -> Rate:
        """Return the same rate with an interval over its rows, each drawn by itself."""
        counts = np.array([self.total - self.correct, self.correct])
        sums = np.array([[0.0, 1.0], [1.0, 1.0]])
        if self.total and self.correct in (0, self.total):
            interval = wilson_interval(self.correct, self.total, level)
        else:
            interval = _resample(sums, counts, num_resamples, seed, level)
        return replace(self, low=interval.low, high=interval.high)

    def __str__(self) -> str:
        correct = (
            f"{self.correct:.0f}" if float(self.correct).is_integer() else f"{self.correct:.1f}"
        )
        counts = f"({correct}/{self.total})"
        if not self.total:
            return f"n/a {counts}"
        interval = (
            ""
            if self.low is None or self.high is None
            else f"[{100 * self.low:.1f}, {100 * self.high:.1f}] "
        )
        return f"{100 * self.value:.1f} % {interval}{counts}"


def wilson_interval(correct: float, total: int, level: float = 0.95) -> Interval:
    """Return Wilson's interval of a share, which has a width at 0 and 1, too.

    >>> interval = wilson_interval(0, 20)
    >>> interval.low, round(interval.high, 3)
    (0.0, 0.161)
    """
    if not total:
        return Interval(math.nan, math.nan)
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, spread = correct / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    low = 0.0 if correct == 0 else max(middle - half, 0.0)
    return Interval(low, 1.0 if correct == total else min(middle + half, 1.0))


def bootstrap_interval(
    values: Iterable[float],
    clusters: Sequence[Hashable] | None = None,
    *,
    num_resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval of the mean of `values` (NaN ends for no values);
    rows of one cluster are drawn together.

    >>> bootstrap_interval([3.0, 3.0, 3.0])
    Interval(low=3.0, high=3.0)
    """
    array = np.fromiter(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(
            "bootstrap_interval: got NaN values; count them as wrong (0) or drop them first"
        )
    sums = sum_clusters(array, range(len(array)) if clusters is None else clusters)
    distinct, counts = np.unique(sums, axis=0, return_counts=True)
    return _resample(distinct, counts, num_resamples, seed, level)


def sum_clusters(values: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """Return (sum of the values, rows) of every cluster, [clusters, 2].

    >>> sum_clusters(np.array([1.0, 0.0, 1.0]), ["a", "b", "a"]).tolist()
    [[2.0, 2.0], [0.0, 1.0]]
    """
    if len(clusters) != len(values):
        raise ValueError(f"got {len(values)} values and {len(clusters)} clusters; give one per row")
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros((len(numbers), 2))
    np.add.at(sums, index, np.column_stack([values, np.ones(len(values))]))
    return sums


def mean_interval(
    sums: np.ndarray, *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the interval of a share from its clusters' (sum, rows), [clusters, 2]."""
    correct, total = (float(each) for each in sums.sum(axis=0)) if len(sums) else (0.0, 0.0)
    if total and correct in (0.0, total):
        return wilson_interval(len(sums) if correct else 0, len(sums), level)
    if len(sums) == 1:  # nothing to draw; its rows as if they were independent, for want of more
        return wilson_interval(correct, int(total), level)
    distinct, counts = np.unique(sums, axis=0, return_counts=True)
    return _resample(distinct, counts, num_resamples, seed, level)


def _resample(
    distinct: np.ndarray, counts: np.ndarray, num_resamples: int, seed: int, level: float
) -> Interval:
    """Return the interval of the mean over clusters of which `counts[i]` have the (sum, rows)
    `distinct[i]`."""
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: got {num_resamples=}, {level=}; allowed are num_resamples >= 1 and "
            "0 < level < 1"
        )
    total = int(counts.sum())
    if not total:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(total, counts / total, size=num_resamples) @ distinct
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
