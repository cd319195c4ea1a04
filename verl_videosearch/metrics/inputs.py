"""Turn what callers pass into arrays: the one place that knows what an unreadable verdict is.

Labels are 0 (tie), 1 and 2. A margin is a signed preference; above 0 it speaks for video 1. Two
kinds of "nothing" stay apart: a row without a *gold* label cannot be scored and is dropped; a row
without a readable *prediction* stays and is wrong.

>>> read_verdicts([1, 0, None, float("nan"), 3]).tolist()
[1, 0, -1, -1, -1]
>>> [column.tolist() for column in pair_verdicts([1, None, 2], [1, 1, None])]
[[1, 2], [1, -1]]

Does not cover: parsing a model's text (`judgement`) or a benchmark's own label words
(`evaluation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

TIE, FIRST, SECOND = 0, 1, 2
LABELS = (TIE, FIRST, SECOND)
UNREADABLE = -1
_READABLE: dict[object, int] = {label: label for label in LABELS}


def read_verdicts(verdicts: Iterable[object]) -> np.ndarray:
    """Return int labels of the same length; whatever is not the number 0, 1 or 2 becomes
    UNREADABLE."""
    return np.array([_READABLE.get(verdict, UNREADABLE) for verdict in verdicts], dtype=np.int64)


def read_gold(gold: Iterable[object]) -> np.ndarray:
    """Return int labels, UNREADABLE where None or NaN says "no label"; refuse anything else, such
    as signs -1/0/1."""
    values = list(gold)
    unknown = sorted(
        {repr(value) for value in values if value not in _READABLE and not _is_missing(value)}
    )
    if unknown:
        raise ValueError(
            f"gold labels: got {', '.join(unknown[:5])}; allowed are 0 (tie), 1, 2 and None (no "
            "label); map the benchmark's own labels to these first"
        )
    return read_verdicts(values)


def read_margins(margins: Iterable[float | None]) -> np.ndarray:
    """Return floats of the same length with NaN for None."""
    return np.array(
        [math.nan if margin is None else margin for margin in margins], dtype=np.float64
    )


def read_correct(correct: Iterable[bool]) -> np.ndarray:
    """Return booleans; refuse values other than true/false/0/1, because NaN would silently become
    true."""
    values = np.array(list(correct))
    if not np.isin(values, (0, 1)).all():
        raise ValueError(
            "correct: got values other than 0/1 or true/false; score unreadable verdicts as 0 first"
        )
    return values.astype(bool)


def pair_verdicts(
    gold: Iterable[object], predicted: Iterable[object]
) -> tuple[np.ndarray, np.ndarray]:
    """Return gold and predicted labels of the rows that have a gold label."""
    return _drop_unlabelled(read_gold(gold), read_verdicts(predicted), "predicted")


def pair_margins(
    gold: Iterable[object], margin: Iterable[float | None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return gold labels and margins (NaN where unreadable) of the rows that have a gold label."""
    return _drop_unlabelled(read_gold(gold), read_margins(margin), "margin")


def check_same_length(**columns: np.ndarray) -> None:
    """Raise ValueError unless all named columns have one length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"columns must be equally long: got {lengths}; pass one value per row, "
            "None for no value"
        )


def _drop_unlabelled(
    gold: np.ndarray, column: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray]:
    check_same_length(gold=gold, **{name: column})
    labelled = gold != UNREADABLE
    return gold[labelled], column[labelled]


def _is_missing(value: object) -> bool:
    return value is None or value != value  # only NaN differs from itself
