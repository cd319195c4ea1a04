"""What a judge reaches without looking: the rows that every table of accuracies needs beside its
models.

A benchmark with 88 % ties gives 88 % to "always tie"; without these rows such a figure looks like
skill.

>>> rows = score_baselines([0, 0, 0, 2, 2, 1])
>>> print(rows.majority.with_ties, rows.majority.without_ties, rows.always_tie.without_ties, sep=" | ")
50.0 % (3/6) | 66.7 % (2/3) | 0.0 % (0/3)
>>> print(rows.random.with_ties, rows.random.without_ties, sep=" | ")
33.3 % (2/6) | 50.0 % (1.5/3)
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verl_videosearch.metrics.accuracy import Accuracies
from verl_videosearch.metrics.inputs import FIRST, LABELS, SECOND, TIE, UNREADABLE, read_gold
from verl_videosearch.metrics.rate import Rate


@dataclass(frozen=True)
class Baselines:
    """Judges that ignore the videos."""

    majority: Accuracies
    """Always the most frequent label of the rows in the figure: without ties that is the more
    frequent of 1 and 2."""
    always_tie: Accuracies
    """Always 0."""
    random: Accuracies
    """Expected counts, exact: uniform over 0, 1, 2 with ties, uniform over 1, 2 without."""


def score_baselines(gold: Iterable[object]) -> Baselines:
    """Return the three baselines over the rows with a gold label."""
    rows = read_gold(gold)
    labels = rows[rows != UNREADABLE]
    decided = labels[labels != TIE]
    always_tie = Accuracies(
        with_ties=Rate.of(labels == TIE),
        without_ties=Rate(0, decided.size),
        unreadable=Rate(0, labels.size),
        unlabelled=Rate.of(rows == UNREADABLE),
    )
    majority = replace(
        always_tie,
        with_ties=Rate.of(labels == majority_label(labels)),
        without_ties=Rate.of(decided == majority_label(decided)),
    )
    random = replace(
        always_tie,
        with_ties=expected_random_accuracy(labels),
        without_ties=expected_random_accuracy(decided, choices=(FIRST, SECOND)),
    )
    return Baselines(majority, always_tie, random)


def majority_label(gold: Iterable[object]) -> int:
    """Return the most frequent label, the smallest of equally frequent ones, 0 for no rows.

    >>> majority_label([1, 2, 2, None])
    2
    """
    labels = read_gold(gold)
    return int(np.argmax([np.sum(labels == label) for label in LABELS]))


def expected_random_accuracy(gold: Iterable[object], *, choices: Sequence[int] = LABELS) -> Rate:
    """Return the expected accuracy of answering uniformly from `choices`; the count may be a
    fraction.

    >>> print(expected_random_accuracy([1, 2, 0], choices=(1, 2)))
    33.3 % (1/3)
    """
    labels = read_gold(gold)
    labels = labels[labels != UNREADABLE]
    return Rate(int(np.isin(labels, choices).sum()) / len(choices), labels.size)


def random_verdicts(num_verdicts: int, *, seed: int, choices: Sequence[int] = LABELS) -> list[int]:
    """Return verdicts drawn uniformly from `choices`; equal seeds give equal verdicts.

    >>> random_verdicts(8, seed=0) == random_verdicts(8, seed=0)
    True
    """
    return np.random.default_rng(seed).choice(choices, size=num_verdicts).tolist()
