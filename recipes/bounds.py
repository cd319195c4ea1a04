"""Bounds: how often a perfect judge is right with 0, 1, ... calls, and how many verdicts can need a
search at all.

The one idea: the truth about hide-and-seek pairs is known, so some figures cannot be exceeded; a
pipeline whose figures do measures wrongly, and `check_needed` says so.

*Needed* counts a right verdict that becomes wrong in both replays that take the search away: calls
are refused, and calls bring frames that are in view already. (A refusal alone also surprises: a
policy that has never seen one may end without a verdict.) At most the right verdicts beyond those
of the best answer at first sight can need a search; it is a guess for pairs that look alike,
so its number of hits varies, and three standard deviations of it are allowed.

Covers: pairs of `data_prep.hide_and_seek`. Does not cover: public sets, where nobody knows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from verl_videosearch.data_prep.hide_and_seek.optimum import list_guesses, solve
from verl_videosearch.data_prep.hide_and_seek.profile import PROFILES, Profile
from verl_videosearch.recipes.rows import Episode, make_bare_row

from verl_videosearch.evaluation.probes import PROBED, REPLACEMENT
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.altered_frames import NEED

CALLS = ("no_search", "one_call", "two_calls", "three_calls")
"""Rows of perfect judges, by their number of calls."""


def read_profile(samples: Sequence[PreferenceSample]) -> Profile:
    """Return the profile that pairs were made with."""
    return PROFILES[samples[0].meta.get("profile", "tiny")]


def solve_pairs(samples: Sequence[PreferenceSample]) -> list[dict[str, float]]:
    """Return, for 0, 1, ... calls, pair type to the accuracy of a perfect judge on the pairs that
    look like it; up to the number of calls that settles every pair."""
    profile = read_profile(samples)
    counts = Counter(str(sample.meta["pair_type"]) for sample in samples)
    best = solve(profile, {name: count / len(samples) for name, count in counts.items()})
    if best is None:
        guesses = list_guesses(profile)
        return [{name: guesses[name] for name in counts}]
    by_calls: list[dict[str, float]] = []
    for num_calls, total in enumerate(best.by_calls):
        shares: dict[str, float] = {}
        for view, names in best.types.items():
            for name in names:
                shares[name] = max(shares.get(name, 0.0), best.by_view[view][num_calls])
        by_calls.append(shares)
        if total > 1 - 1e-9:
            break
    return by_calls


def describe_optimum(samples: Sequence[PreferenceSample]) -> dict[str, dict[str, Any]]:
    """Return the rows of judges that play perfectly with so many calls."""
    rows = {}
    for name, shares in zip(CALLS, solve_pairs(samples), strict=False):
        total = sum(shares[str(sample.meta["pair_type"])] for sample in samples) / len(samples)
        rows[name] = make_bare_row(total, len(samples), dict(sorted(shares.items())))
    return rows


def count_needed(
    episodes: Sequence[Episode], probed: Sequence[EpisodeRecord]
) -> dict[str, Any] | None:
    """Count the right verdicts that needed the search, uncapped, beside what can need it; None when
    a replay is missing."""
    samples = {each.record.key: each.sample for each in episodes}
    played: dict[str, set[str]] = {each.value: set() for each in NEED}
    wrong: dict[str, set[str]] = {each.value: set() for each in NEED}
    for record in probed:
        name, key = record.extra[REPLACEMENT], record.extra[PROBED]
        if name in played and record.has_result:
            played[name].add(key)
            if not Episode(samples[key], record).is_right():
                wrong[name].add(key)
    searched = {each.record.key for each in episodes if each.record.has_searched}
    if any(searched - keys for keys in played.values()):
        return None
    right = {each.record.key for each in episodes if each.is_right()}
    lost = {name: right & keys for name, keys in wrong.items()}
    needed = set.intersection(*lost.values())
    shares = solve_pairs([each.sample for each in episodes])[0]
    chances = [shares[str(each.sample.meta["pair_type"])] for each in episodes]
    variance = sum(chance * (1 - chance) for chance in chances)
    return {
        "right": len(right),
        "lost": {name: len(keys) for name, keys in lost.items()},
        "needed": len(needed),
        "can_need": max(0, math.floor(len(right) - sum(chances) + 1e-9)),
        "allowance": math.ceil(3 * math.sqrt(variance)),
        "by_type": count_types(episodes, needed),
    }


def count_types(episodes: Sequence[Episode], keys: set[str]) -> dict[str, int]:
    """Count chosen episodes by pair type."""
    types = Counter(str(e.sample.meta["pair_type"]) for e in episodes if e.record.key in keys)
    return dict(sorted(types.items()))


def check_needed(needed: Mapping[str, Any] | None) -> None:
    """Raise `ValueError` if more verdicts needed the search than the data says can."""
    if needed is None:
        return
    most = needed["can_need"] + needed["allowance"]
    if needed["needed"] > most:
        raise ValueError(
            f"{needed['needed']} right verdicts are wrong without the search, but at most "
            f"{needed['can_need']} can need it (and {needed['allowance']} by chance): the policy "
            "answers worse without a search than the best guess, or the probe is wrong"
        )
