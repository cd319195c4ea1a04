"""Frames that a judge writes about: were they ever shown to it?

The one idea: a number counts as cited where the text names single frames ("frame 12", "frames 3, 7
and 9"); a range ("frames 1 to 48") names a video, not evidence, and the call itself is no citation.

>>> find_cited("<Think>Frame 5 tears; frames 7, 9 and 12 are fine, unlike frames 1 to 48.</Think>")
(5, 7, 9, 12)

Covers: English, numbers up to nine digits. Does not cover: what is said about a frame, or frames
named by time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from verl_videosearch.judgement import Tag, parse_turn
from verl_videosearch.metrics import Rate
from verl_videosearch.runs.record import EpisodeRecord

_NUMBER = r"#?\d{1,9}"
_RANGE = rf"{_NUMBER}\s?(?:-|–|to|through)\s?{_NUMBER}"
_ITEM = rf"(?:{_RANGE}|{_NUMBER})"
_LINK = r"(?:\s?,\s?(?:and |or )?|\s(?:and|or|&)\s)(?:frames?\s)?"
_LIST = re.compile(rf"\bframes?\s{_ITEM}(?:{_LINK}{_ITEM})*", re.I)


@dataclass(frozen=True)
class Citations:
    """How often the judge names frames that it cannot know."""

    never_shown: Rate
    """Citations of frames that were not shown at any time in the episode."""
    snapshot_unseen: Rate
    """Citations inside <Snapshot>, which says what is seen, of frames that had not been shown until
    then."""
    episodes: Rate
    """Episodes with at least one citation of a frame that was never shown."""


def find_cited(text: str) -> tuple[int, ...]:
    """Return the single frame numbers that a text names, in order, with repetitions."""
    cited: list[int] = []
    for match in _LIST.finditer(re.sub(r"<tool_call>.*?(?:</tool_call>|$)", " ", text, flags=re.S)):
        singles = re.sub(_RANGE, " ", match[0], flags=re.I)
        cited += [int(number) for number in re.findall(r"\d+", singles)]
    return tuple(cited)


def count_citations(records: Iterable[EpisodeRecord]) -> Citations:
    """Check every citation of every episode against the frames that were shown."""
    never, unseen, episodes = [], [], []
    for record in records:
        shown = set(record.initial_frames)
        all_shown = shown.union(*(turn.shown for turn in record.turns))
        flags: list[bool] = []
        for turn in record.turns:
            flags += [number not in all_shown for number in find_cited(turn.reply)]
            blocks = [
                block for block in parse_turn(turn.reply, ()).blocks if block.tag is Tag.SNAPSHOT
            ]
            unseen += [
                number not in shown for block in blocks for number in find_cited(block.content)
            ]
            shown |= set(turn.shown)
        never += flags
        episodes.append(any(flags))
    return Citations(Rate.of(never), Rate.of(unseen), Rate.of(episodes))
