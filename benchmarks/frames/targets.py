"""What each table should show."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.frames.clips import NUM_IN_CALL
from benchmarks.frames.ways import Cost


class Target(NamedTuple):
    """A figure beside what it should be."""

    words: str
    figure: float
    limit: float
    is_least: bool
    """The figure should be at least the limit; else at most."""

    @property
    def is_met(self) -> bool:
        """Compare as the target says."""
        return self.figure >= self.limit if self.is_least else self.figure <= self.limit

    def __str__(self) -> str:
        sign = "at least" if self.is_least else "at most"
        end = "" if self.is_met else " MISSED"
        return f"{self.words}: {self.figure:.2f} ({sign} {self.limit:g}){end}"


def find_best(costs: dict[str, Cost], prefix: str = "", by_cpu: bool = False) -> float:
    """Return the milliseconds of the best way that is neither ours nor the floor."""
    others = [cost for name, cost in costs.items() if name.startswith(prefix)]
    if not prefix:
        others = [cost for name, cost in costs.items() if not name.startswith(("ours", "floor"))]
    return min(cost.cpu_ms if by_cpu else cost.wall_ms for cost in others)


def judge_call(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare a warm call with its targets."""
    ours = costs["ours"].wall_ms
    return [
        Target(f"{clip}: warm call of {NUM_IN_CALL} frames, ms", ours, 4, False),
        Target(f"{clip}: best decoding per call / ours", find_best(costs) / ours, 20, True),
    ]


def judge_cold(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare decoding and resizing, without the writing, with the best decoder."""
    ratio = costs["ours"].wall_ms / find_best(costs)
    return [Target(f"{clip}: cold, ours / best decoder", ratio, 1.5, False)]


def judge_group(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare a group's CPU with the authors' way."""
    best = find_best(costs, "authors' way", by_cpu=True)
    return [
        Target(f"{clip}: CPU of a group, authors' way / ours {state}", best / cost, least, True)
        for state, cost, least in (
            ("cold", costs["ours, cold"].cpu_ms, 5),
            ("warm", costs["ours, warm"].cpu_ms, 20),
        )
    ]
