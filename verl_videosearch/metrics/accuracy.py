"""How often a verdict equals the gold label: with ties ("tau"), without ties ("diff"), per class
and per dimension.

The one rule: an unreadable verdict is wrong. It is never a tie, never dropped, and reported beside
every accuracy.

>>> figures = score_verdicts(gold=[1, 2, 0, 0, None], predicted=[1, 0, 0, None, 2])
>>> print(figures.with_ties, figures.without_ties, figures.unreadable, sep=" | ")
50.0 % (2/4) | 50.0 % (1/2) | 25.0 % (1/4)

| figure | rows (denominator) | correct when |
|---|---|---|
| with ties | all rows with a gold label | predicted == gold, three classes |
| without ties | rows whose gold is 1 or 2 | predicted == gold; a predicted tie is wrong |

Covers verdicts 0/1/2. Graded scores and the tie threshold are in `margins`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verl_videosearch.metrics.inputs import (
    LABELS,
    TIE,
    UNREADABLE,
    pair_verdicts,
    read_gold,
    read_verdicts,
)
from verl_videosearch.metrics.rate import Rate


@dataclass(frozen=True)
class Accuracies:
    """The figures of one column of verdicts."""

    with_ties: Rate
    """Three-class accuracy over all labelled rows."""
    without_ties: Rate
    """Accuracy over the rows whose gold label is not a tie."""
    unreadable: Rate
    """Share of labelled rows without a readable verdict; they are wrong in both accuracies."""
    unlabelled: Rate
    """Share of all rows without a gold label; they are in no other figure."""


def correct_with_ties(gold: Iterable[object], predicted: Iterable[object]) -> np.ndarray:
    """Return one boolean per labelled row: the verdict equals the gold label.

    >>> correct_with_ties([0, 1, 2], [0, 1, None]).tolist()
    [True, True, False]
    """
    gold, predicted = pair_verdicts(gold, predicted)
    return gold == predicted


def correct_without_ties(gold: Iterable[object], predicted: Iterable[object]) -> np.ndarray:
    """Return one boolean per row whose gold label is 1 or 2: the verdict equals it.

    >>> correct_without_ties([0, 1, 2], [0, 1, 0]).tolist()
    [True, False]
    """
    gold, predicted = pair_verdicts(gold, predicted)
    return (gold == predicted)[gold != TIE]


def accuracy_with_ties(gold: Iterable[object], predicted: Iterable[object]) -> Rate:
    """Return the three-class accuracy over all labelled rows ("tau" of a judge that answers 0, 1 or
    2).

    >>> print(accuracy_with_ties([0, 1, 2], [0, 1, None]))
    66.7 % (2/3)
    """
    return Rate.of(correct_with_ties(gold, predicted))


def accuracy_without_ties(gold: Iterable[object], predicted: Iterable[object]) -> Rate:
    """Return the accuracy over rows with a preferred video ("diff"); a predicted tie is wrong.

    >>> print(accuracy_without_ties([0, 1, 2], [0, 1, 0]))
    50.0 % (1/2)
    """
    return Rate.of(correct_without_ties(gold, predicted))


def unreadable_rate(predicted: Iterable[object]) -> Rate:
    """Return the share of verdicts that are not 0, 1 or 2.

    >>> print(unreadable_rate([0, 1, None, float("nan")]))
    50.0 % (2/4)
    """
    return Rate.of(read_verdicts(predicted) == UNREADABLE)


def score_verdicts(
    gold: Iterable[object],
    predicted: Iterable[object],
    clusters: Sequence[Hashable] | None = None,
) -> Accuracies:
    """Return both accuracies and the unreadable share of one column of verdicts; with clusters
    (the prompt of each row) both accuracies have an interval that draws these."""
    gold = list(gold)
    labels, verdicts = pair_verdicts(gold, predicted)
    with_ties = accuracy_with_ties(labels, verdicts)
    without_ties = accuracy_without_ties(labels, verdicts)
    if clusters is not None:
        rows = [row for row, label in zip(clusters, read_gold(gold), strict=True) if label >= 0]
        decided = [row for row, label in zip(rows, labels, strict=True) if label != TIE]
        with_ties = Rate.over(labels == verdicts, rows)
        without_ties = Rate.over((labels == verdicts)[labels != TIE], decided)
    return Accuracies(
        with_ties=with_ties,
        without_ties=without_ties,
        unreadable=unreadable_rate(verdicts),
        unlabelled=Rate(len(gold) - len(labels), len(gold)),
    )


def score_dimensions(
    gold: Mapping[str, Iterable[object]], predicted: Mapping[str, Iterable[object]]
) -> dict[str, Accuracies]:
    """Return the figures of every gold dimension, each over the rows that carry its label.

    >>> figures = score_dimensions({"TA": [1, None], "VQ": [0, 2]}, {"TA": [1, 1], "VQ": [0, 1]})
    >>> {name: str(figure.with_ties) for name, figure in figures.items()}
    {'TA': '100.0 % (1/1)', 'VQ': '50.0 % (1/2)'}
    """
    missing = sorted(set(gold) - set(predicted))
    if missing:
        raise ValueError(
            f"predicted dimensions: got {sorted(predicted)}, missing {missing}; "
            "pass None for no verdict"
        )
    return {
        dimension: score_verdicts(labels, predicted[dimension])
        for dimension, labels in gold.items()
    }


def confusion(gold: Iterable[object], predicted: Iterable[object]) -> np.ndarray:
    """Return counts [3, 4]: row = gold 0, 1, 2; column = predicted 0, 1, 2, unreadable.

    >>> confusion([0, 1, 1, 2], [0, 1, 2, None]).tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    """
    gold, predicted = pair_verdicts(gold, predicted)
    counts = np.zeros((len(LABELS), len(LABELS) + 1), dtype=np.int64)
    np.add.at(counts, (gold, np.where(predicted == UNREADABLE, len(LABELS), predicted)), 1)
    return counts


def per_class_recall(gold: Iterable[object], predicted: Iterable[object]) -> dict[int, Rate]:
    """Return for each gold label how many of its rows were recognised.

    >>> {label: str(rate) for label, rate in per_class_recall([0, 1, 1], [0, 1, None]).items()}
    {0: '100.0 % (1/1)', 1: '50.0 % (1/2)', 2: 'n/a (0/0)'}
    """
    counts = confusion(gold, predicted)
    return {label: Rate(int(counts[label, label]), int(counts[label].sum())) for label in LABELS}
