"""From episodes to one verdict per pair: the columns that every figure is computed from.

The one idea: a pair is scored only when it has an episode in every order that was asked for.
Agreement gives the verdict, disagreement a tie; both raw verdicts stay. A pair whose episode failed
is set aside, not scored.

>>> def judge(order, verdict, confidence):
...     what = {"kind": "evaluation", "uid": "a", "key": f"a {order.value}", "order": order}
...     return EpisodeRecord(**what, verdicts={"OA": verdict}, confidence=confidence)
>>> records = [judge(Order.AB, 1, 1), judge(Order.BA, 2, 3)]
>>> [pair] = merge_records(records, (Order.AB, Order.BA))
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
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import Order

POINTS = {1: 3.0, 2: 2.0, 3: 1.0, None: 2.0}
"""Weight of a vote by the confidence that the judge states (1 is the most confident)."""
_SIGNS = {0: 0, 1: 1, 2: -1}


@dataclass(frozen=True)
class PairVerdicts:
    """What a judge said about one pair."""

    uid: str
    episodes: Mapping[Order, EpisodeRecord]

    def raw_verdict(self, key: str, order: Order) -> int | None:
        """Return the verdict as the judge gave it in that order (1 is the video shown first)."""
        verdicts = self.episodes[order].verdicts
        return None if verdicts is None else verdicts.get(key)

    def verdict(self, key: str = OVERALL) -> int | None:
        """Return the merged verdict in the sample's own order, None if any order has none."""
        return self._merge({order: each.verdicts for order, each in self.episodes.items()}, key)

    def first_verdict(self, key: str = OVERALL) -> int | None:
        """Return the merged first readable verdict in the sample's own order."""
        firsts = {order: each.first_verdicts for order, each in self.episodes.items()}
        return self._merge(firsts, key)

    def _merge(self, given: Mapping[Order, Mapping[str, int] | None], key: str) -> int | None:
        by_order = {order: (verdicts or {}).get(key) for order, verdicts in given.items()}
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
        points = [POINTS[record.confidence] for record in self.episodes.values()]
        return sum(points) / len(points)

    def _votes(self) -> list[float] | None:
        """Return one vote per order in the sample's own order."""
        votes = []
        for order, record in self.episodes.items():
            if record.verdicts is None:
                return None
            sign = _SIGNS[record.verdicts[OVERALL]] * (1 if order is Order.AB else -1)
            votes.append(sign * POINTS[record.confidence])
        return votes


def merge_records(records: Iterable[EpisodeRecord], orders: Sequence[Order]) -> list[PairVerdicts]:
    """Gather the results by pair, sorted by uid; a pair that lacks an order is left out.

    Of several attempts of one pair in one order the first counts, as for a judge that is asked
    once."""
    episodes: dict[str, dict[Order, EpisodeRecord]] = defaultdict(dict)
    for record in sorted(records, key=_attempt_of):
        if record.has_result:
            episodes[record.uid].setdefault(record.order, record)
    return [
        PairVerdicts(uid, {order: found[order] for order in orders})
        for uid, found in sorted(episodes.items())
        if set(found) >= set(orders)
    ]


def _attempt_of(record: EpisodeRecord) -> tuple[int, int]:
    return record.step or 0, record.attempt or 0
