"""The template teacher: writes traces of pairs with known defects, without any model.

The one idea: it knows the truth of a pair but tells only what it was *shown*. Whatever it writes
follows from the frames in the context: a defect is named when one of its frames is there, a
recommendation weighs the defects named so far, and a hidden one stays unknown until it looks. On a
pair with a cue (`meta.cue`) it looks behind the cue; on one without, it answers at once, or looks
once or twice for confirmation::

    <Snapshot>video 1 clean; video 2 clean; marker on 5, 21, behind it 6, 22</Snapshot><Think>look
    behind it</Think> <Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend
    Answer><tool_call>... [6, 7, 22, 23]</tool_call>

    <Snapshot>video 1 clean; video 2 snow on 22, 23</Snapshot><Think>video 1 is better</Think>
    <Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>

Weights other than the default make a teacher that chooses badly on purpose, so that reward has
something to repair: it answers at once, looks elsewhere, or looks elsewhere first. Its wrong
answers are still what a judge would say who has seen no more; to keep them takes `cold_start
--filter well_formed`.

Covers: pairs of `hide_and_seek` and `degrade` whose candidates are all their frames. Does not
cover: human preferences.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image
from verl_videosearch.data_prep.hide_and_seek.profile import Gap, gap_from_meta
from verl_videosearch.data_prep.synthetic.defects import (
    PAIRED,
    Defect,
    defect_from_meta,
)
from verl_videosearch.data_prep.traces.notes import NoteBook, Notes, write_verdict

from verl_videosearch.config import at_least, check
from verl_videosearch.episode import EpisodeConfig, Message, Reply, images_of
from verl_videosearch.frames import CandidateFrames, FrameLocation
from verl_videosearch.judgement import DEFAULT_DIMENSIONS
from verl_videosearch.prompts import TOOL_ARGUMENT, TOOL_NAME
from verl_videosearch.sample import PreferenceSample

LOOK_WORDS = (
    "look behind the marker",
    "the marker hides frames, look",
    "something may hide there, look",
)
CHECK_WORDS = ("check more frames", "look again to be sure")
UNSURE, FAIRLY_SURE = 3, 2


@dataclass(frozen=True)
class TeacherConfig:
    """What the teacher chooses; the defaults search well."""

    direct: float = 0.0
    """Weight of answering a pair with a cue at first sight."""
    cued_gap: float = 1.0
    """Weight of looking behind the cue."""
    wrong_gap: float = 0.0
    """Weight of looking into another gap, each equally often, and not behind the cue."""
    detour: float = 0.0
    """Weight of looking into another gap first and behind the cue then: two calls where one call
    shows a gap; where gaps are longer (profile paper), the limit of calls may end it before the
    cue."""
    looks: tuple[float, ...] = (0.4, 0.3, 0.3)
    """Weights of 0, 1, 2, ... calls on a pair without a cue; while no difference was seen it looks
    at least once."""
    max_calls: int | None = None
    """Most calls; null is the episode's own limit."""
    one_cue: float = 0.0
    """Weight of looking behind the first of two cues only; with one cue the same as `cued_gap`."""
    min_defect_frames: int = 2
    """A gap is settled when fewer frames in a row than this are unseen; pairs that say how short
    their shortest hidden defect is (`meta.shortest_hidden`) settle by that."""
    notes: Notes = Notes.NEWEST
    """How it keeps notes (`notes.Notes`)."""
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"the weights {names} must be at least 0, finite and not all 0, got {weights}"
            for names, weights in (
                ("direct, cued_gap, wrong_gap, detour, one_cue", self.choices),
                ("looks", self.looks),
            )
            if min(weights, default=0) < 0 or not 0 < sum(weights) < math.inf
        ]
        check(self, problems, min_defect_frames=at_least(1), max_calls=at_least(0))

    @property
    def choices(self) -> tuple[float, float, float, float, float]:
        """Weights of direct, cued gap, wrong gap, detour, one cue."""
        return self.direct, self.cued_gap, self.wrong_gap, self.detour, self.one_cue


class TemplateTeacher:
    """A `GenerateFn` for one episode."""

    def __init__(
        self,
        sample: PreferenceSample,
        candidates: CandidateFrames,
        episode: EpisodeConfig,
        config: TeacherConfig,
    ) -> None:
        check_truth(sample, candidates, episode)
        self._candidates, self._episode, self._config = candidates, episode, config
        self._random = random.Random(f"{config.seed} {sample.uid}")
        self._defects = {
            side: [defect_from_meta(meta) for meta in sample.meta[f"defects_{side}"]]
            for side in (1, 2)
        }
        self._cues = read_cues(sample)
        self._is_hide_and_seek = "cues" in sample.meta
        self._min_unseen = sample.meta.get("shortest_hidden", config.min_defect_frames)
        self._gaps = find_gaps(candidates, episode.initial_frames_per_video)
        self._targets = self._choose_targets()
        self._calls_left = episode.max_tool_calls
        if config.max_calls is not None:
            self._calls_left = min(self._calls_left, config.max_calls)
        self._seen: set[int] = set()
        self._named: dict[int, list[Defect]] = {1: [], 2: []}
        self._book = NoteBook(candidates, episode, self._cues, config.notes)

    def _choose_targets(self) -> list[range]:
        """Choose the gaps to look into."""
        config = self._config
        if not self._cues and self._is_hide_and_seek:
            return []  # no cue: nothing is hidden
        if not self._cues:
            num_looks = self._random.choices(range(len(config.looks)), config.looks)[0]
            return self._random.sample(self._gaps, min(num_looks, len(self._gaps)))
        cued = [cue.indices for cue in self._cues]
        others = [gap for gap in self._gaps if gap not in cued]
        other = [self._random.choice(others)] if others else []
        plans = ([], cued, other, other + cued, cued[:1])
        return list(self._random.choices(plans, config.choices)[0])

    async def __call__(self, messages: list[Message], images: Sequence[Image.Image]) -> Reply:
        """Write the next turn from the frames that the context shows."""
        shown = self._locate(messages)
        new = self._locate(messages[-1:])
        self._name_defects(shown)
        is_first = not self._seen
        self._seen |= {place.index for place in new}
        if self._cues:
            self._targets = [gap for gap in self._targets if self._is_open(gap)]
        elif (
            is_first
            and not self._targets
            and not self._is_hide_and_seek
            and not any(self._named.values())
        ):
            self._targets = self._random.sample(self._gaps, min(1, len(self._gaps)))
        snapshot = self._book.wrap(self._describe(new, is_first), self._named)
        if not self._targets or not self._calls_left:
            return Reply(f"{snapshot}\n{self._book.conclude(self._named, self._random)}")
        return Reply(f"{snapshot}\n{self._write_call()}")

    def _locate(self, messages: list[Message]) -> list[FrameLocation]:
        return [self._candidates.locate(item["frame_number"]) for item in images_of(messages)]

    def _write_call(self) -> str:
        """Recommend what was seen so far and ask for the next frames."""
        self._calls_left -= 1
        numbers = self._choose_frames(self._targets[0])
        is_unsure = self._cues or not any(self._named.values())
        if not self._cues:
            self._targets.pop(0)
        think = self._random.choice(LOOK_WORDS if self._cues else CHECK_WORDS)
        call = json.dumps({"name": TOOL_NAME, "arguments": {TOOL_ARGUMENT: numbers}})
        verdict = write_verdict(self._named, UNSURE if is_unsure else FAIRLY_SURE)
        return (
            f"<Think>{think}</Think>"
            f"\n<Recommend Answer>{verdict}</Recommend Answer>"
            f"\n<tool_call>{call}</tool_call>"
        )

    def _name_defects(self, shown: Sequence[FrameLocation]) -> None:
        """Name the defects that the visible frames show."""
        for side, defects in self._defects.items():
            indices = {place.index for place in shown if place.video == side}
            self._named[side] += [
                defect
                for defect in defects
                if defect not in self._named[side] and shows_defect(defect, indices)
            ]

    def _is_open(self, gap: range) -> bool:
        """True while a further look into a gap may tell something."""
        hidden = {
            index
            for defects in self._named.values()
            for defect in defects
            if defect.is_hidden
            for index in defect.frame_indices
        }
        return hidden.isdisjoint(gap) and not self._is_settled(gap)

    def _is_settled(self, gap: range) -> bool:
        """True when no run of unseen frames in the gap is long enough for a defect."""
        places = [gap.start - 1, *sorted(self._seen & set(gap)), gap.stop]
        return all(after - before - 1 < self._min_unseen for before, after in pairwise(places))

    def _choose_frames(self, gap: range) -> list[int]:
        """Return the numbers of neighbouring frames of a gap, the same in both videos: from its
        middle where so few frames show what hides there, else from its start."""
        each = min(self._episode.max_frames_per_call // 2, len(gap))
        unseen = [index for index in gap if index not in self._seen] or list(gap)
        is_new = len(unseen) == len(gap)
        middle = Gap(gap.start, len(gap)).look(each)[0]
        is_enough = len(gap) - each < 2 * self._min_unseen
        start = middle if is_new and is_enough else min(unseen[0], gap.stop - each)
        return [
            self._candidates.number_of(side, index)
            for side in (1, 2)
            for index in range(start, start + each)
        ]

    def _describe(self, new: Sequence[FrameLocation], is_first: bool) -> str:
        """Say what the newest frames show and, in a list, which places wait for a look."""
        if is_first:
            return self._book.describe_view(new, self._named)
        place = self._book.describe_place(new, self._named)
        if self._config.notes is Notes.NEWEST:
            return place
        waiting = [cue for cue in self._cues if self._is_open(cue.indices)]
        return "; ".join([place, *map(self._describe_open, waiting)])

    def _describe_open(self, cue: Gap) -> str:
        """Name a gap by the frame that its cue points to, or by the first that is left of it."""
        pointed = cue.look(self._episode.max_frames_per_call // 2)[0]
        unseen = [index for index in cue.indices if index not in self._seen]
        return self._book.describe_open(pointed if len(unseen) == len(cue.indices) else unseen[0])


def check_truth(
    sample: PreferenceSample, candidates: CandidateFrames, episode: EpisodeConfig
) -> None:
    """Raise `ValueError` unless the teacher can tell the truth about this pair."""
    if "defects_1" not in sample.meta or "defects_2" not in sample.meta:
        raise ValueError(
            f"sample {sample.uid!r} does not say what is wrong with its videos "
            "(meta.defects_1, meta.defects_2); the "
            "template teacher knows pairs of data_prep.hide_and_seek and data_prep.degrade only"
        )
    keys = tuple(dimension.key for dimension in DEFAULT_DIMENSIONS)
    if sample.dimension_keys != keys:
        raise ValueError(
            f"sample {sample.uid!r}: dimensions must be {keys}, got {sample.dimension_keys}"
        )
    if episode.max_frames_per_call < 2:
        raise ValueError(
            "max_frames_per_call must be at least 2, one of each video; got "
            f"{episode.max_frames_per_call}"
        )
    for side in (1, 2):
        num_frames = len(candidates.numbers_of(side))
        stop = max(
            (d["first_index"] + d["num_frames"] for d in sample.meta[f"defects_{side}"]), default=0
        )
        if stop > num_frames:
            raise ValueError(
                f"sample {sample.uid!r}: video {side} is damaged up to frame {stop} but has "
                f"{num_frames} candidates; "
                "set frames_per_video to the number of frames of the videos"
            )


def find_gaps(candidates: CandidateFrames, initial_frames_per_video: int) -> list[range]:
    """Return the runs of frame indices that the initial view leaves out of both videos.

    >>> find_gaps(CandidateFrames((0.0,) * 8, (0.0,) * 8), 2)
    [range(1, 4), range(5, 8)]
    """
    shown = {
        candidates.locate(number).index
        for number in candidates.initial_view(initial_frames_per_video)
    }
    num_frames = min(len(candidates.numbers_of(side)) for side in (1, 2))
    places = [*sorted(index for index in shown if index < num_frames), num_frames]
    return [range(before + 1, after) for before, after in pairwise(places) if after - before > 1]


def read_cues(sample: PreferenceSample) -> list[Gap]:
    """Return the gaps that the cues of a pair point to; none for a pair without cues."""
    cues = sample.meta.get("cues") or [sample.meta.get("cue")]
    return [gap_from_meta(cue) for cue in cues if cue]


def shows_defect(defect: Defect, indices: set[int]) -> bool:
    """True when frames at these indices show the defect; some show only between neighbours."""
    damaged = indices & set(defect.frame_indices)
    return (
        any(index + 1 in damaged for index in damaged) if defect.type in PAIRED else bool(damaged)
    )
