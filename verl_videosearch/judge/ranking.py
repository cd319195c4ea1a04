"""Rank clips from comparisons of two: Bradley-Terry strengths with ties, intervals, cycles, and
which pair to ask next.

The one idea: strengths are the peak of one concave function, and its curvature says how far each
difference is still open. So one small Newton fit gives the order, its intervals and the next pair
to ask about::

    P(i beats j) = s_i / (s_i + s_j + t * sqrt(s_i * s_j))          s: strength, t: liking for ties
    P(tie)       = t * sqrt(s_i * s_j) / (same)                     (Davidson 1970)

>>> wins = [(0, 1), (1, 2), (0, 2)]
>>> results = [PairResult(better, worse, Winner.FIRST) for better, worse in wins]
>>> ranking = fit_ranking(3, results)
>>> ranking.order, ranking.ranks
((0, 1, 2), (1, 2, 3))
>>> choose_pairs(3, results[:1], 1)
[(0, 2)]

A weak normal prior keeps the strength of a clip that never lost finite; it moves no clip past
another one. Intervals are those of the Laplace approximation (inverse Hessian).

Covers: any comparisons, in any order, weighted or not. Does not cover: who compares (`rank_clips`
takes a function), videos."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np

PRIOR_SD = 2.0
"""Standard deviation of a log strength before anything was compared; with it the best of two equal
draws beats the other in 95 % at the most."""
TIE_PRIOR_SD = 1.0
"""Standard deviation of the log of the liking for ties, around 1 (a third of ties among equals)."""
INTERVAL_Z = 1.96
"""Half a 95 % interval in standard deviations."""
_MAX_STEPS, _TOLERANCE = 100, 1e-10


class Winner(str, Enum):
    """Who won one comparison."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"


@dataclass(frozen=True)
class PairResult:
    """One comparison of two clips, named by their index."""

    first: int
    second: int
    winner: Winner
    weight: float = 1.0
    """How many comparisons it counts for; a doubtful one counts for less than 1."""

    def __post_init__(self) -> None:
        if self.first == self.second or min(self.first, self.second) < 0:
            raise ValueError(f"a comparison is of two clips, got {self.first} and {self.second}")
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight must be above 0, got {self.weight!r}")


@dataclass(frozen=True)
class Ranking:
    """What the comparisons say about all clips together."""

    strengths: tuple[float, ...]
    """Log strength of each clip; their mean is 0. A difference of 1 wins 73 % of the decided
    comparisons."""
    intervals: tuple[tuple[float, float], ...]
    """95 % interval of each log strength."""
    win_rates: tuple[float, ...]
    """Expected share of wins against the others, a tie counting half; 0.5 for a single clip."""
    ties: float
    """Log of the liking for ties."""
    covariance: np.ndarray
    """Of the log strengths, float64 (n, n)."""
    cycles: tuple[tuple[int, ...], ...]
    """Clips that beat one another in a circle, each the shortest one of its group: `(0, 2, 1)` says
    that 0 beat 2, 2 beat 1 and 1 beat 0."""
    num_comparisons: int

    @property
    def order(self) -> tuple[int, ...]:
        """Return the clips from best to worst; equal ones by index."""
        return tuple(sorted(range(len(self.strengths)), key=lambda i: (-self._level(i), i)))

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return each clip's place, 1 for the best; equal clips share the better place."""
        levels = [self._level(i) for i in range(len(self.strengths))]
        return tuple(1 + sum(other > level for other in levels) for level in levels)

    def _level(self, clip: int) -> float:
        return round(self.strengths[clip], 6)  # closer is rounding of the fit


def fit_ranking(num_clips: int, results: Sequence[PairResult]) -> Ranking:
    """Fit strengths to comparisons; without any, all clips are equal and the intervals wide."""
    _check(num_clips, results)
    first, second, score, weight = _to_arrays(results)
    values, hessian = _fit(num_clips, first, second, score, weight)
    covariance = np.linalg.inv(hessian)[:num_clips, :num_clips]
    centre = np.eye(num_clips) - 1 / num_clips
    covariance = centre @ covariance @ centre
    strengths = values[:num_clips] - values[:num_clips].mean()
    reach = INTERVAL_Z * np.sqrt(np.clip(np.diag(covariance), 0, None))
    return Ranking(
        strengths=tuple(map(float, strengths)),
        intervals=tuple(
            (float(s - r), float(s + r)) for s, r in zip(strengths, reach, strict=True)
        ),
        win_rates=tuple(map(float, _win_rates(strengths, values[num_clips]))),
        ties=float(values[num_clips]),
        covariance=covariance,
        cycles=find_cycles(num_clips, results),
        num_comparisons=len(results),
    )


def win_probabilities(difference: np.ndarray, ties: np.ndarray | float) -> np.ndarray:
    """Return P(first wins), P(tie), P(second wins) along a new last axis, from the difference of
    log strengths.

    >>> win_probabilities(np.array(0.0), 0.0).round(3).tolist()
    [0.333, 0.333, 0.333]
    """
    difference = np.asarray(difference, np.float64)
    logits = np.stack(
        [difference / 2, np.broadcast_to(ties, difference.shape), -difference / 2], axis=-1
    )
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def choose_pairs(
    num_clips: int,
    results: Sequence[PairResult],
    num_pairs: int,
    skipped: Collection[tuple[int, int]] = (),
) -> list[tuple[int, int]]:
    """Choose the next pairs to compare: those that tell most about the order, no clip twice.

    Neighbours come first: the two clips whose expected win rates are closest, and among equally
    close ones those whose difference is least known. (Simulated with 8 clips, 16 comparisons and a
    judge that is right in 85 %, this came closest to the full tournament; pairs chosen by variance
    alone, or by what an answer tells about the strengths, were behind.) Only pairs that were
    never compared and are not `skipped` are chosen. Fewer come back when fewer are left; ties go to
    the lower numbers, so that the schedule is a function of the results."""
    _check(num_clips, results)
    ranking = fit_ranking(num_clips, results)
    known = {frozenset((each.first, each.second)) for each in results}
    known |= {frozenset(pair) for pair in skipped}
    scored = [
        (*_rate_pair(ranking, i, j), i, j)
        for i, j in combinations(range(num_clips), 2)
        if frozenset((i, j)) not in known
    ]
    chosen: list[tuple[int, int]] = []
    busy: set[int] = set()
    for *_, i, j in sorted(scored):
        if len(chosen) < num_pairs and not {i, j} & busy:
            chosen.append((i, j))
            busy |= {i, j}
    return chosen


def _rate_pair(ranking: Ranking, i: int, j: int) -> tuple[float, float]:
    """Sort a pair: distance of the win rates, then minus the open variance of the difference."""
    distance = abs(ranking.win_rates[i] - ranking.win_rates[j])
    covariance = ranking.covariance
    open_variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
    return round(distance, 9), -round(float(open_variance), 9)


def find_cycles(num_clips: int, results: Sequence[PairResult]) -> tuple[tuple[int, ...], ...]:
    """Find clips that beat one another in a circle: per group of such clips the shortest circle.

    A pair that was compared several times counts for whoever won more of it.

    >>> wins = [(0, 1), (1, 2), (2, 0), (0, 3)]
    >>> find_cycles(4, [PairResult(a, b, Winner.FIRST) for a, b in wins])
    ((0, 1, 2),)
    """
    balance = np.zeros((num_clips, num_clips))
    for each in results:
        sign = {Winner.FIRST: 1, Winner.TIE: 0, Winner.SECOND: -1}[each.winner] * each.weight
        balance[each.first, each.second] += sign
        balance[each.second, each.first] -= sign
    beats = [[j for j in range(num_clips) if balance[i, j] > 0] for i in range(num_clips)]
    reach = [_reachable(beats, i) for i in range(num_clips)]
    cycles, seen = [], set()
    for i in range(num_clips):
        group = {j for j in reach[i] if i in reach[j]}
        if i in group and i not in seen:
            seen |= group
            cycles.append(min((_shortest_cycle(beats, j) for j in sorted(group)), key=len))
    return tuple(cycles)


def _reachable(beats: Sequence[Sequence[int]], start: int) -> set[int]:
    found: set[int] = set()
    stack = list(beats[start])
    while stack:
        clip = stack.pop()
        if clip not in found:
            found.add(clip)
            stack += beats[clip]
    return found


def _shortest_cycle(beats: Sequence[Sequence[int]], start: int) -> tuple[int, ...]:
    """Return the shortest path from `start` back to it; there is one."""
    paths: list[tuple[int, ...]] = [(start,)]
    seen: set[int] = set()
    while True:
        longer = []
        for path in paths:
            for clip in beats[path[-1]]:
                if clip == start:
                    return path
                if clip not in seen:
                    seen.add(clip)
                    longer.append((*path, clip))
        paths = longer


def _check(num_clips: int, results: Sequence[PairResult]) -> None:
    if num_clips < 1:
        raise ValueError(f"a ranking needs at least one clip, got {num_clips}")
    if wrong := [each for each in results if max(each.first, each.second) >= num_clips]:
        raise ValueError(f"{wrong[0]} names a clip that is not among the {num_clips}")


def _to_arrays(results: Sequence[PairResult]) -> tuple[np.ndarray, ...]:
    """Return first, second, (n, 3) one-hot of win, tie, loss, and weights."""
    first = np.array([each.first for each in results], np.int64)
    second = np.array([each.second for each in results], np.int64)
    columns = {Winner.FIRST: 0, Winner.TIE: 1, Winner.SECOND: 2}
    score = np.zeros((len(results), 3))
    for row, each in enumerate(results):
        score[row, columns[each.winner]] = 1
    return first, second, score, np.array([each.weight for each in results], np.float64)


def _fit(
    num_clips: int,
    first: np.ndarray,
    second: np.ndarray,
    score: np.ndarray,
    weight: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (log strengths and ties, Hessian of minus the log posterior) at the peak, by Newton
    with halved steps; the function is concave, so there is one peak."""
    design = np.zeros((len(first), num_clips + 1, 3))  # of each outcome's logit
    rows = np.arange(len(first))
    design[rows, first, 0], design[rows, second, 0] = 0.5, -0.5
    design[rows, first, 2], design[rows, second, 2] = -0.5, 0.5
    design[:, num_clips, 1] = 1
    precision = np.array([PRIOR_SD**-2] * num_clips + [TIE_PRIOR_SD**-2])
    values = np.zeros(num_clips + 1)

    def measure(at: np.ndarray) -> tuple[float, np.ndarray]:
        p = win_probabilities(at[first] - at[second], at[num_clips])
        return float((weight * np.log((p * score).sum(axis=1))).sum() - precision @ at**2 / 2), p

    height, p = measure(values)
    for _ in range(_MAX_STEPS):
        gradient = np.einsum("r,rvk,rk->v", weight, design, score - p) - precision * values
        hessian = _hessian(design, p, weight) + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        if np.abs(step).max() < _TOLERANCE:
            break
        size = 1.0
        while measure(values + size * step)[0] < height and size > 1e-6:
            size /= 2
        values = values + size * step
        height, p = measure(values)
    return values, _hessian(design, p, weight) + np.diag(precision)


def _hessian(design: np.ndarray, p: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the information: per comparison the covariance of the logits' design under p."""
    mean = np.einsum("rvk,rk->rv", design, p)
    second_moment = np.einsum("r,rvk,ruk,rk->vu", weight, design, design, p)
    return second_moment - np.einsum("r,rv,ru->vu", weight, mean, mean)


def _win_rates(strengths: np.ndarray, ties: float) -> np.ndarray:
    num_clips = len(strengths)
    if num_clips == 1:
        return np.array([0.5])
    p = win_probabilities(strengths[:, None] - strengths[None, :], ties)
    expected = p[..., 0] + p[..., 1] / 2
    return (expected.sum(axis=1) - 0.5) / (num_clips - 1)
