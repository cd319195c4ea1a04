"""Accuracy with ties of a judge that gives a signed score: which |margin| is small enough to call a
tie?

A threshold t makes row i a tie when |margin_i| <= t. Sorting the rows by |margin| and turning them
into ties one after another visits every possible threshold in O(n log n); a real threshold flips
all rows of equal |margin| together.

>>> gold, margin = [1, 2, 0, 0], [0.9, -0.8, 0.1, -0.2]
>>> result = accuracy_with_ties_calibrated(gold, margin)
>>> print(result.accuracy, result.threshold)
100.0 % (4/4) 0.2
>>> verdicts_from_margins(margin, threshold=result.threshold)
[1, 2, 0, 0]

The best threshold is chosen on the rows that it is reported on, an oracle: print the baselines
beside it, or fit the threshold on a held-out split and apply it with `verdicts_from_margins`. For
verdicts without grades use `accuracy_with_ties`.

Sources: Deutsch, Foster and Freitag, "Ties Matter" (arXiv 2305.14324); KwaiVGI/VideoAlign,
`calc_accuracy.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from verl_videosearch.metrics.inputs import (
    FIRST,
    SECOND,
    TIE,
    UNREADABLE,
    pair_margins,
    read_margins,
)
from verl_videosearch.metrics.rate import Rate


@dataclass(frozen=True)
class CalibratedAccuracy:
    """The best three-class accuracy over tie thresholds."""

    accuracy: Rate
    """Over all labelled rows; rows without a margin are wrong at every threshold."""
    threshold: float
    """The smallest threshold that reaches it; |margin| <= threshold is a tie, so 0.0 adds none."""


@dataclass(frozen=True)
class _Sweep:
    """State k: the k rows of smallest |margin| are ties, all others (zeros included) are
    decided."""

    thresholds: np.ndarray
    """[k + 1] ascending |margin|, with 0.0 in front for the state before the first row."""
    num_correct: np.ndarray
    """[k + 1] rows that are right in each state."""
    total: int
    """All labelled rows, those without a margin included."""


def verdicts_from_margins(
    margins: Iterable[float | None], *, threshold: float = 0.0
) -> list[int | None]:
    """Return 1 for a margin above the threshold, 2 below minus it, 0 in between, None for no
    margin.

    >>> verdicts_from_margins([0.3, -0.3, 0.1, None], threshold=0.1)
    [1, 2, 0, None]
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: got {threshold}; allowed are values >= 0")
    margin = read_margins(margins)
    labels = np.where(np.abs(margin) <= threshold, TIE, _decide(margin))
    return [None if label == UNREADABLE else int(label) for label in labels]


def accuracy_with_ties_calibrated(
    gold: Iterable[object], margin: Iterable[float | None]
) -> CalibratedAccuracy:
    """Return the best accuracy over all thresholds, "no added ties" included; the row order never
    matters.

    >>> print(accuracy_with_ties_calibrated([1, 2, 1, 2], [4, -3, 2, -1]).accuracy)
    100.0 % (4/4)
    """
    sweep = _sweep_ties(gold, margin)
    run_ends = np.searchsorted(sweep.thresholds, np.unique(sweep.thresholds), side="right") - 1
    best = run_ends[np.argmax(sweep.num_correct[run_ends])]
    return CalibratedAccuracy(
        Rate(int(sweep.num_correct[best]), sweep.total), float(sweep.thresholds[best])
    )


def accuracy_with_ties_videoalign(
    gold: Iterable[object], margin: Iterable[float | None]
) -> CalibratedAccuracy:
    """Return what VideoAlign's published program reports, for comparison with its leaderboard only.

    It differs twice from `accuracy_with_ties_calibrated`: at least one row always becomes a tie,
    and every row is a candidate, even inside a run of equal |margin|. So it depends on the row
    order as soon as margins repeat, and a perfect judge of four decided pairs gets 3/4. (Rows
    without a margin stay outside the sweep here; there, NaN leaves the sort undefined.)

    >>> print(accuracy_with_ties_videoalign([1, 2, 1, 2], [4, -3, 2, -1]).accuracy)
    75.0 % (3/4)
    """
    sweep = _sweep_ties(gold, margin)
    if len(sweep.thresholds) == 1:
        return CalibratedAccuracy(Rate(0, sweep.total), math.nan)
    best = 1 + np.argmax(sweep.num_correct[1:])
    return CalibratedAccuracy(
        Rate(int(sweep.num_correct[best]), sweep.total), float(sweep.thresholds[best])
    )


def _sweep_ties(gold: Iterable[object], margin: Iterable[float | None]) -> _Sweep:
    labels, values = pair_margins(gold, margin)
    total = len(labels)
    labels, values = labels[~np.isnan(values)], values[~np.isnan(values)]
    order = np.argsort(np.abs(values), kind="stable")
    labels, values = labels[order], values[order]
    won_as_tie = labels == TIE
    lost_as_tie = (labels != TIE) & (labels == _decide(values))
    gains = np.cumsum(won_as_tie.astype(np.int64) - lost_as_tie)
    num_correct = lost_as_tie.sum() + np.concatenate([[0], gains])
    return _Sweep(np.concatenate([[0.0], np.abs(values)]), num_correct, total)


def _decide(margin: np.ndarray) -> np.ndarray:
    """Return the sign as a label: 1, 2, 0 for exactly 0, UNREADABLE for NaN."""
    return np.select(
        [margin > 0, margin < 0, margin == 0], [FIRST, SECOND, TIE], default=UNREADABLE
    )
