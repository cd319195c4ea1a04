"""From episodes to one verdict per pair: the columns that every figure is computed from.

The one idea: a pair is scored only when it has an episode in every order that was asked for.
Agreement gives the verdict, disagreement a tie; both raw verdicts stay. A pair whose episode failed
is set aside, not scored.

>>> lines = [
...     {"sample_uid": "a", "order": "AB", "verdicts": {"OA": 1}, "confidence": 1},
...     {"sample_uid": "a", "order": "BA", "verdicts": {"OA": 2}, "confidence": 3},
... ]
>>> [pair] = merge_lines(lines, (Order.AB, Order.BA))
>>> pair.verdict("OA"), pair.margin, pair.confidence
(1, 2.0, 2.0)

Margin: each order votes for its winner with 3, 2 or 1 points for confidence 1, 2 or 3 (2 if none is
given); the mean of the votes, above 0 for video 1. Confidence of the pair: |margin|, for an agreed
tie the mean of the points, 0 if the orders disagree about a tie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from verl_videosearch import metrics
from verl_videosearch.judgement import OVERALL
from verl_videosearch.runs.folder import Line
from verl_videosearch.sample import Order

POINTS = {1: 3.0, 2: 2.0, 3: 1.0, None: 2.0}
"""Weight of a vote by the confidence that the judge states (1 is the most confident)."""
_SIGNS = {0: 0, 1: 1, 2: -1}


@dataclass(frozen=True)
class PairVerdicts:
    """What a judge said about one pair."""

    uid: str
    episodes: Mapping[Order, Line]

    def raw_verdict(self, key: str, order: Order) -> int | None:
        """Return the verdict as the judge gave it in that order (1 is the video shown first)."""
        verdicts = self.episodes[order]["verdicts"]
        return None if verdicts is None else verdicts.get(key)

    def verdict(self, key: str = OVERALL, field: str = "verdicts") -> int | None:
        """Return the merged verdict in the sample's own order, None if any order has none."""
        by_order = {order: (line[field] or {}).get(key) for order, line in self.episodes.items()}
        if set(by_order) == set(Order):
            return metrics.merge_orders([by_order[Order.AB]], [by_order[Order.BA]])[0]
        [(order, verdict)] = by_order.items()
        return verdict if order is Order.AB else metrics.swap_verdict(verdict)

    @property
    def margin(self) -> float | None:
        """Mean of the votes, from -3 to 3; None if any order has no verdict."""
        votes = self._votes()
        return None if votes is None else sum(votes) / len(votes)

    @property
    def confidence(self) -> float | None:
        """How sure the pair's verdict is, from 0 to 3; only its order means anything before
        calibration."""
        votes = self._votes()
        if votes is None:
            return None
        if any(votes):
            return abs(sum(votes)) / len(votes) if self.verdict() else 0.0
        return sum(POINTS[line["confidence"]] for line in self.episodes.values()) / len(
            self.episodes
        )

    def _votes(self) -> list[float] | None:
        """Return one vote per order in the sample's own order."""
        votes = []
        for order, line in self.episodes.items():
            if line["verdicts"] is None:
                return None
            sign = _SIGNS[line["verdicts"][OVERALL]] * (1 if order is Order.AB else -1)
            votes.append(sign * POINTS[line["confidence"]])
        return votes


def merge_lines(lines: Iterable[Line], orders: Sequence[Order]) -> list[PairVerdicts]:
    """Gather episodes by pair, sorted by uid; a pair that lacks an order is left out."""
    episodes: dict[str, dict[Order, Line]] = defaultdict(dict)
    for line in lines:
        episodes[line["sample_uid"]][Order(line["order"])] = line
    return [
        PairVerdicts(uid, {order: found[order] for order in orders})
        for uid, found in sorted(episodes.items())
        if set(found) >= set(orders)
    ]
