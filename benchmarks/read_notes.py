"""Where a judge that keeps notes as a list goes wrong: seeing, remembering, counting.

    python -m benchmarks.read_notes outputs/looks/runs/cold_start/episodes.jsonl
    python -m benchmarks.read_notes outputs/looks/samples/shard-0-of-1/journal.jsonl

The pairs of hide_and_seek know what each frame shows, and such a judge says what it saw place by
place (`data_prep/traces/notes.py`). So every step of its reasoning is checked by itself:

    markers       the first note names the gaps of all cues, and the side on which each lies
    aimed         a call asks for a place that the note of its own turn says waits for a look
    finished      an answer leaves no such place
    seen          a note says of the place that was just asked for what is there
    counted       the score of a turn whose looks are all in view is that of its own notes
    remembered    the same where the frames of an earlier look are gone
    compared      the score names the video that its own totals make better
    concluded     the verdict of each dimension and overall follows from the last score
    tied          the overall verdict does where that score is equal and not 0

Only for pairs of profile `looks` and judges taught with `--notes list`; other files are refused.
Each also for those cases only in which something is damaged: who always writes `clean` is often
right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from verl_videosearch.data_prep.hide_and_seek.profile import gap_from_meta
from verl_videosearch.data_prep.synthetic.defects import (
    DEFECT_TYPES,
    Defect,
    defect_from_meta,
)
from verl_videosearch.data_prep.traces.notes import SCORED

from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.console import explain_errors
from verl_videosearch.report.table import Table
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.runs.record_file import read_records

CLEAN = "clean"
CLEAN_PLACE = (CLEAN, CLEAN)
SEVERITY = 3
"""Of every hidden defect in profile `looks`."""
Note = dict[int, tuple[str, str]]
"""First frame number of a place to what video 1 and video 2 show there."""


@dataclass(frozen=True)
class Score:
    """How the words at the end of a note sum up all that was found."""

    verdicts: Mapping[str, int]
    """Key of a dimension to the better video in it, 0 when they are equal."""
    totals: tuple[int, int]
    """How bad both videos are in all."""


STEPS = (
    "markers",
    "aimed",
    "finished",
    "seen",
    "counted",
    "remembered",
    "compared",
    "concluded",
    "tied",
)
Check = tuple[str, bool, bool]
"""What is checked, is something damaged there, is it right."""

_POINTER = re.compile(r"(behind|before) it (\d+), \d+")
_PLACE = re.compile(r"(\d+), \d+: video 1 (\w+), video 2 (\w+)")
_OPEN = re.compile(r"(\d+), \d+: nothing yet")
_FRAME = re.compile(r"; frame \d+ (nothing|marker)")
_SCORE = re.compile(
    r"; ((?:\w+ (?:equal|video \d better), )*)"
    r"in all (\d+) against (\d+), (?:equal|video (\d) better)"
)
_VERDICT = re.compile(r"(\w+) (?:equal|video (\d) better), ")
_ANSWER = re.compile(r"<Answer>(.*)</Answer>")
_LABEL = re.compile(r"(\w+)=(\d)")


def read_note(reply: str) -> Note:
    """Return the places that a note describes.

    >>> read_note("<Snapshot>4, 32: video 1 grey, video 2 clean; 11, 39: nothing yet</Snapshot>")
    {4: ('grey', 'clean')}
    """
    return {int(first): (one, two) for first, one, two in _PLACE.findall(reply)}


def read_score(reply: str) -> tuple[Score, int] | None:
    """Return the score of a note, and which video it calls better (0: equal); None if it has none.

    >>> read_score("<Snapshot>4, 32: video 1 snow; VQ video 2 better, in all 3 against 0, video 2 better")
    (Score(verdicts={'VQ': 2}, totals=(3, 0)), 2)
    """  # noqa: E501
    found = _SCORE.search(reply)
    if not found:
        return None
    verdicts = {key: int(better or 0) for key, better in _VERDICT.findall(found[1])}
    return Score(verdicts, (int(found[2]), int(found[3]))), int(found[4] or 0)


def read_answer(reply: str) -> dict[str, int]:
    """Return the verdict of each dimension and overall; empty if there is none.

    >>> read_answer("<Answer>TA=0, VQ=1, OA=1</Answer>")
    {'TA': 0, 'VQ': 1, 'OA': 1}
    """
    found = _ANSWER.search(reply)
    return {key: int(label) for key, label in _LABEL.findall(found[1])} if found else {}


def check_episode(record: EpisodeRecord) -> Iterator[Check]:
    """Yield every step of one episode with a cue."""
    truth = Truth(record)
    yield "markers", True, sorted(_POINTER.findall(record.turns[0].reply)) == truth.pointers
    for turn in record.turns:
        waiting = {int(first) for _, first in _POINTER.findall(turn.reply)}
        waiting |= set(map(int, _OPEN.findall(turn.reply)))
        if turn.shown:
            yield "aimed", True, min(turn.shown) in waiting
        elif read_answer(turn.reply):
            yield "finished", True, not waiting
    found: Note = {}
    for asking, turn in zip(record.turns, record.turns[1:], strict=False):
        note = read_note(turn.reply)
        if truth.is_of_both_videos(asking.shown):
            there = truth.look(asking.shown)
            yield "seen", there != CLEAN_PLACE, note.get(min(asking.shown)) == there
        forgotten = [place for place in found if place not in note]
        found |= note
        is_damaged = any(found[place] != CLEAN_PLACE for place in forgotten or found)
        said = read_score(turn.reply)
        is_right = said is not None and said[0] == score_note(found)
        yield "remembered" if forgotten else "counted", is_damaged, is_right
        if said:
            score, better = said
            yield "compared", score.totals != (0, 0), better == _compare(score.totals)
    yield from _check_verdict(record.turns[-1].reply, found)


def _check_verdict(reply: str, found: Note) -> Iterator[Check]:
    said, verdict = read_score(reply), read_answer(reply)
    if not (said and verdict and found):
        return
    score, _ = said
    is_damaged = any(each != CLEAN_PLACE for each in found.values())
    follows = {**score.verdicts, OVERALL: _compare(score.totals)}
    yield "concluded", is_damaged, {key: verdict.get(key) for key in follows} == follows
    one, two = score.totals
    if one == two > 0:
        yield "tied", True, verdict.get(OVERALL) == 0


def score_note(note: Note) -> Score:
    """Sum up the places of a note.

    >>> score_note({4: ("grey", "clean"), 11: ("snow", "tint")})
    Score(verdicts={'TA': 0, 'VQ': 0, 'MQ': 2}, totals=(6, 3))
    """
    worst = {key: _find_worst(note, key) for key in SCORED}
    one, two = (sum(sides) for sides in zip(*worst.values(), strict=True))
    return Score({key: _compare(sides) for key, sides in worst.items()}, (one, two))


def _find_worst(note: Note, key: str) -> tuple[int, int]:
    one, two = (
        SEVERITY * any(_find_dimension(said[side]) == key for said in note.values())
        for side in (0, 1)
    )
    return one, two


def _find_dimension(name: str) -> str | None:
    return DEFECT_TYPES[name].dimension if name in DEFECT_TYPES else None


def _compare(sides: tuple[int, int]) -> int:
    """Return which video is better, 1 or 2; 0 when they are equal."""
    one, two = sides
    return 0 if one == two else 1 if one < two else 2


class Truth:
    """What the frames of a pair show, by their numbers."""

    def __init__(self, record: EpisodeRecord) -> None:
        assert record.candidates is not None, "an episode has candidates"
        self._candidates, meta = record.candidates, record.sample.meta
        sides = (1, 2) if record.order == "AB" else (2, 1)
        self._defects: list[list[Defect]] = [
            [defect_from_meta(each) for each in meta[f"defects_{side}"]] for side in sides
        ]
        self.pointers = sorted(
            (
                "before" if cue.is_marked_after else "behind",
                str(self._candidates.number_of(1, cue.look(1)[0])),
            )
            for cue in map(gap_from_meta, meta["cues"])
        )

    def is_of_both_videos(self, numbers: Iterable[int]) -> bool:
        """True for one frame of each video."""
        return sorted(self._candidates.locate(number).video for number in numbers) == [1, 2]

    def look(self, numbers: Iterable[int]) -> tuple[str, ...]:
        """Say what one frame of each video shows."""
        return tuple(self._name(number) for number in sorted(numbers))

    def _name(self, number: int) -> str:
        place = self._candidates.locate(number)
        shown = [d.type for d in self._defects[place.video - 1] if place.index in d.frame_indices]
        return " and ".join(shown) or CLEAN


def check_file(title: str, records: Sequence[EpisodeRecord]) -> None:
    """Raise `ValueError` for episodes of which the figures would mean nothing."""
    profiles = {str(record.sample.meta.get("profile")) for record in records}
    if wrong := sorted(profiles - {"looks"}):
        raise ValueError(f"{title}: pairs of profile looks are read here, got {', '.join(wrong)}")
    if not any(_FRAME.search(record.turns[0].reply) for record in records if record.turns):
        raise ValueError(
            f"{title}: no first note goes frame by frame; give episodes of a judge taught with "
            "--notes list (PROFILE=looks recipes/pipeline.sh)"
        )
    if not any(read_score(turn.reply) for record in records for turn in record.turns):
        raise ValueError(
            f"{title}: no note ends with a score (`in all 3 against 0, video 2 better`); judges "
            "that were taught before it are read by the commit that taught them (docs/results.md)"
        )


def tabulate(title: str, records: Sequence[EpisodeRecord]) -> Table:
    """Count the steps of all episodes whose pair has a cue; raises `ValueError` for a file that
    has other pairs or other notes."""
    check_file(title, records)
    total: Counter[tuple[str, bool]] = Counter()
    right: Counter[tuple[str, bool]] = Counter()
    for record in records:
        if record.candidates and record.turns and record.sample.meta.get("cues"):
            for step, is_damaged, is_right in check_episode(record):
                total[step, is_damaged] += 1
                right[step, is_damaged] += is_right
    rows = []
    for step in STEPS:
        damaged = (right[step, True], total[step, True])
        both = (damaged[0] + right[step, False], damaged[1] + total[step, False])
        rows.append((step, _share(*both), _share(*damaged)))
    return Table(title, ("step", "right", "where something is damaged"), rows)


def _share(right: int, total: int) -> str:
    return f"{100 * right / total:.1f} % ({right}/{total})" if total else "never"


def main(
    episodes: Annotated[
        list[Path], typer.Argument(help="Files of episodes of a judge trained with --notes list.")
    ],
) -> None:
    """Print a table per file."""
    with explain_errors():
        for path in episodes:
            print(tabulate(str(path), read_records(path).records).to_markdown())


if __name__ == "__main__":
    typer.run(main)
