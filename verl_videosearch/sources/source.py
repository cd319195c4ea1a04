"""What a source of pairs is: its splits, how a row of each is read, and what may be wrong with a
row.

The one idea: a reader is a pure function from one row to a `Pair` (or, for sets that rate single
videos, to a `RatedVideo`). It refuses a row by raising `BadRow` with a reason from a fixed list, so
that nothing is lost uncounted; a file that is not what it should be raises `SourceError`, once, for
the user to read.

Covers: the types that all readers share. Does not cover: file formats (tables.py), single fields
(fields.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, Dimension
from verl_videosearch.sources.label_words import is_empty

Row = Mapping[str, Any]


class DropReason(str, Enum):
    """Why a row gives no sample."""

    NOT_A_ROW = "not an object with named fields"
    NO_PROMPT = "no prompt"
    NO_VIDEO = "no video path"
    SAME_VIDEO = "both videos are one file"
    OUTSIDE_ROOT = "video path leads out of the root"
    BAD_TEXT = "text is not valid Unicode"
    NO_RATING = "no readable rating"
    NO_LABEL = "every label is null"
    DISCARDED = "discarded by the source"
    UNPAIRED = "only video of its prompt"
    MISSING_FILE = "video file missing"
    OVER_LIMIT = "not drawn by --limit"


class SourceError(ValueError):
    """The label file as a whole cannot be used; the text is for the user."""


class BadRow(ValueError):
    """One row cannot be used; it is counted and the reading goes on."""

    def __init__(self, reason: DropReason, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ReadOptions:
    """What the user may choose about the reading."""

    seed: int = 0
    """Seed of everything random: which pairs of a prompt are taken and which video comes first."""
    margin: float | None = None
    """Scores that differ by at most this much are a tie; None: the default of the source."""
    max_pairs_per_prompt: int = 4
    """For sets that rate single videos: at most this many pairs of one prompt."""
    dimensions: tuple[Dimension, ...] = DEFAULT_DIMENSIONS
    """For `pairs_csv`: the dimensions that its columns may name."""
    keeps_unlabelled: bool = False
    """Keep pairs without any label: they can be judged, and no accuracy is computed for them."""


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt as a source describes them; paths are as written there, not yet
    looked up."""

    prompt: str
    video_1: str
    video_2: str
    labels: Mapping[str, int | None]
    """Dimension key or `OA` to 0, 1, 2 or None; a key that the source does not judge is left
    out."""
    raw_labels: Mapping[str, Any]
    """The same as the source wrote them."""
    dimensions: tuple[Dimension, ...] = DEFAULT_DIMENSIONS
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else is worth keeping; keys that end in `_1` and `_2` belong to a video."""
    is_for_judging: bool = False
    """True where the file has no label column at all: the pair is kept without any label."""


@dataclass(frozen=True)
class RatedVideo:
    """One video with ratings per dimension; several rows of one video are merged."""

    prompt: str
    video: str
    ratings: Mapping[str, float]
    """Dimension key to a number; higher is better."""
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairTable:
    """A split whose rows are pairs."""

    patterns: tuple[str, ...]
    """Globs below the root; the first that matches names the files."""
    columns: tuple[str, ...]
    """What a row must have: a file without them is the wrong file."""
    to_pair: Callable[[Row, ReadOptions], Pair]
    foreign_columns: tuple[str, ...] = ()
    """What only another set's rows have: a file with one of them is the wrong file, too."""


@dataclass(frozen=True)
class RatingTable:
    """A split whose rows rate single videos: pairs are made of videos with the same prompt."""

    patterns: tuple[str, ...]
    """Globs below the root; the first that matches names the files."""
    columns: tuple[str, ...]
    """What a row must have: a file without them is the wrong file."""
    to_rating: Callable[[Row], RatedVideo]
    dimensions: tuple[Dimension, ...]
    margin: float = 0.0
    """Ratings that differ by at most this much are a tie, unless the user gives another margin."""


@dataclass(frozen=True)
class Source:
    """A public set, or the user's own."""

    name: str
    """How the user asks for it, and the samples' `data_source`."""
    title: str
    """Its name, publisher and licence."""
    splits: Mapping[str, PairTable | RatingTable]
    """Split name to its table; the first is the default."""
    video_folders: tuple[str, ...] = ("", "videos")
    """Where below the root its paths may start."""
    short_name: str | None = None
    """How `videosearch eval --benchmark` asks for it; None: it is no benchmark."""
    benchmark_splits: tuple[str, ...] = ()
    """Splits that are there to be reported on, never fitted or trained on; the first is the one
    that papers report."""
    is_own: bool = False
    """The user's own file: messages speak of the file, not of a set."""


@dataclass
class ReadReport:
    """What happened to the rows; filled while they are read."""

    files: list[Path] = field(default_factory=list)
    """The label files."""
    num_read: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
    examples: dict[DropReason, str] = field(default_factory=dict)
    """The first row dropped for each reason."""
    missing: dict[str, str] = field(default_factory=dict)
    """Every video path that names no file, and the URL it could be fetched from, if known."""
    num_labels: Counter[str] = field(default_factory=Counter)
    """Dimension key or `OA` to how many rows had a readable label."""
    unread_words: dict[str, Counter[str]] = field(default_factory=dict)
    """The same to the words that were not read as a label, and how often each came."""

    def note_labels(self, pair: Pair) -> None:
        """Count which of a pair's label words were read."""
        for key, word in pair.raw_labels.items():
            if pair.labels.get(key) is not None:
                self.num_labels[key] += 1
            elif isinstance(word, str) and not is_empty(word):
                self.unread_words.setdefault(key, Counter())[word] += 1

    def find_unread_columns(self) -> dict[str, Counter[str]]:
        """Return the columns whose words gave no label at all: a spelling that nobody knows."""
        return {k: words for k, words in self.unread_words.items() if not self.num_labels[k]}

    def drop(self, where: str, problem: BadRow, num_rows: int = 1) -> None:
        """Count rows as dropped and remember the first of each reason."""
        self.dropped[problem.reason] += num_rows
        self.examples.setdefault(
            problem.reason, f"{where}: {problem.detail}" if problem.detail else where
        )
