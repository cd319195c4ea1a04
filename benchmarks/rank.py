"""How many comparisons a ranking needs, beside a tournament of every pair.

    python -m benchmarks.rank [--groups 200]

The one idea: a judge that is right in 85 % of the pairs errs in the full tournament, too. Quality
is agreement with the *true* order (Kendall's tau-b, mean of many groups), and the question is after
how many chosen comparisons a ranking is as good as the full tournament's, within a tolerance. The
judge is simulated and the same for both; pairs are chosen one by one by `judge.ranking`, as
`videosearch rank` chooses them.

Two judges: `flat` errs as often with any pair, `near` errs with neighbours, as judges do. Beside
them stands a schedule of random pairs of the same number.

Covers: the schedule and the fit. Does not cover: videos, ties, comparisons in flight."""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated

import numpy as np
import typer

from verl_videosearch.judge.ranking import PairResult, Winner, choose_pairs, fit_ranking

ACCURACY = 0.85
TOLERANCE = 0.02
"""Of tau-b: what counts as equal quality."""
JUDGES = ("near", "flat")


def find_steepness(num_clips: int) -> float:
    """Return k so that a judge with P(right) = 1 / (1 + exp(-k * distance)) is right in 85 % of all
    pairs.

    >>> round(find_steepness(8), 2)
    0.73
    """
    counts = [(num_clips - d, d) for d in range(1, num_clips)]
    total = sum(count for count, _ in counts)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        right = sum(count / (1 + math.exp(-middle * d)) for count, d in counts) / total
        low, high = (middle, high) if right < ACCURACY else (low, middle)
    return low


def tau_b(a: Sequence[float], b: Sequence[float]) -> float:
    """Return Kendall's tau-b of two scorings.

    >>> tau_b([1, 2, 3], [1, 2, 3]), tau_b([1, 2, 3], [3, 2, 1])
    (1.0, -1.0)
    >>> tau_b([1, 1, 1], [1, 2, 3])
    0.0
    """
    first, second = np.sign(np.subtract.outer(a, a)), np.sign(np.subtract.outer(b, b))
    scale = math.sqrt(float((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / scale if scale else 0.0


@dataclass(frozen=True)
class Group:
    """Clips of known quality and what the judge says of each pair."""

    quality: np.ndarray
    answers: dict[tuple[int, int], Winner]

    def ask(self, pair: tuple[int, int]) -> PairResult:
        """Return the judge's answer."""
        return PairResult(*pair, self.answers[pair])


def draw_group(num_clips: int, kind: str, rng: np.random.Generator) -> Group:
    """Draw an order and the answers of a judge."""
    quality, answers = rng.permutation(num_clips), {}
    steepness = find_steepness(num_clips)
    for i, j in combinations(range(num_clips), 2):
        distance = abs(int(quality[i]) - int(quality[j]))
        accuracy = 1 / (1 + math.exp(-steepness * distance)) if kind == "near" else ACCURACY
        is_first = (quality[i] > quality[j]) == (rng.random() < accuracy)
        answers[i, j] = Winner.FIRST if is_first else Winner.SECOND
    return Group(quality, answers)


def score(group: Group, results: Sequence[PairResult]) -> float:
    """Return how well a fit orders the clips."""
    strengths = fit_ranking(len(group.quality), results).strengths
    return tau_b(np.round(strengths, 6), group.quality)


def play_chosen(group: Group) -> list[float]:
    """Return tau-b after 1, 2, ... chosen comparisons, up to all pairs."""
    results: list[PairResult] = []
    curve = []
    while pairs := choose_pairs(len(group.quality), results, 1):
        results.append(group.ask(pairs[0]))
        curve.append(score(group, results))
    return curve


def play_random(group: Group, num: int, rng: np.random.Generator) -> float:
    """Return tau-b after so many pairs drawn at random."""
    pairs = list(group.answers)
    drawn = rng.choice(len(pairs), num, replace=False)
    return score(group, [group.ask(pairs[index]) for index in drawn])


def find_enough(curve: Sequence[float], tolerance: float = TOLERANCE) -> int:
    """Return after how many comparisons a mean curve stays as good as at its end.

    >>> find_enough([0.2, 0.7, 0.79, 0.7, 0.79, 0.8])
    5
    """
    least = curve[-1] - tolerance
    below = [number for number, value in enumerate(curve, 1) if value < least]
    return below[-1] + 1 if below else 1


def main(
    groups: Annotated[int, typer.Option(min=2, help="Simulated groups of 4 and 8 clips.")] = 100,
    clips: Annotated[str, typer.Option(help="Sizes, separated by commas.")] = "4,8,16",
    seed: Annotated[int, typer.Option(help="Of the simulation.")] = 0,
) -> None:
    """Print a row per number of clips and judge."""
    typer.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; a "
        f"judge right in {ACCURACY:.0%}; equal quality: mean tau-b within {TOLERANCE}"
    )
    typer.echo(
        "\n| clips | judge | groups | all pairs | enough | share | tau-b of all | of enough | "
        "of as many at random | of half | ms to choose one |\n" + "| --- " * 11 + "|"
    )
    for num_clips in map(int, clips.split(",")):
        count = groups if num_clips < 16 else max(2, groups // 5)  # 120 fits of 16 clips each
        for kind in JUDGES:
            rng = np.random.default_rng(seed)
            drawn = [draw_group(num_clips, kind, rng) for _ in range(count)]
            start = time.process_time()
            curve = np.mean([play_chosen(group) for group in drawn], axis=0)
            all_pairs = len(curve)
            each_ms = 1000 * (time.process_time() - start) / (count * all_pairs)
            enough = find_enough(curve)
            random = np.mean([play_random(group, enough, rng) for group in drawn])
            typer.echo(
                f"| {num_clips} | {kind} | {count} | {all_pairs} | {enough} | "
                f"{enough / all_pairs:.0%} | {curve[-1]:.3f} | {curve[enough - 1]:.3f} | "
                f"{random:.3f} | {curve[all_pairs // 2 - 1]:.3f} | {each_ms:.1f} |"
            )


if __name__ == "__main__":
    typer.run(main)
