"""Profiles: the sizes of a data set, which frames count as shown, and where a defect may hide.

The one idea: hiding is arithmetic. A window of frames is hidden when none of the samplers it hides
from shows one of its frames, and `guard` clean frames stay between it and every shown frame.

>>> [list(gap.indices) for gap in PROFILES["tiny"].gaps()]
[[1, 2, 3], [5, 6, 7], [9, 10, 11], [13, 14, 15]]
>>> [list(window) for window in PROFILES["paper"].windows(PROFILES["paper"].gaps()[0])]
[[2, 3], [2, 3, 4], [3, 4], [8, 9], [8, 9, 10], [9, 10]]

Covers: `tiny` (16 frames, 56 px, defects that a small model can see), `looks` (28 frames, pairs of
which most need two looks at two frames each), `tiny_strict` (as `tiny`,
hidden from every sampler, which leaves single frames), `paper` (48 frames, larger, fine defects).
Does not cover: pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from verl_videosearch.data_prep.synthetic.defects import DEFECT_TYPES

from verl_videosearch.config import NOT_EMPTY, at_least, between, check
from verl_videosearch.frames import CandidateFrames, sample_indices


class InitialSampler(str, Enum):
    """A way to choose the frames that a judge sees first."""

    EVERY_STEP = "every_step"
    """Each step-th frame from frame 0: what this project shows, and `frames[::step]`."""
    LINSPACE = "linspace"
    """Evenly spaced with both ends, rounded or cut to whole numbers."""
    MID_BIN = "mid_bin"
    """The middle of each of K equal parts."""


def shown_indices(sampler: InitialSampler, num_frames: int, num_initial: int) -> frozenset[int]:
    """Return every frame index that an implementation of the sampler may show.

    >>> sorted(shown_indices(InitialSampler.LINSPACE, 48, 4)), sorted(shown_indices(InitialSampler.MID_BIN, 16, 4))
    ([0, 15, 16, 31, 47], [2, 6, 10, 14])
    """  # noqa: E501
    if sampler is InitialSampler.EVERY_STEP:
        view = CandidateFrames((0.0,) * num_frames, (0.0,)).initial_view(num_initial)
        steps = range(0, num_frames, max(1, num_frames // num_initial))[:num_initial]
        return frozenset(
            {
                *sample_indices(num_frames, num_initial),
                *steps,
                *(number - 1 for number in view[:-1]),
            }
        )
    if sampler is InitialSampler.LINSPACE:
        places = [i * (num_frames - 1) / max(1, num_initial - 1) for i in range(num_initial)]
        return frozenset({*(int(place) for place in places), *(round(place) for place in places)})
    return frozenset(int((i + 0.5) * num_frames / num_initial) for i in range(num_initial))


@dataclass(frozen=True)
class Gap:
    """Frames between two neighbours of the initial view; the same in both videos."""

    first_index: int
    num_frames: int
    is_marked_after: bool = False
    """A cue for this gap is on the shown frame right after it, not right before it: whoever reads
    the number of the marked frame must infer that the gap comes earlier."""

    @property
    def indices(self) -> range:
        return range(self.first_index, self.first_index + self.num_frames)

    @property
    def cue_index(self) -> int:
        """Return the shown frame that carries the cue."""
        return self.indices.stop if self.is_marked_after else self.first_index - 1

    def look(self, num_frames: int) -> range:
        """Return the frames in the middle of the gap: so many, or all of them.

        >>> Gap(1, 6).look(1), Gap(1, 3).look(2)
        (range(3, 4), range(1, 3))
        """
        length = min(num_frames, self.num_frames)
        first = self.first_index + (self.num_frames - length) // 2
        return range(first, first + length)

    def to_meta(self) -> dict[str, Any]:
        """Write as plain data; `gap_from_meta` reads it back."""
        return asdict(self)


def gap_from_meta(meta: Mapping[str, Any]) -> Gap:
    """Read what `Gap.to_meta` wrote, now or in a data set of before.

    >>> gap_from_meta({"first_index": 5, "num_frames": 3}).cue_index
    4
    """
    return Gap(**meta)


@dataclass(frozen=True)
class Profile:
    """What kind of pairs to make."""

    name: str
    num_frames: int
    """Frames per video; all of them are candidates."""
    num_initial: int
    """Frames of each video in the initial view."""
    height: int
    width: int
    """Pixels of a rendered scene; of a clip, too, unless `keeps_shape`."""
    keeps_shape: bool
    """True: clips keep their aspect ratio, within height * width pixels, both sides multiples of
    28."""
    hide_from: tuple[InitialSampler, ...]
    """No hidden defect is shown by any of these."""
    window_lengths: tuple[int, int]
    """Fewest and most frames of a hidden defect."""
    guard: int
    """Clean frames between a hidden defect and a shown frame, at least."""
    hidden_types: tuple[str, ...]
    """Types of hidden defects."""
    mild_types: tuple[str, ...]
    """Types of the mild defects that show everywhere."""
    held_out_types: tuple[str, ...]
    """Types of hidden defects that only the test split has."""
    clip_share: float
    """Share of pairs made from real clips; the others from rendered scenes."""
    shares: Mapping[str, float] = field(default_factory=lambda: STANDARD_SHARES)
    """Pair type to its share of the pairs (`plan.PairType`)."""
    uncued_types: tuple[str, ...] = ()
    """Pair types without a cue: nothing is hidden, and the first view says so."""
    inferred_cue_share: float = 0.0
    """Share of cues on the frame after their gap instead of before it."""
    max_frames_per_call: int = 4
    """Frames that one call brings: with `max_tool_calls` the limits for which the card states the
    best possible accuracy."""
    max_tool_calls: int = 2

    def __post_init__(self) -> None:
        problems = [
            f"unknown defect type {name!r} (known: {', '.join(DEFECT_TYPES)})"
            for name in (*self.hidden_types, *self.mild_types, *self.held_out_types)
            if name not in DEFECT_TYPES
        ]
        if overlap := sorted(set(self.held_out_types) & {*self.hidden_types, *self.mild_types}):
            problems.append(
                f"the types {overlap} are held out for the test split, so training cannot use them"
            )
        if abs(sum(self.shares.values()) - 1) > 1e-9 or min(self.shares.values()) < 0:
            problems.append(f"the shares of pair types must add up to 1, got {dict(self.shares)}")
        if crowded := [gap for gap in self.gaps() if not self.windows(gap)]:
            problems.append(
                f"no window of {self.window_lengths} frames can hide in {crowded}; use longer "
                "videos"
            )
        check(
            self,
            problems,
            clip_share=between(0, 1),
            inferred_cue_share=between(0, 1),
            hidden_types=NOT_EMPTY,
            mild_types=NOT_EMPTY,
            guard=at_least(0),
            max_frames_per_call=at_least(1),
            max_tool_calls=at_least(0),
        )

    def shown(self, samplers: Sequence[InitialSampler]) -> frozenset[int]:
        """Return the frame indices that any of the samplers shows."""
        return frozenset().union(
            *(shown_indices(sampler, self.num_frames, self.num_initial) for sampler in samplers)
        )

    def gaps(self) -> list[Gap]:
        """Return the gaps of the initial view in order."""
        starts = sorted(self.shown([InitialSampler.EVERY_STEP]))
        ends = [*starts[1:], self.num_frames]
        return [Gap(start + 1, end - start - 1) for start, end in zip(starts, ends, strict=True)]

    def windows(self, gap: Gap) -> list[range]:
        """Return every run of frame indices in a gap where a defect can hide."""
        shown, (least, most) = self.shown(self.hide_from), self.window_lengths
        stop = gap.first_index + gap.num_frames
        return [
            range(first, first + length)
            for first in range(gap.first_index, stop)
            for length in range(least, most + 1)
            if first + length <= stop
            and shown.isdisjoint(range(first - self.guard, first + length + self.guard))
        ]


STANDARD_SHARES = {"hidden": 0.4, "tie": 0.2, "visible": 0.2, "decoy": 0.2}
"""The standard mix: a judge that answers at once is right in 0.40 at best."""
LOOKS_SHARES = {"visible": 0.1, "tie": 0.1, "hidden": 0.12, "empty": 0.08, "both_hidden": 0.6}
"""The mix of `looks`: three pairs in five need two looks, and only words remember the first."""

_TINY = Profile(
    name="tiny",
    num_frames=16,
    num_initial=4,
    height=56,
    width=56,
    keeps_shape=False,
    hide_from=(InitialSampler.EVERY_STEP,),
    window_lengths=(2, 3),
    guard=0,
    hidden_types=("snow", "tint", "square", "grey", "inverted"),
    mild_types=("lines", "comb"),
    held_out_types=("dim", "flash"),
    clip_share=0.25,
)

PROFILES = {
    "tiny": _TINY,
    # with 16 frames the three samplers together leave no two neighbouring frames
    "tiny_strict": Profile(
        **(
            _TINY.__dict__
            | {"name": "tiny_strict", "hide_from": tuple(InitialSampler), "window_lengths": (1, 1)}
        )
    ),
    "looks": Profile(
        **(
            _TINY.__dict__
            | {
                "name": "looks",
                "num_frames": 28,
                "window_lengths": (4, 5),
                "shares": LOOKS_SHARES,
                "uncued_types": ("visible", "tie"),
                "inferred_cue_share": 0.25,
                "max_frames_per_call": 2,
                "max_tool_calls": 3,
            }
        )
    ),
    "paper": Profile(
        name="paper",
        num_frames=48,
        num_initial=4,
        height=252,
        width=448,
        keeps_shape=True,
        hide_from=tuple(InitialSampler),
        window_lengths=(2, 4),
        guard=1,
        hidden_types=("noise", "patch", "ghost", "flicker", "blur", "jitter", "recolour"),
        mild_types=("noise", "ghost"),
        held_out_types=("blocks", "tearing"),
        clip_share=1.0,
        max_frames_per_call=8,
        max_tool_calls=3,
    ),
}
"""Profile name to profile."""
