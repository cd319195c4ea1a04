"""What each pair of a data set is: type, defects, cues, base, labels and file names, decided before
any pixel exists.

The one idea: balance is made, not hoped for. Within each pair type the better video, the gap and
the defect types are dealt from equal stacks and shuffled, so no statistic of a pair says anything
about its label.

| type | share | video X | video Y | answer |
|---|---|---|---|---|
| hidden | .4 | clean | severe defect in the cued gap | X |
| tie | .2 | clean | clean; at first sight the same as `hidden` | tie |
| visible | .2 | clean | mild defect in all frames | X |
| decoy | .2 | mild defect in all frames | severe defect in the cued gap; at first sight the same as `visible` | X |
| both_hidden | option | moderate defect in a gap | severe defect in another gap, two cues | X |

In the mix of profile `looks` a call brings two frames, visible and tie pairs have no cue, and

| type | share | videos | answer |
|---|---|---|---|
| empty | .08 | clean, with a cue; at first sight the same as `hidden` | tie |
| both_hidden | .6 | two cued gaps; behind one quality suffers, behind the other motion | fewer |

Each of the four places (video, gap) of such a pair is damaged or not. The frequencies of the 14
patterns (`PATTERNS`) are those under which one look tells least about the sum: 6 right in 11.

Covers: planning. Does not cover: painting (`build`).
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations, product
from typing import Any, TypeVar

import numpy as np
from verl_videosearch.data_prep.hide_and_seek.bases import SCENE, ClipSplit
from verl_videosearch.data_prep.hide_and_seek.profile import STANDARD_SHARES, Gap, Profile
from verl_videosearch.data_prep.synthetic.defects import (
    COLOURS,
    DEFECT_TYPES,
    Defect,
    labels_from_defects,
)

from verl_videosearch.config import at_least, between, check
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.lossless import SUFFIX

SOURCE = "hide_and_seek"
SPLITS = ("train", "test")
TRAIN_COLOURS = ("red", "green", "blue", "yellow")
"""The test split also has the other colours of `COLOURS`."""
MILD, MODERATE, SEVERE = 1, 2, 3
T = TypeVar("T")


class PairType(str, Enum):
    """How a pair is won; the table in the module docstring."""

    HIDDEN = "hidden"
    TIE = "tie"
    VISIBLE = "visible"
    DECOY = "decoy"
    BOTH_HIDDEN = "both_hidden"
    EMPTY = "empty"


Pattern = tuple[tuple[bool, bool], tuple[bool, bool]]
"""For video 1 and 2: is the first, is the second cued gap damaged?"""


def _list_patterns() -> list[Pattern]:
    """Deal each pattern as often as the linear programme says that lets one look tell least: one
    damaged place more on one side twice as often as equal sides."""
    sides = list(product((False, True), repeat=2))
    copies = {1: 2, 0: 1}
    return [
        (one, two)
        for one, two in product(sides, sides)
        for _ in range(copies.get(abs(sum(one) - sum(two)), 0))
    ]


PATTERNS = _list_patterns()
"""Patterns of a both_hidden pair of profile `looks`, each as often as it is dealt."""
GUESSES = {
    PairType.HIDDEN: 1 / 3,
    PairType.TIE: 1 / 3,
    PairType.VISIBLE: 1 / 2,
    PairType.DECOY: 1 / 2,
    PairType.BOTH_HIDDEN: 1 / 2,
}
"""Accuracy of the best answer without a search in the standard mix: hidden and tie look alike (X, Y
or tie), visible and decoy look alike, and two cues give both_hidden away (X or Y)."""


@dataclass(frozen=True)
class PlanConfig:
    """What a data set holds."""

    profile: Profile
    num_train: int = 2000
    num_test: int = 400
    seed: int = 0
    both_hidden_share: float | None = None
    """Share of pairs with a hidden defect in both videos; the other types share the rest; null is
    the profile's own share."""
    held_out_share: float = 0.2
    """Share of the test pairs with a hidden defect whose type training never shows."""

    def __post_init__(self) -> None:
        problems = []
        if self.num_train == self.num_test == 0:
            problems.append("num_train and num_test must not both be 0: there is nothing to make")
        if self.held_out_share and not self.profile.held_out_types:
            problems.append(
                "held_out_share needs held-out defect types, the profile has none; set it to 0"
            )
        check(
            self,
            problems,
            num_train=at_least(0),
            num_test=at_least(0),
            seed=at_least(0),
            both_hidden_share=between(0, 1),
            held_out_share=between(0, 1),
        )

    def num_pairs(self, split: str) -> int:
        return {"train": self.num_train, "test": self.num_test}[split]

    def count_types(self, split: str) -> dict[PairType, int]:
        """Return how many pairs of each type a split holds."""
        return count_types(self.num_pairs(split), self.both_hidden_share, self.profile.shares)


@dataclass(frozen=True)
class PairPlan:
    """One pair, completely decided."""

    split: str
    index: int
    pair_type: PairType
    defects_1: tuple[Defect, ...]
    defects_2: tuple[Defect, ...]
    gaps: tuple[Gap, ...]
    """The gaps that the cues point to, in order."""
    base: str
    """The name of a clip, or `scene`."""
    base_seed: tuple[int, ...]
    is_held_out: bool
    """True when a defect has a type or colour that training never shows."""

    @property
    def defects(self) -> tuple[Defect, ...]:
        return self.defects_1 + self.defects_2

    @property
    def video_paths(self) -> tuple[str, str]:
        """Return both files, relative to the data set; the names say nothing about the label."""
        stem = f"videos/{self.split}/{self.index:05d}"
        return f"{stem}_1{SUFFIX}", f"{stem}_2{SUFFIX}"

    def to_sample(self, prompt: str, profile: Profile, seed: int) -> PreferenceSample:
        """Write the pair as a row of the contract; `meta` holds the whole truth about it."""
        video_1, video_2 = self.video_paths
        meta: dict[str, Any] = {
            "pair_type": self.pair_type.value,
            "defects_1": [defect.to_meta() for defect in self.defects_1],
            "defects_2": [defect.to_meta() for defect in self.defects_2],
            "cue": self.gaps[0].to_meta() if self.gaps else None,
            "cues": [gap.to_meta() for gap in self.gaps],
            "shortest_hidden": profile.window_lengths[0],
            "profile": profile.name,
            "seed": seed,
            "base_clip": self.base,
            "base_seed": list(self.base_seed),
            "is_held_out": self.is_held_out,
        }
        return PreferenceSample(
            uid=f"{SOURCE}-{profile.name}-{seed}-{self.split}-{self.index:05d}",
            prompt=prompt,
            video_1=video_1,
            video_2=video_2,
            labels=labels_from_defects(self.defects_1, self.defects_2),
            source=SOURCE,
            split=self.split,
            meta=meta,
        )


def count_types(
    num_pairs: int,
    both_hidden_share: float | None = None,
    shares: Mapping[str, float] = STANDARD_SHARES,
) -> dict[PairType, int]:
    """Deal pairs to types by their shares, the rest to the types with the largest remainders;
    `both_hidden_share` replaces that type's share, the others keep their proportions.

    >>> {t.value: n for t, n in count_types(8, 0.0).items() if n}
    {'hidden': 3, 'tie': 2, 'visible': 2, 'decoy': 1}
    """
    exact = {pair_type: shares.get(pair_type.value, 0.0) * num_pairs for pair_type in PairType}
    if both_hidden_share is not None:
        given = exact.pop(PairType.BOTH_HIDDEN)
        scale = (1 - both_hidden_share) * num_pairs / (num_pairs - given) if num_pairs else 0.0
        exact = {pair_type: share * scale for pair_type, share in exact.items()}
        exact[PairType.BOTH_HIDDEN] = both_hidden_share * num_pairs
    counts = {pair_type: int(share + 1e-9) for pair_type, share in exact.items()}
    by_remainder = sorted(exact, key=lambda pair_type: counts[pair_type] - exact[pair_type])
    for pair_type in by_remainder[: num_pairs - sum(counts.values())]:
        counts[pair_type] += 1
    return counts


def guess_accuracy(type_counts: Mapping[PairType, int]) -> float:
    """Return the best possible accuracy without a search in the standard mix.

    >>> round(guess_accuracy(count_types(2000, 0.0)), 3)
    0.4
    """
    right = sum(GUESSES[t] * count for t, count in type_counts.items() if count)
    return right / sum(type_counts.values())


def plan_split(config: PlanConfig, split: str, clips: ClipSplit) -> list[PairPlan]:
    """Plan every pair of a split; a function of its arguments alone."""
    rng = np.random.default_rng([config.seed, SPLITS.index(split)])
    num_pairs = config.num_pairs(split)
    num_of_clips = round(config.profile.clip_share * num_pairs)
    names = clips.train if split == "train" else clips.test
    bases = [names[i % len(names)] for i in range(num_of_clips)] + [SCENE] * (
        num_pairs - num_of_clips
    )
    drafts = [
        draft
        for pair_type, count in config.count_types(split).items()
        for draft in _draft_pairs(pair_type, count, config, split, rng)
    ]
    drafts = [drafts[i] for i in rng.permutation(num_pairs)]
    bases = [bases[i] for i in rng.permutation(num_pairs)]
    return [
        PairPlan(
            split,
            i,
            *draft,
            bases[i],
            (config.seed, SPLITS.index(split), i),
            _is_held_out(draft[1:3], config),
        )
        for i, draft in enumerate(drafts)
    ]


_Draft = tuple[PairType, tuple[Defect, ...], tuple[Defect, ...], tuple[Gap, ...]]


def _draft_pairs(
    pair_type: PairType, count: int, config: PlanConfig, split: str, rng: np.random.Generator
) -> list[_Draft]:
    """Deal the defects, gaps and winners of all pairs of one type."""
    profile = config.profile
    if pair_type is PairType.BOTH_HIDDEN and "both_hidden" in profile.shares:
        return _draft_patterns(count, config, split, rng)
    gaps, winners = _deal(profile.gaps(), count, rng), _deal((1, 2), count, rng)
    types, milds = _deal_types(count, config, split, rng), _deal(profile.mild_types, count, rng)
    moderate_types = _deal(profile.hidden_types, count, rng)
    drafts: list[_Draft] = []
    for gap, winner, type_name, mild_type, moderate_type in zip(
        gaps, winners, types, milds, moderate_types, strict=True
    ):
        cued = [] if pair_type.value in profile.uncued_types else [_mark(gap, profile, rng)]
        better, worse = [], []
        if pair_type in (PairType.HIDDEN, PairType.DECOY, PairType.BOTH_HIDDEN):
            worse.append(_hide(type_name, SEVERE, gap, profile, split, rng))
        if pair_type in (PairType.VISIBLE, PairType.DECOY):
            colour = _draw_colour(mild_type, split, rng)
            seed = int(rng.integers(2**31))
            mild = Defect(
                mild_type, MILD, 0, profile.num_frames, is_hidden=False, seed=seed, colour=colour
            )
            (worse if pair_type is PairType.VISIBLE else better).append(mild)
        if pair_type is PairType.BOTH_HIDDEN:
            others = [other for other in profile.gaps() if other != gap]
            cued.append(others[int(rng.integers(len(others)))])
            better.append(_hide(moderate_type, MODERATE, cued[1], profile, split, rng))
        one, two = (better, worse) if winner == 1 else (worse, better)
        cued.sort(key=lambda cue: cue.first_index)
        drafts.append((pair_type, tuple(one), tuple(two), tuple(cued)))
    return drafts


def _draft_patterns(
    count: int, config: PlanConfig, split: str, rng: np.random.Generator
) -> list[_Draft]:
    """Deal the pairs whose two cued gaps must be looked at one after the other."""
    profile = config.profile
    gap_pairs = _deal(list(combinations(profile.gaps(), 2)), count, rng)
    patterns, orders = _deal_patterns(count, rng), _deal((("VQ", "MQ"), ("MQ", "VQ")), count, rng)
    drafts: list[_Draft] = []
    for gaps, pattern, dimensions in zip(gap_pairs, patterns, orders, strict=True):
        sides: list[tuple[Defect, ...]] = []
        for is_damaged in pattern:
            hidden = []
            for gap, dimension, flag in zip(gaps, dimensions, is_damaged, strict=True):
                if flag:
                    types = [
                        n for n in profile.hidden_types if DEFECT_TYPES[n].dimension == dimension
                    ]
                    name = types[int(rng.integers(len(types)))]
                    hidden.append(_hide(name, SEVERE, gap, profile, split, rng))
            sides.append(tuple(hidden))
        cued = tuple(_mark(gap, profile, rng) for gap in gaps)
        drafts.append((PairType.BOTH_HIDDEN, sides[0], sides[1], cued))
    return drafts


def _mark(gap: Gap, profile: Profile, rng: np.random.Generator) -> Gap:
    """Decide on which side of a gap its cue is; the last gap has no shown frame after it."""
    if not profile.inferred_cue_share or gap.indices.stop >= profile.num_frames:
        return gap
    return replace(gap, is_marked_after=bool(rng.random() < profile.inferred_cue_share))


def _hide(
    type_name: str, severity: int, gap: Gap, profile: Profile, split: str, rng: np.random.Generator
) -> Defect:
    windows = profile.windows(gap)
    window = windows[int(rng.integers(len(windows)))]
    colour, seed = _draw_colour(type_name, split, rng), int(rng.integers(2**31))
    return Defect(
        type_name, severity, window.start, len(window), is_hidden=True, seed=seed, colour=colour
    )


def _draw_colour(type_name: str, split: str, rng: np.random.Generator) -> str | None:
    colours = TRAIN_COLOURS if split == "train" else tuple(COLOURS)
    return colours[int(rng.integers(len(colours)))] if DEFECT_TYPES[type_name].is_coloured else None


def _deal(choices: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    """Return `count` items in which every choice comes equally often, or once more, in random
    order."""
    order = rng.permutation(len(choices))  # who gets the rest
    stack = [choices[order[i % len(choices)]] for i in range(count)]
    return [stack[i] for i in rng.permutation(count)]


def _deal_patterns(count: int, rng: np.random.Generator) -> list[Pattern]:
    """Deal the patterns so that a pattern and its mirror come one after the other: whatever the
    number of pairs, both videos win equally often, or one of them once more."""
    copies = {pattern: PATTERNS.count(pattern) for pattern in PATTERNS}
    units: list[list[Pattern]] = []
    for (one, two), number in copies.items():
        if sum(one) < sum(two):  # its mirror is the other one of the pair
            units += [[(one, two), (two, one)]] * number
        elif sum(one) == sum(two):
            units += [[(one, two)]] * number
    dealt = [pattern for i in rng.permutation(len(units)) for pattern in units[i]]
    stack = [dealt[i % len(dealt)] for i in range(count)]
    return [stack[i] for i in rng.permutation(count)]


def _deal_types(count: int, config: PlanConfig, split: str, rng: np.random.Generator) -> list[str]:
    num_held_out = round(config.held_out_share * count) if split == "test" else 0
    known = _deal(config.profile.hidden_types, count - num_held_out, rng)
    unknown = _deal(config.profile.held_out_types, num_held_out, rng) if num_held_out else []
    types = known + unknown
    return [types[i] for i in rng.permutation(count)]


def _is_held_out(sides: Sequence[Sequence[Defect]], config: PlanConfig) -> bool:
    return any(
        defect.type in config.profile.held_out_types
        or (defect.colour or TRAIN_COLOURS[0]) not in TRAIN_COLOURS
        for side in sides
        for defect in side
    )
