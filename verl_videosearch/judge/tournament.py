"""Compare clips of one prompt until the ranking is settled or the budget is spent.

The one idea: what was compared before is free. Known results are taken first, so a repeated ranking
costs nothing and one more clip costs only pairs with it; then the pair that tells most is asked
about, again and again, a few at a time.

    config = TournamentConfig(max_comparisons=16)
    outcome = await play_tournament(len(clips), compare, config, known)
    outcome.ranking.order, outcome.failed

Covers: the schedule, the budget, comparisons that fail. Does not cover: judging two clips
(`judge`), remembering results (`cache`)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from verl_videosearch.config import at_least, check
from verl_videosearch.failures import EpisodeFailure
from verl_videosearch.judge.ranking import PairResult, Ranking, choose_pairs, fit_ranking

CompareFn = Callable[[int, int], Awaitable[PairResult | None]]
"""Compares two clips by index; None without a readable verdict; raises `EpisodeFailure`."""


@dataclass(frozen=True)
class TournamentConfig:
    """How many comparisons a ranking may cost."""

    max_comparisons: int | None = None
    """New comparisons, known ones not counted; null: every pair once (a full round robin)."""
    concurrency: int = 4
    """Comparisons in flight; the next ones are chosen when these are through, so more of them make
    the ranking sooner and a little less well."""

    def __post_init__(self) -> None:
        check(self, max_comparisons=at_least(1), concurrency=at_least(1))


@dataclass(frozen=True)
class TournamentResult:
    """A ranking and what it rests on."""

    ranking: Ranking
    results: tuple[PairResult, ...]
    """Known ones first, then new ones by their clips."""
    num_new: int
    """Comparisons that were asked for, those without a verdict included."""
    undecided: tuple[tuple[int, int], ...]
    """Pairs without a readable verdict, known ones first."""
    failed: tuple[tuple[int, int, EpisodeFailure], ...]
    """Pairs whose comparison broke, and why; they are in no figure."""

    @property
    def nums_compared(self) -> tuple[int, ...]:
        """By how many results each clip stands where it does; 0 leaves its place open."""
        counts = Counter(clip for each in self.results for clip in (each.first, each.second))
        return tuple(counts[clip] for clip in range(len(self.ranking.strengths)))


async def play_tournament(
    num_clips: int,
    compare: CompareFn,
    config: TournamentConfig | None = None,
    known: Sequence[PairResult] = (),
    on_comparison: Callable[[], None] = lambda: None,
    known_undecided: Sequence[tuple[int, int]] = (),
) -> TournamentResult:
    """Compare until the budget is spent or every pair was asked about, and rank. Neither `known`
    pairs nor those that were asked before without a verdict (`known_undecided`) are asked.

    A comparison that fails in passing is asked once more at the end, for the budget that it took;
    one that fails for good is not. Raises the first `EpisodeFailure` when all failed."""
    config = config or TournamentConfig()
    results = list(known)
    undecided = list(known_undecided)
    failed: list[tuple[int, int, EpisodeFailure]] = []
    num_pairs = num_clips * (num_clips - 1) // 2
    budget = num_pairs if config.max_comparisons is None else config.max_comparisons
    num_new = 0

    async def ask(first: int, second: int) -> None:
        try:
            result = await compare(first, second)
        except EpisodeFailure as failure:
            failed.append((first, second, failure))
            return
        if result is None:
            undecided.append((first, second))
        else:
            results.append(result)

    while num_new < budget:
        skipped = {*undecided, *((first, second) for first, second, _ in failed)}
        size = min(config.concurrency, budget - num_new)
        pairs = choose_pairs(num_clips, results, size, skipped=skipped)
        if not pairs:
            break
        num_new += len(pairs)
        await asyncio.gather(*(ask(first, second) for first, second in pairs))
        for _ in pairs:
            on_comparison()
        results[len(known) :] = sorted(results[len(known) :], key=_key)
    if results:  # somebody answers, so a server that was away may be back
        again = [each for each in failed if each[2].is_passing]
        failed[:] = [each for each in failed if not each[2].is_passing]
        for start in range(0, len(again), config.concurrency):
            chunk = again[start : start + config.concurrency]
            await asyncio.gather(*(ask(first, second) for first, second, _ in chunk))
        results[len(known) :] = sorted(results[len(known) :], key=_key)
    if failed and not results:
        raise failed[0][2]
    return TournamentResult(
        fit_ranking(num_clips, results), tuple(results), num_new, tuple(undecided), tuple(failed)
    )


def _key(result: PairResult) -> tuple[int, int]:
    """Order results by their clips: the fit does not depend on who answered first."""
    return result.first, result.second
