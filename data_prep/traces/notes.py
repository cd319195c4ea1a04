"""What the template teacher notes of the frames that it is shown, and how it concludes.

The one idea: with a window, words are all that is left of frames, so how they are kept decides what
a judge can know. Two ways:

    newest   what the newest frames show, as a whole:
             video 1 clean; video 2 clean; marker on 8, 22, 36, 50, behind it 11, 25, 39, 53
             video 1 clean; video 2 grey
    list     frame by frame at first; then each place once, with what is still open; and at the
             end the score of all that was found so far: by dimension, in all, and who leads
             video 1 clean; video 2 clean; frame 1 nothing; frame 8 marker, behind it 11, 39; ...
             11, 39: video 1 clean, video 2 grey; 25, 53: nothing yet; TA equal, VQ equal,
             MQ video 1 better, in all 0 against 3, video 1 better
             25, 53: video 1 snow, video 2 clean; TA equal, VQ video 2 better, MQ video 1 better,
             in all 3 against 3, equal

With `list` each frame has its own words, next to its number; what a forgotten look found goes on in
the score of the Snapshot, and each verdict follows from a part of it.

Covers: words in both prompt styles. Does not cover: which frames are looked at (`teacher`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from verl_videosearch.data_prep.hide_and_seek.profile import Gap
from verl_videosearch.data_prep.synthetic.defects import (
    DEFECT_TYPES,
    Defect,
    labels_from_defects,
    total_severity,
)

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.frames import CandidateFrames, FrameLocation
from verl_videosearch.judgement import DEFAULT_DIMENSIONS, OVERALL, Judgement, format_judgement
from verl_videosearch.prompts import PromptStyle

BETTER_WORDS = ("video {} is better", "so video {} wins")
TIE_WORDS = ("both equal", "no difference, a tie")
NOTHING, OPEN = "nothing", "nothing yet"
SCORED = tuple(
    dimension.key
    for dimension in DEFAULT_DIMENSIONS
    if any(kind.dimension == dimension.key for kind in DEFECT_TYPES.values())
)
"""Keys of the dimensions that a defect can have."""

Found = Mapping[int, Sequence[Defect]]
"""Video (1 or 2) to its defects that were seen."""


class Notes(str, Enum):
    """How notes are kept; the table in the module docstring."""

    NEWEST = "newest"
    LIST = "list"


@dataclass(frozen=True)
class NoteBook:
    """The words for what the frames of one pair show."""

    candidates: CandidateFrames
    episode: EpisodeConfig
    cues: Sequence[Gap]
    notes: Notes = Notes.NEWEST

    def describe_view(self, places: Sequence[FrameLocation], found: Found) -> str:
        """Say what the first view shows."""
        if self.notes is Notes.NEWEST:
            return self._describe_newest(places, found)
        frames = [
            f"frame {self._number(place)} {self._describe_cues(place) or NOTHING}"
            for place in places
            if place.video == 1  # a cue is in both videos
        ]
        return "; ".join([*self._describe_sides(places, found), *frames])

    def describe_place(self, places: Sequence[FrameLocation], found: Found) -> str:
        """Say what the frames of one call show, after the first frame of each video."""
        if self.notes is Notes.NEWEST:
            return self._describe_newest(places, found)
        firsts = [
            next(place for place in places if place.video == side)
            for side in sorted({place.video for place in places})
        ]
        where = _join([self._number(place) for place in firsts])
        return f"{where}: {', '.join(self._describe_sides(places, found))}"

    def describe_open(self, index: int) -> str:
        """Say that a place, from a frame on that was never shown, waits for a look."""
        return f"{_join([self.candidates.number_of(side, index) for side in (1, 2)])}: {OPEN}"

    def describe_frame(self, place: FrameLocation, defects: Sequence[Defect]) -> str:
        """Say in few words what a single frame shows."""
        cue = self._describe_cues(place) if self.notes is Notes.LIST else self._marker(place)
        words = [*map(self._name, defects), *([cue] if cue else [])]
        return " and ".join(words) or "clean"

    def _describe_newest(self, places: Sequence[FrameLocation], found: Found) -> str:
        """Say what frames show: the defects of each video, by frame number where only some frames
        have them, and cues with the frames where a look into their gap begins."""
        parts = self._describe_sides(places, found)
        for is_after in (False, True):
            marked = [
                (place, cue)
                for place in places
                for cue in self.cues
                if cue.is_marked_after is is_after and place.index == cue.cue_index
            ]
            if marked:
                numbers = [self._number(place) for place, _ in marked]
                hidden = [self._first_number(place.video, cue) for place, cue in marked]
                parts.append(f"marker on {_join(numbers)}, {_where(is_after)} {_join(hidden)}")
        return "; ".join(parts)

    def conclude(self, found: Found, rng: random.Random) -> str:
        """Conclude from the defects of each video that were seen."""
        better = labels_from_defects(found[1], found[2])[OVERALL]
        think = rng.choice(BETTER_WORDS if better else TIE_WORDS).format(better)
        return f"<Think>{think}</Think>\n<Answer>{write_verdict(found)}</Answer>"

    def wrap(self, note: str, found: Found) -> str:
        """Make a Snapshot of a note; a list ends with the score of all that was found."""
        if self.notes is Notes.LIST:
            note += f"; {write_score(found)}"
        return f"<Snapshot>{note}</Snapshot>"

    def _describe_sides(self, places: Sequence[FrameLocation], found: Found) -> list[str]:
        return [
            f"video {side} {self._describe_side(side, places, found[side])}"
            for side in (1, 2)
            if self.notes is Notes.NEWEST or any(place.video == side for place in places)
        ]

    def _describe_side(
        self, side: int, places: Sequence[FrameLocation], defects: Sequence[Defect]
    ) -> str:
        indices = [place.index for place in places if place.video == side]
        words = []
        for defect in defects:
            damaged = [index for index in indices if index in defect.frame_indices]
            if damaged == indices:
                words.append(self._name(defect))
            elif damaged:
                numbers = [self.candidates.number_of(side, index) for index in damaged]
                words.append(f"{self._name(defect)} on {_join(numbers)}")
        return " and ".join(words) or "clean"

    def _describe_cues(self, place: FrameLocation) -> str:
        """Say where each cue on a frame points to, in both videos; nothing without a cue."""
        return " and ".join(
            f"marker, {_where(cue.is_marked_after)} "
            f"{_join([self._first_number(side, cue) for side in (1, 2)])}"
            for cue in self.cues
            if cue.cue_index == place.index
        )

    def _marker(self, place: FrameLocation) -> str:
        return "marker" if any(place.index == cue.cue_index for cue in self.cues) else ""

    def _name(self, defect: Defect) -> str:
        is_brief = self.episode.prompt_style is PromptStyle.BRIEF
        return defect.type if is_brief else DEFECT_TYPES[defect.type].words

    def _first_number(self, side: int, gap: Gap) -> int:
        num_each = self.episode.max_frames_per_call // 2
        return self.candidates.number_of(side, gap.look(num_each)[0])

    def _number(self, place: FrameLocation) -> int:
        return self.candidates.number_of(place.video, place.index)


def write_verdict(found: Found, confidence: int | None = None) -> str:
    """Weigh the defects of each video that were seen."""
    return format_judgement(Judgement(labels_from_defects(found[1], found[2]), confidence))


def write_score(found: Found) -> str:
    """Say which video is better in each dimension that a defect can have, how bad both are in all,
    and which one that makes better. A model copies the words of a dimension more surely than two
    numbers (docs/results.md).

    >>> grey = Defect("grey", severity=3, first_index=5, num_frames=2, is_hidden=True, seed=0)
    >>> write_score({1: [], 2: [grey]})
    'TA equal, VQ equal, MQ video 1 better, in all 0 against 3, video 1 better'
    """
    labels = labels_from_defects(found[1], found[2])
    words = {key: f"video {label} better" if label else "equal" for key, label in labels.items()}
    one, two = (sum(total_severity(found[side], key) for key in SCORED) for side in (1, 2))
    parts = [f"{key} {words[key]}" for key in SCORED]
    return ", ".join([*parts, f"in all {one} against {two}", words[OVERALL]])


def _where(is_after: bool) -> str:
    return "before it" if is_after else "behind it"


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
