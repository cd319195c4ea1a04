"""The words that people write for "video 1 is better", "video 2 is better" and "a tie".

The one idea: one reader, for own label files and for the predictions of other judges alike, so that
a spelling is read everywhere or nowhere: a table of short forms, and a few forms of sentence around
the name of one video. Case, blanks, hyphens, underscores, brackets (but for those around a number,
which may be a list) and a final full stop do not count; numbers count by their value, since pandas
writes 1 as 1.0 beside a missing one.

>>> [read_label_word(word) for word in ("A", "Video 2 better", "tie_vote", "1.0", "", "hard to say")]
[1, 2, 0, 1, None, None]
>>> [read_label_word(word) for word in ("I prefer B", "video 1 > video 2", "tie (both good)", "A or B")]
[2, 1, 0, None]

Numbers and truth values that are no label are refused, because any reading of them would be a
guess:

>>> read_label_word("0.6")
Traceback (most recent call last):
verl_videosearch.sources.label_words.BadLabel: 0.6 is a number but none of 0, 1, 2

Covers: a single choice, and columns of signs (`read_signed_column`). Does not cover: scores of both videos (`fields.compare_scores`), and words
that mean something else in one public set (that set's own table)."""  # noqa: E501

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_FIRST = ("1", "a", "left", "first", "1st", "one", "l")
_SECOND = ("2", "b", "right", "second", "2nd", "two", "r")
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
    *("a tie", "a draw", "it's a draw", "it is a draw"),
    *("it's a tie", "it is a tie", "neither better", "neither is better", "no winner"),
    *("no clear winner", "equal quality", "same quality", "about equal", "roughly equal"),
)
_MAX_SENTENCE = 80
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
_NOUNS = "video|model|clip|option|response|sample|candidate"
_NAME = (
    rf"(?:the )?(?:(?:{_NOUNS}) ?)?(?P<{{0}}>{'|'.join((*_FIRST, *_SECOND))})"
    rf"(?: (?:one|{_NOUNS}))?|(?:the )?one on the (?P<{{0}}_side>left|right)"
)
_CHOOSE = "(?:prefers?|preferred|choose|chose|pick|picked)"
_HOW = "slightly|clearly|significantly|strongly|somewhat|marginally"
_DEGREE = f"(?:(?:{_HOW}|much|far) )?"
_SENTENCES = [
    re.compile(form.format(_NAME.format("better"), _NAME.format("worse")))
    for form in (
        f"(?:(?:{_HOW}) )?(?:{{0}})",
        "(?:(?:i|we) )?" + _CHOOSE + " (?:{0})(?: over (?:{1}))?",
        "(?:vote|preference|verdict|answer|better)(?: is| for)? (?:{0})",
        "(?:the )?winner(?: is)? (?:{0})",
        rf"(?:{{0}})(?: is)? {_DEGREE}(?:better|preferred)(?: than (?:{{1}}))?",
        "(?:{0}) is the (?:best|winner|better one)",
        "(?:{0}) (?:beats|>+) (?:{1})",
        "(?:{1}) <+ (?:{0})",
    )
]
"""Forms of sentence that name the better video, and perhaps the worse one."""
_TIE_SENTENCES = [
    re.compile(form.format(_NAME.format("one"), _NAME.format("other")))
    for form in (
        "(?:tie )?both(?: videos)?(?: are)?(?: equally)? (?:good|bad|equal|the same|fine|poor)",
        "(?:{0}) (?:=+|and) (?:{1})(?: are (?:equal|equally good|equally bad|the same))",
        "(?:{0}) =+ (?:{1})(?: =+ (?:good|bad))?",
    )
]
_VAGUE = re.compile(
    rf"(?:(?:(?:i|we) )?{_CHOOSE} )?(?:a|one) (?:one|{_NOUNS})|(?:(?:i|we) )?{_CHOOSE} one"
)
"""Where `a` and `one` are no names: `I prefer a video`, `I prefer one`."""
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
        return LABEL_WORDS[word] if word in LABEL_WORDS else _read_sentence(word)
    if number not in (0, 1, 2):
        raise BadLabel(f"{value} is a number but none of 0, 1, 2")
    return int(number)


def read_signed_column(values: Sequence[Any]) -> list[int | None] | None:
    """Return the labels of a column of 1 (video 1), -1 (video 2) and 0 (tie), empty ones None; None
    for a column that holds anything else, or no -1.

    >>> read_signed_column([1, "-1", 0.0, ""]), read_signed_column([1, 0]), read_signed_column([-1, 2])
    ([1, 2, 0, None], None, None)
    """  # noqa: E501
    signs = [None if is_empty(value) else _read_number(str(value)) for value in values]
    said = {sign for sign, value in zip(signs, values, strict=True) if not is_empty(value)}
    if -1 not in said or not said <= {-1, 0, 1}:
        return None
    return [None if sign is None else {1: 1, -1: 2, 0: 0}[int(sign)] for sign in signs]


def _read_sentence(word: str) -> int | None:
    """Read what stands in full, in normal form; None unless it can be meant in one way only.

    >>> _read_sentence("a is much better than b"), _read_sentence("a is better than a")
    (1, None)
    """
    text = re.sub(r"([<>=]+)", r" \1 ", re.sub(r"[()\[\]{}*:,!/]+", " ", word))
    text = " ".join(text.split())
    if len(text) > _MAX_SENTENCE or text.isdigit() or _VAGUE.fullmatch(text):
        return None
    if text in LABEL_WORDS:
        return LABEL_WORDS[text]
    for form in _SENTENCES:
        if match := form.fullmatch(text):
            better, worse = _find_side(match, "better"), _find_side(match, "worse")
            return None if better == worse else better
    for form in _TIE_SENTENCES:
        if match := form.fullmatch(text):
            names = form.groupindex and (_find_side(match, "one"), _find_side(match, "other"))
            return None if names and names[0] == names[1] else 0
    return None


def _find_side(match: re.Match[str], name: str) -> int | None:
    """Return which video a named part of a sentence is, 1 or 2; None for a part that is absent."""
    parts = match.groupdict()
    said = parts.get(name) or parts.get(f"{name}_side")
    if said is None:
        return None
    return 1 if said in _FIRST else 2


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
