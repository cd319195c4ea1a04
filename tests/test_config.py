"""One dialect of settings: every mistake at once, and nothing that is right is refused."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import pytest

from verl_videosearch.config import NOT_EMPTY, above, at_least, between, check, fulfils, read_config


class Colour(str, Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Paint:
    coats: int = 1
    share: float = 0.5
    colour: Colour = Colour.RED
    folder: Path | None = None
    names: tuple[str, ...] = ()
    is_wet: bool = False
    word: str = "even"

    def __post_init__(self) -> None:
        check(
            self,
            ["coats and share quarrel"] if self.coats == 7 else [],
            coats=at_least(1),
            share=between(0, 1),
            names=at_least(0),
            word=fulfils("with an even number of letters", lambda word: len(word) % 2 == 0),
        )


@pytest.mark.parametrize(
    "settings",
    [{}, {"share": 1}, {"colour": "blue"}, {"folder": "a/b"}, {"names": ["x"]}, {"folder": None}],
)
def test_right_settings_are_read(settings: dict) -> None:
    assert read_config(Paint, settings)


def test_plain_data_becomes_what_the_annotation_names() -> None:
    paint = read_config(Paint, {"colour": "blue", "folder": "a", "names": ["x", "y"]})
    assert (paint.colour, paint.folder, paint.names) == (Colour.BLUE, Path("a"), ("x", "y"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"coats": 0}, "coats must be a whole number of at least 1, got 0"),
        ({"coats": True}, "coats must be a whole number of at least 1, got True"),
        ({"coats": 1.0}, "coats must be a whole number of at least 1, got 1.0"),
        ({"coats": None}, "got None"),
        ({"share": float("nan")}, "share must be a number from 0 to 1, got nan"),
        ({"share": 1.5}, "share must be a number from 0 to 1, got 1.5"),
        ({"colour": "green"}, "colour must be one of 'red', 'blue', got 'green'"),
        ({"folder": 3}, "folder must be a path, or null, got 3"),
        ({"is_wet": 1}, "is_wet must be true or false, got 1"),
        ({"word": "odd"}, "word must be a text with an even number of letters, got 'odd'"),
        ({"coats": 7}, "coats and share quarrel"),
        ({"shares": 1}, "unknown setting 'shares', perhaps 'share'?"),
    ],
)
def test_wrong_settings_say_what_is_allowed(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match="^Paint: ") as caught:
        read_config(Paint, settings)
    assert words in str(caught.value)


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        read_config(Paint, {"coats": 0, "share": 2, "colour": 1, "unknown": 0, "is_wet": "no"})
    assert str(caught.value).count("; ") == 4
    assert str(caught.value).count("Paint: ") == 1


def test_rules() -> None:
    assert not NOT_EMPTY.is_kept("") and NOT_EMPTY.is_kept("a")
    assert not above(0).is_kept(0) and above(0).is_kept(0.1)
