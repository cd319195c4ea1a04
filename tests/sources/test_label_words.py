"""One table of label words for own files and for other judges' predictions."""

import math
import re
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


SENTENCES = {
    1: ["clearly A", "slightly video 1", "1st", "the 1st video", "[[A>B]]", "strongly left"]
    + ["prefer A", "I prefer video 1", "prefers the first one", "A is better", "video a", "Clip A"]
    + ["the left video is better", "Winner: A", "winner is model_a", "the winner is video 1", "(A)"]
    + ["A is much better", "video 1 slightly better", "left is clearly preferred", "[[A]]", "**A**"]
    + ["A is better than B", "Video 1 is better than video 2", "video 1 > video 2", "left >> right"]
    + ["preference: first", "Response A", "the one on the left", "choose video 1", "A is the best"]
    + ["vote: A", "Better: video_1", "1 > 2", "video 2 < video 1", "Video A wins!", "A (better)"],
    2: ["clearly B", "slightly video 2", "2nd", "2nd video", "[[B>A]]"]
    + ["prefer B", "I prefer video 2", "video b", "winner: right", "b is slightly better", "2>1"]
    + [
        "Video 2 is better than Video 1",
        "video 1 << video 2",
        "the second one",
        "[B]",
        "Answer: B",
    ],
    0: ["a draw", "It's a draw.", "[[A=B=Good]]", "[[A=B=Bad]]"]
    + ["tie (both good)", "both good", "both bad", "Tie (Both Bad)", "tie: both bad", "a tie"]
    + ["it's a tie", "It is a tie.", "both are good", "both are equally good", "equal quality"]
    + ["neither is better", "no clear winner", "A and B are equal", "video 1 = video 2", "A == B"]
    + ["both videos are bad", "tie/both bad", "about equal", "both equally bad", "[tie]"],
    None: ["clearly", "slightly a tie", "A=B=C", "clearly not A", "3rd"]
    + ["A or B", "A, B", "a/b", "not A", "A is not better", "A is worse", "prefer neither A"]
    + ["second best", "better than A", "A better in motion, B in quality", "winner", "prefer", "C"]
    + ["[0]", "(1)", "A > A", "A is better than A", "video 3 is better", "A and B", "left or right"]
    + ["good", "bad", "both or none", "A > B > C", "slightly better", "second choice", "tie or A"]
    + ["prefer A over nothing", "first place", "[[C]]", "A A", "video", "is better", "1/2", "a?"]
    + ["a one", "I prefer one", "I prefer a video", "choose a clip"],
}
"""What people write in full; the last row can be meant in two ways, or says nothing."""


@pytest.mark.parametrize(("label", "words"), SENTENCES.items())
def test_words_in_full(label: int | None, words: list[str]) -> None:
    assert {word: read_label_word(word) for word in words} == dict.fromkeys(words, label)


def test_a_sentence_about_one_video_is_turned_with_it() -> None:
    """Whatever is read of A is read of B, the other way round."""
    for text in [
        *SENTENCES[1],
        "A is the winner",
        "prefer A over B",
        "A beats B",
        "A = B",
        "not A",
    ]:
        turned = re.sub(r"\b[AaBb12]\b", lambda match: SWAPPED[match[0]], text)
        turned = re.sub("first|second|left|right|1st|2nd", lambda match: SWAPPED[match[0]], turned)
        turned = re.sub(r"(?<=_)[a12]", lambda match: SWAPPED[match[0]], turned)
        assert read_label_word(turned) == {1: 2, 0: 0, None: None}[read_label_word(text)], turned


SWAPPED = {"A": "B", "B": "A", "a": "b", "b": "a", "1": "2", "2": "1", "first": "second"}
SWAPPED |= {"second": "first", "left": "right", "right": "left", "1st": "2nd", "2nd": "1st"}


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
