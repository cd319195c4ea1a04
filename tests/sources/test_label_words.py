"""One table of label words for own files and for other judges' predictions."""

import math
from typing import Any

import pytest

from verl_videosearch.sources.label_words import BadLabel, is_empty, read_label_word

WORDS = {
    1: ["1", 1, 1.0, "1.0", "A", " a ", "left", "Left", "first", "Video 1", "video_1", "video1"]
    + ["Video 1 better", "Video 1 Better", "video 1 is better.", "model_a", "leftvote", "A>B"]
    + ["left vote", "Option A", "A wins", "first video", "video 1 preferred"],
    2: ["2", 2, 2.0, "2.00", "B", "right", "second", "Video 2 Better", "model_b", "rightvote"],
    0: ["0", 0, 0.0, "0.0", "-0", "tie", "TIE", "same", "Equal", "tievote", "bothbad_vote", "draw"]
    + ["tie (bothbad)", "both bad", "A=B", "no preference"],
    None: [None, "", " ", math.nan, "nan", "invalid", "Hard to judge", "perhaps", "video 3"],
}
BAD = [0.6, "0.6", -1, "-1", "1.7", 2.99, "2.99", True, False, "True", "false", 3, "inf", "1e9"]


@pytest.mark.parametrize(("label", "words"), WORDS.items())
def test_spellings(label: int | None, words: list[Any]) -> None:
    assert {repr(word): read_label_word(word) for word in words} == dict.fromkeys(
        map(repr, words), label
    )


@pytest.mark.parametrize("value", BAD)
def test_other_numbers_and_truth_values_are_refused(value: Any) -> None:
    with pytest.raises(BadLabel, match=str(value)):
        read_label_word(value)


def test_no_label_is_not_an_unread_word() -> None:
    assert all(map(is_empty, ("", None, math.nan, "N/A", "Hard to judge", "invalid")))
    assert not any(map(is_empty, ("perhaps", "A", 0)))
