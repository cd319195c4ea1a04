"""The words that people write for "video 1 is better", "video 2 is better" and "a tie".

The one idea: one table, for own label files and for the predictions of other judges alike, so that
a spelling is read everywhere or nowhere. Case, blanks, hyphens, underscores and a final full stop
do not count; numbers count by their value, since pandas writes 1 as 1.0 beside a missing one.

>>> [read_label_word(word) for word in ("A", "Video 2 better", "tie_vote", "1.0", "", "hard to say")]
[1, 2, 0, 1, None, None]

Numbers and truth values that are no label are refused, because any reading of them would be a
guess:

>>> read_label_word("0.6")
Traceback (most recent call last):
verl_videosearch.sources.label_words.BadLabel: 0.6 is a number but none of 0, 1, 2

Covers: a single choice. Does not cover: scores of both videos (`fields.compare_scores`), and words
that mean something else in one public set (that set's own table)."""  # noqa: E501

from __future__ import annotations

import re
from typing import Any

_FIRST = ("1", "a", "left", "first", "one", "l")
_SECOND = ("2", "b", "right", "second", "two", "r")
_NAMES = ("{}", "video {}", "video{}", "model {}", "model{}", "clip {}", "option {}", "{} video")
_ENDINGS = ("", " better", " is better", " wins", " win", " won", " preferred", " vote", "vote")
_TIES = (
    *("0", "tie", "ties", "tied", "tie vote", "tievote", "draw", "equal", "equals", "same", "="),
    *(
        "both",
        "neither",
        "none better",
        "no preference",
        "no difference",
        "equally good",
        "similar",
    ),
    *("both equal", "both same", "both good", "both bad", "bothbad", "bothgood", "bothbad vote"),
    *("tie (bothbad)", "tie (both bad)", "a=b", "equally bad", "about the same", "the same"),
)
_NULLS = (
    *("", "null", "none", "nan", "na", "n/a", "<na>", "?", "invalid", "unknown", "unclear"),
    *("hard to judge", "hard to say", "cannot tell", "can't tell", "not sure", "unsure", "skip"),
)


class BadLabel(ValueError):
    """A value that looks like a label and is none; the text says which."""


def _spell(sides: tuple[str, ...]) -> list[str]:
    return [name.format(side) + end for side in sides for name in _NAMES for end in _ENDINGS]


LABEL_WORDS: dict[str, int] = {
    **dict.fromkeys([*_spell(_FIRST), "a>b", "a > b", "a>>b", ">"], 1),
    **dict.fromkeys([*_spell(_SECOND), "a<b", "a < b", "b>a", "b > a", "a<<b", "b>>a", "<"], 2),
    **dict.fromkeys(_TIES, 0),
}
"""Every spelling, normalised, to its label."""
ALLOWED = "1, 2, 0, A, B, tie, left, right, or words such as `video 1 better`; empty is no label"
"""What to tell a user whose words are not read."""


def read_label_word(value: Any) -> int | None:
    """Return the label that a value names, None for no label and for words that nobody listed;
    raises `BadLabel` for other numbers and for truth values."""
    if value is None or value != value:
        return None
    word = normalise_word(value)
    if isinstance(value, bool) or word in ("true", "false"):
        raise BadLabel(f"{value} is a truth value: it does not say which video is better")
    number = _read_number(str(value))
    if number is None:
        return LABEL_WORDS.get(word)
    if number not in (0, 1, 2):
        raise BadLabel(f"{value} is a number but none of 0, 1, 2")
    return int(number)


def is_empty(value: Any) -> bool:
    """True for a value that says that nobody judged: empty, null, NaN, `n/a`, `hard to judge`."""
    return value is None or value != value or normalise_word(value) in _NULLS


def normalise_word(value: Any) -> str:
    """Bring a word into the form of the table.

    >>> normalise_word(" Video_1  Better. ")
    'video 1 better'
    """
    return re.sub(r"[\s_-]+", " ", str(value).casefold()).strip(" .\"'")


def _read_number(text: str) -> float | None:
    try:
        number = float(text)
    except (ValueError, OverflowError):
        return None
    return None if number != number else number
