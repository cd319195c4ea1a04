"""The best possible accuracy with so many calls: what one look, two looks, three looks can know.

The one idea: a judge plays a small game against a dealt pair, and the game is solved, not guessed.
What is hidden lies in *places* (a cued gap of one video); a frame from the middle of a place tells
whether it is damaged, so a call of k frames reveals k places. Pairs that look alike at first are
judged together: with what the calls have revealed, the most frequent label is the best answer.

>>> from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES
>>> best = solve(PROFILES["looks"])
>>> [round(best.by_calls[n], 3) for n in range(4)], round(best.by_view["two cues"][1], 3)
([0.498, 0.727, 1.0, 1.0], 0.545)

Covers: profiles in which every hidden defect covers the middle of its gap (`tiny`, `looks`). Does
not cover: gaps longer than their defects (`paper`), where a look may miss; `solve` returns None.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from verl_videosearch.data_prep.hide_and_seek.plan import GUESSES, PATTERNS, PairType
from verl_videosearch.data_prep.hide_and_seek.profile import Profile

Case = tuple[tuple[bool, ...], int, float]
"""Is each place damaged; the overall label; how often it is dealt."""
LABELS = (0, 1, 2)


@dataclass(frozen=True)
class Optimum:
    """Accuracy of a judge that plays perfectly."""

    by_calls: tuple[float, ...]
    """Over all pairs, with 0, 1, ... calls."""
    by_view: Mapping[str, tuple[float, ...]]
    """First sight (what pairs look like before any call) to the same."""
    types: Mapping[str, tuple[str, ...]]
    """First sight to the pair types that look so."""


def solve(profile: Profile, shares: Mapping[str, float] | None = None) -> Optimum | None:
    """Solve the game of a profile with its limits of frames a call and calls."""
    if not is_seen_in_the_middle(profile):
        return None
    shares = profile.shares if shares is None else shares
    groups: dict[str, list[Case]] = defaultdict(list)
    types: dict[str, set[str]] = defaultdict(set)
    for name, share in shares.items():
        for view, case in list_cases(PairType(name), profile):
            groups[view].append((case[0], case[1], case[2] * share))
            if share:
                types[view].add(name)
    num_calls, num_frames = range(profile.max_tool_calls + 1), profile.max_frames_per_call
    totals = {view: sum(weight for *_, weight in cases) for view, cases in groups.items()}
    right = {
        view: [play(tuple(cases), calls, num_frames) for calls in num_calls]
        for view, cases in groups.items()
        if totals[view]
    }
    return Optimum(
        tuple(sum(column) for column in zip(*right.values(), strict=True)),
        {view: tuple(value / totals[view] for value in row) for view, row in right.items()},
        {view: tuple(sorted(names)) for view, names in types.items()},
    )


def list_guesses(profile: Profile) -> dict[str, float]:
    """Return for each pair type how often the best answer at first sight is right about pairs that
    look like it; of several looks the easier one.

    >>> from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES
    >>> {name: round(share, 3) for name, share in list_guesses(PROFILES["tiny"]).items()}
    {'hidden': 0.333, 'tie': 0.333, 'visible': 0.5, 'decoy': 0.5}
    """
    best = solve(profile)
    if best is None:
        return {pair_type.value: share for pair_type, share in GUESSES.items()}
    guesses: dict[str, float] = {}
    for view, names in best.types.items():
        for name in names:
            guesses[name] = max(guesses.get(name, 0.0), best.by_view[view][0])
    return {each.value: guesses[each.value] for each in PairType if each.value in guesses}


def is_seen_in_the_middle(profile: Profile) -> bool:
    """True when one frame tells whether a place is damaged."""
    return all(
        gap.look(1)[0] in window for gap in profile.gaps() for window in profile.windows(gap)
    )


def list_cases(pair_type: PairType, profile: Profile) -> list[tuple[str, Case]]:
    """Return what pairs of a type look like at first, and every way in which they are dealt."""
    cue = "no cue" if pair_type.value in profile.uncued_types else "one cue"
    if pair_type in (PairType.TIE, PairType.EMPTY):
        return [(f"{cue}, clean", ((False, False), 0, 1.0))]
    if pair_type is PairType.HIDDEN:
        cases = [((side == 1, side == 2), 3 - side, 0.5) for side in (1, 2)]
        return [(f"{cue}, clean", case) for case in cases]
    if pair_type is PairType.VISIBLE:
        return [
            (f"{cue}, mild in video {side}", ((False, False), 3 - side, 0.5)) for side in (1, 2)
        ]
    if pair_type is PairType.DECOY:  # mild in X, severe in Y: X is better
        return [
            (f"{cue}, mild in video {side}", ((side == 2, side == 1), side, 0.5)) for side in (1, 2)
        ]
    if "both_hidden" not in profile.shares:  # one place a side, graded: whoever finds either knows
        graded = [((side == 1, side == 2), 3 - side, 0.5) for side in (1, 2)]
        return [("two cues", case) for case in graded]
    return [("two cues", _to_case(one, two)) for one, two in PATTERNS]


def _to_case(one: tuple[bool, bool], two: tuple[bool, bool]) -> Case:
    difference = sum(one) - sum(two)
    label = 0 if not difference else 2 if difference > 0 else 1
    return (*one, *two), label, 1 / len(PATTERNS)


@cache
def play(cases: tuple[Case, ...], num_calls: int, num_frames: int) -> float:
    """Return the weight that a perfect judge gets right with so many calls left."""
    at_once = max(sum(weight for _, label, weight in cases if label == each) for each in LABELS)
    places = range(len(cases[0][0]))
    if not num_calls or len({label for _, label, _ in cases}) == 1:
        return at_once
    looks = combinations(places, min(num_frames, len(places)))
    best = (
        sum(play(group, num_calls - 1, num_frames) for group in split_by_look(cases, look))
        for look in looks
    )
    return max(at_once, *best)


def split_by_look(cases: Sequence[Case], look: Sequence[int]) -> list[tuple[Case, ...]]:
    """Part the cases by what a look at some places shows."""
    groups: dict[tuple[bool, ...], list[Case]] = defaultdict(list)
    for case in cases:
        groups[tuple(case[0][place] for place in look)].append(case)
    return [tuple(group) for group in groups.values()]
