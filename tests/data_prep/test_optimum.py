"""The best accuracy with so many calls, against a judge that tries every strategy on dealt
pairs."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from verl_videosearch.data_prep.hide_and_seek.optimum import solve
from verl_videosearch.data_prep.hide_and_seek.plan import PATTERNS, _deal_patterns
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES


def test_the_standard_mix_needs_one_call_and_no_more() -> None:
    best = solve(PROFILES["tiny"])
    assert best.by_calls == pytest.approx((0.4, 1.0, 1.0))
    assert solve(PROFILES["tiny"], {"both_hidden": 1.0}).by_calls[1] == pytest.approx(1.0)


def test_looks_needs_two_calls() -> None:
    best = solve(PROFILES["looks"])
    assert best.by_calls[1] < 0.75 and best.by_calls[2] == pytest.approx(1.0)
    assert best.by_view["two cues"][1] <= 0.6
    assert best.by_view["no cue, clean"] == pytest.approx((1.0,) * 4)
    assert best.types["one cue, clean"] == ("empty", "hidden")


def test_one_look_counted_by_hand() -> None:
    """Whatever two places one call shows, the most frequent label behind each sight adds up to
    12 of the 22 patterns."""

    def label(one: tuple[bool, bool], two: tuple[bool, bool]) -> int:
        return (sum(one) > sum(two)) - (sum(one) < sum(two))

    for places in combinations(range(4), 2):
        sights: dict[tuple[bool, ...], Counter[int]] = {}
        for one, two in PATTERNS:
            cells = (*one, *two)
            sights.setdefault(tuple(cells[p] for p in places), Counter())[label(one, two)] += 1
        assert sum(max(counts.values()) for counts in sights.values()) <= 12
    assert solve(PROFILES["looks"]).by_view["two cues"][1] == pytest.approx(12 / 22)


def test_gaps_longer_than_their_defects_are_not_enumerated() -> None:
    assert solve(PROFILES["paper"]) is None


@pytest.mark.parametrize("count", [1, 72, 240, 2160, 2161])
def test_both_videos_win_equally_often_whatever_the_number(count: int) -> None:
    for seed in range(20):
        dealt = _deal_patterns(count, np.random.default_rng(seed))
        wins = [sum(two) - sum(one) for one, two in dealt]
        assert len(dealt) == count
        assert abs(sum(win > 0 for win in wins) - sum(win < 0 for win in wins)) <= 1
