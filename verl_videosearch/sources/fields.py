"""Read single fields of a row: texts, numbers, video paths, label words and scores.

>>> read_video({"left": "https://host/blob/main/dir/ab%20c.mp4", "right": "./videos/x.mp4"}, "left")
'ab c.mp4'
>>> read_label(" Video 1 Better", {"video 1 better": 1})
1

Labels: 1 = video 1 is better, 2 = video 2 is better, 0 = tie, None = not judged.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sources.source import BadRow, DropReason, Row

_NOTHING: Mapping[str, str] = MappingProxyType({})
_ROUNDING = 1e-9  # 0.6 - 0.5 is more than 0.1; a margin of 0.1 means it to be a tie


def read_text(row: Row, name: str, reason: DropReason) -> str:
    """Return a field as stripped text; raises `BadRow` for anything else, for empty text and for
    broken Unicode."""
    text = row.get(name)
    if not isinstance(text, str) or not text.strip():
        raise BadRow(reason, f"{name} is {text!r:.60}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(DropReason.BAD_TEXT, f"{name}: {error.reason}") from error
    return text.strip()


def read_prompt(row: Row, name: str = "prompt") -> str:
    return read_text(row, name, DropReason.NO_PROMPT)


def read_video(row: Row, name: str) -> str:
    """Return a video path; of a URL only the file name, as the file lies once it is downloaded."""
    text = read_text(row, name, DropReason.NO_VIDEO)
    if "://" in text:
        text = (
            posixpath.basename(unquote(urlsplit(text).path))
            if text.count("[") == text.count("]")
            else ""
        )
    path = posixpath.normpath(text) if text else ""
    if path in ("", ".", "/") or "\0" in path or "://" in path:
        raise BadRow(DropReason.NO_VIDEO, f"{name} is {row[name]!r:.60}")
    if path.split("/")[0] == "..":
        raise BadRow(DropReason.OUTSIDE_ROOT, f"{name} is {path!r:.60}")
    return path


def read_number(row: Row, name: str) -> float | None:
    """Return a finite number, also one written as text; None for anything else.

    >>> [read_number({"fps": value}, "fps") for value in (24, "24.0", "", None, "nan", True, [1])]
    [24.0, 24.0, None, None, None, None, None]
    """
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_label(word: Any, words: Mapping[str, int]) -> int | None:
    """Look a label word up, whatever its case and blanks; a word that is not in the list is None.

    >>> [read_label(word, {"a": 1, "b": 2, "same": 0}) for word in ("A", " same", "invalid", None)]
    [1, 0, None, None]
    """
    return words.get(" ".join(word.casefold().split())) if isinstance(word, str) else None


def read_mapping(row: Row, name: str) -> Row:
    """Return a nested object; anything else counts as empty, so that its fields are missing."""
    value = row.get(name)
    return value if isinstance(value, Mapping) else {}


def read_meta(
    row: Row, numbers: Mapping[str, str] = _NOTHING, texts: Mapping[str, str] = _NOTHING
) -> dict[str, Any]:
    """Collect optional fields: meta key to column; what is missing is left out.

    >>> read_meta({"fps_A": "24.0", "A_model": ""}, numbers={"fps_1": "fps_A"}, texts={"model_1": "A_model"})
    {'fps_1': 24.0}
    """  # noqa: E501
    known: dict[str, Any] = {key: read_number(row, column) for key, column in numbers.items()}
    known |= {key: row[column] for key, column in texts.items() if isinstance(row.get(column), str)}
    return {key: value for key, value in known.items() if value not in (None, "")}


def compare_scores(
    scores_1: Mapping[str, float],
    scores_2: Mapping[str, float],
    keys: tuple[str, ...],
    margin: float,
) -> dict[str, int | None]:
    """Turn the scores of two videos into labels: higher wins, a difference of at most `margin` is a
    tie.

    `OA` is the sign of the mean difference over the keys that both have: these sets do not ask for
    an overall verdict.

    >>> compare_scores({"TA": 3, "VQ": 2}, {"TA": 2, "VQ": 2}, ("TA", "VQ", "MQ"), margin=0)
    {'TA': 1, 'VQ': 0, 'MQ': None, 'OA': 1}
    """
    differences = {
        key: scores_1[key] - scores_2[key] for key in keys if key in scores_1 and key in scores_2
    }
    if differences:
        differences[OVERALL] = sum(differences.values()) / len(differences)
    labels = {
        key: (1 if gap > 0 else 2) if abs(gap) > margin + _ROUNDING else 0
        for key, gap in differences.items()
    }
    return {key: labels.get(key) for key in (*keys, OVERALL)}


def vote_overall(labels: Mapping[str, int | None]) -> int | None:
    """Derive the overall label: the video that wins more dimensions, a tie if none does; None if
    any is not judged.

    >>> vote_overall({"TA": 1, "VQ": 0, "MQ": 1}), vote_overall({"TA": 1, "VQ": 2, "MQ": 0}), vote_overall({"TA": None})
    (1, 0, None)
    """  # noqa: E501
    wins = list(labels.values())
    if not wins or None in wins:
        return None
    lead = wins.count(1) - wins.count(2)
    return (1 if lead > 0 else 2) if lead else 0
