"""A share that never loses its counts, and the percentile bootstrap that says how sure it is.

Every figure of this package is a `Rate`: k of n, so that two tables can be compared and a changed
denominator shows.

>>> print(Rate(1298, 1889))
68.7 % (1298/1889)
>>> print(Rate(81, 118).with_interval())
68.6 % [60.2, 77.1] (81/118)
>>> print(Rate(0, 0))
n/a (0/0)

A resample of n rows with replacement is a multinomial draw over the distinct values, so an interval
depends on the values and the seed but never on the order of the rows, and costs no n x
num_resamples array.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    """Lower end of the bootstrap interval, a share; None until asked for with `with_interval`."""
    high: float | None = None
    """Upper end."""

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

    def with_interval(
        self, *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
    ) -> Rate:
        """Return the same rate with a percentile bootstrap interval over its rows."""
        distinct, counts = np.array([0.0, 1.0]), np.array([self.total - self.correct, self.correct])
        interval = _resample(distinct, counts, num_resamples, seed, level)
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


def bootstrap_interval(
    values: Iterable[float], *, num_resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the percentile bootstrap interval of the mean of `values` (NaN ends for no values).

    >>> bootstrap_interval([3.0, 3.0, 3.0])
    Interval(low=3.0, high=3.0)
    """
    array = np.fromiter(values, dtype=np.float64)
    if np.isnan(array).any():
        raise ValueError(
            "bootstrap_interval: got NaN values; count them as wrong (0) or drop them first"
        )
    distinct, counts = np.unique(array, return_counts=True)
    return _resample(distinct, counts, num_resamples, seed, level)


def _resample(
    distinct: np.ndarray, counts: np.ndarray, num_resamples: int, seed: int, level: float
) -> Interval:
    """Return the interval of the mean of a sample that holds `distinct[i]` exactly `counts[i]`
    times."""
    if num_resamples < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: got {num_resamples=}, {level=}; allowed are num_resamples >= 1 and 0 < level < 1"
        )
    total = int(counts.sum())
    if not total:
        return Interval(math.nan, math.nan)
    rng = np.random.default_rng(seed)
    means = [
        rng.multinomial(total, counts / total) @ distinct / total for _ in range(num_resamples)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
