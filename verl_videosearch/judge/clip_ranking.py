"""ClipRanking: the clips of one prompt from best to worst, with intervals and reasons.

The one idea: a ranking is a tournament of comparisons, and remembered comparisons are free.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.judge.ranking import PairResult, Winner
from verl_videosearch.judge.tournament import TournamentConfig, TournamentResult, play_tournament

_WINNERS = {0: Winner.TIE, 1: Winner.FIRST, 2: Winner.SECOND}


@dataclass(frozen=True)
class ClipRanking:
    """Which clip is best, how sure that is, and what it rests on."""

    prompt: str
    videos: tuple[str, ...]
    """As given; ranks and strengths stand in this order."""
    tournament: TournamentResult
    comparisons: tuple[Comparison, ...]
    """Every comparison that was made, remembered ones and those without a verdict included."""
    num_known: int
    """Comparisons that were remembered, those without a verdict included."""

    @property
    def order(self) -> tuple[str, ...]:
        """The clips from best to worst."""
        return tuple(self.videos[index] for index in self.tournament.ranking.order)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Each clip's place, 1 for the best; equal ones share the better place."""
        return self.tournament.ranking.ranks

    @property
    def win_rates(self) -> tuple[float, ...]:
        """Expected share of wins against the other clips."""
        return self.tournament.ranking.win_rates

    @property
    def uncompared(self) -> tuple[str, ...]:
        """Clips that no verdict is about: their places and win rates are only what nobody knows."""
        counts = zip(self.videos, self.tournament.nums_compared, strict=True)
        return tuple(video for video, count in counts if not count)

    @property
    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """Clips that beat one another in a circle."""
        return tuple(
            tuple(self.videos[index] for index in cycle) for cycle in self.tournament.ranking.cycles
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything but the episodes as plain data."""
        ranking, names = self.tournament.ranking, self.videos
        clips = [
            {
                "video": names[index],
                "rank": ranking.ranks[index],
                "win_rate": round(ranking.win_rates[index], 4),
                "strength": round(ranking.strengths[index], 4),
                "interval": [round(end, 4) for end in ranking.intervals[index]],
                "num_comparisons": self.tournament.nums_compared[index],
            }
            for index in ranking.order
        ]
        return {
            "prompt": self.prompt,
            "clips": clips,
            "uncompared": list(self.uncompared),
            "cycles": [list(cycle) for cycle in self.cycles],
            "num_comparisons": ranking.num_comparisons,
            "num_new": self.tournament.num_new,
            "num_known": self.num_known,
            "undecided": [[names[i], names[j]] for i, j in self.tournament.undecided],
            "failed": [[names[i], names[j], str(e)] for i, j, e in self.tournament.failed],
            "comparisons": [
                {
                    "video_1": each.video_1,
                    "video_2": each.video_2,
                    "overall": each.overall,
                    "confidence": each.confidence,
                    "orders_agree": each.orders_agree,
                }
                for each in self.comparisons
            ],
        }


async def rank_clips(
    prompt: str,
    videos: Sequence[str],
    compare: Callable[[str, str], Awaitable[Comparison]],
    recall: Callable[[str, str], Comparison | None],
    config: TournamentConfig,
    on_comparison: Callable[[], None] = lambda: None,
) -> ClipRanking:
    """Rank clips by comparing two at a time; `recall` gives what was compared before."""
    if len(videos) < 2 or len(set(videos)) < len(videos):
        raise ValueError(f"a ranking needs at least two different videos, got {list(videos)}")
    comparisons: list[Comparison] = []
    known: list[PairResult] = []
    undecided: list[tuple[int, int]] = []
    for first, second in combinations(range(len(videos)), 2):
        found = recall(videos[first], videos[second])
        if found is None:
            continue
        comparisons.append(found)
        result = to_result(first, second, found)
        if result is None:
            undecided.append((first, second))
        else:
            known.append(result)
    num_known = len(comparisons)

    async def ask(first: int, second: int) -> PairResult | None:
        comparison = await compare(videos[first], videos[second])
        comparisons.append(comparison)
        return to_result(first, second, comparison)

    tournament = await play_tournament(
        len(videos), ask, config, known, on_comparison, known_undecided=undecided
    )
    return ClipRanking(prompt, tuple(videos), tournament, tuple(comparisons), num_known)


def to_result(first: int, second: int, comparison: Comparison) -> PairResult | None:
    """Read a comparison as the result of two clips by index; None without a verdict, or when the
    judge abstains."""
    if comparison.overall is None or comparison.abstains:
        return None
    return PairResult(first, second, _WINNERS[comparison.overall])
