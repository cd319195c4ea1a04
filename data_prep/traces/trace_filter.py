"""The filter of traces: take those that are worth imitating, and name every reason against the
others.

The one idea: two stages, as in the paper (section 4.1). First the form: every turn well-formed,
every call answered with frames, an answer at the end. Then the truth: each dimension and overall
equal to the gold label. A trace that fails gets all of its reasons, so that their counts say what a
teacher is bad at.

Decided: a call that got no frames (`call_*`) counts as form, because imitation would teach it; so
does text that spells a chat template's control token.
"""

from __future__ import annotations

import re
from enum import Enum

from verl_videosearch.episode import Ending, EpisodeResult
from verl_videosearch.judgement import Judgement
from verl_videosearch.sample import PreferenceSample

_CONTROL_TOKEN = re.compile(r"<\|[^|\s]{1,40}\|>")


class Filter(str, Enum):
    """Which stages apply."""

    CORRECT = "correct"
    """Both stages."""
    WELL_FORMED = "well_formed"
    """The form only: for a cold start that is made weak on purpose."""


def find_reasons(
    sample: PreferenceSample, result: EpisodeResult, stages: Filter = Filter.CORRECT
) -> tuple[str, ...]:
    """Return why a finished episode is not accepted, each reason once; empty when it is."""
    reasons = [fault.value for record in result.turns for fault in record.faults]
    reasons += [
        f"call_{outcome.fault.value}" for outcome in result.outcomes if outcome.fault is not None
    ]
    if any(_CONTROL_TOKEN.search(record.reply.text) for record in result.turns):
        reasons.append("control_token")
    if result.ending is not Ending.ANSWERED:
        reasons.append(f"ending_{result.ending.value}")
    if stages is Filter.CORRECT:
        reasons += find_wrong(sample, result)
    return tuple(dict.fromkeys(reasons))


def find_wrong(sample: PreferenceSample, result: EpisodeResult) -> list[str]:
    """Return `wrong_KEY` for every verdict that differs from its gold label; without a gold label,
    any is right."""
    if not isinstance(result.verdict, Judgement):
        return []
    verdicts = result.verdict.verdicts
    return [
        f"wrong_{key}"
        for key, gold in sample.labels.items()
        if gold is not None and verdicts[key] != gold
    ]
