"""The filter of traces: take those that are worth imitating, and name every reason against the
others.

The one idea: two stages, as in the paper (section 4.1). First the form: every turn well-formed,
every call answered with frames, an answer at the end. Then the truth: each dimension and overall
equal to the gold label. A trace that fails gets all of its reasons, so that their counts say what a
teacher is bad at. The filter reads a record and nothing else, so a run can be filtered again,
otherwise, without asking anybody.

Decided: a call that got no frames (`call_*`) counts as form, because imitation would teach it; so
does text that spells a chat template's control token, cleaned (`< |im_end|>`) or not. A dimension
without a gold label cannot be
checked, so `correct` does not take its trace (`unlabelled_KEY`); `labelled` checks what has a
label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from verl_videosearch.episode import Ending
from verl_videosearch.runs.record import EpisodeRecord
from verl_videosearch.sample import PreferenceSample

_CONTROL_TOKEN = re.compile(r"< ?\|[^|\s]{1,40}\|>")


class Filter(str, Enum):
    """Which stages apply."""

    CORRECT = "correct"
    """Both stages; every dimension and overall must have a gold label."""
    LABELLED = "labelled"
    """Both stages; what has no gold label may be anything."""
    WELL_FORMED = "well_formed"
    """The form only: for a cold start that is made weak on purpose."""


@dataclass(frozen=True)
class Trace:
    """A played episode, and what the filter says about it."""

    record: EpisodeRecord
    reasons: tuple[str, ...]
    """Why it is not taken, each once; empty when it is."""
    wrong: tuple[str, ...] | None
    """Keys of the verdicts that differ from gold; null when there is no verdict."""

    @property
    def is_accepted(self) -> bool:
        """True when it may be taught."""
        return not self.reasons

    @property
    def replies(self) -> tuple[str, ...]:
        """What was written, turn by turn."""
        return tuple(turn.reply for turn in self.record.turns)


def filter_record(record: EpisodeRecord, stages: Filter = Filter.CORRECT) -> Trace:
    """Judge a finished episode."""
    reasons = [fault for turn in record.turns for fault in turn.faults]
    reasons += [f"call_{turn.call_fault}" for turn in record.turns if turn.call_fault]
    if any(_CONTROL_TOKEN.search(turn.reply) for turn in record.turns):
        reasons.append("control_token")
    if record.ending is not Ending.ANSWERED:
        reasons.append(f"ending_{record.outcome}")
    wrong = find_wrong(record)
    if stages is not Filter.WELL_FORMED:
        reasons += [f"wrong_{key}" for key in wrong or ()]
    if stages is Filter.CORRECT and record.verdicts is not None:
        reasons += [f"unlabelled_{key}" for key in list_unlabelled(record.own)]
    return Trace(record, tuple(dict.fromkeys(reasons)), wrong)


def filter_records(records: Iterable[EpisodeRecord], stages: Filter) -> list[Trace]:
    """Judge all finished episodes; failures are no traces."""
    return [filter_record(record, stages) for record in records if record.has_result]


def find_wrong(record: EpisodeRecord) -> tuple[str, ...] | None:
    """Return the keys of all verdicts that differ from their gold label; None without a verdict."""
    if record.verdicts is None:
        return None
    labels = record.shown.labels
    return tuple(
        key for key, gold in labels.items() if gold is not None and record.verdicts.get(key) != gold
    )


def list_unlabelled(sample: PreferenceSample) -> tuple[str, ...]:
    """Return the keys without a gold label."""
    return tuple(key for key, gold in sample.labels.items() if gold is None)


def leave_out_unlabelled(
    samples: Sequence[PreferenceSample], stages: Filter
) -> tuple[list[PreferenceSample], str]:
    """Leave out the pairs of which no trace can be taken, before anybody is asked about them;
    returns the others, and says what was left out and which option takes it."""
    if stages is not Filter.CORRECT:
        return list(samples), ""
    kept = [sample for sample in samples if not list_unlabelled(sample)]
    counts = Counter(key for sample in samples for key in list_unlabelled(sample))
    if not counts:
        return kept, ""
    found = ", ".join(f"{key} {count}" for key, count in counts.items())
    return kept, (
        f"{len(samples) - len(kept)} of {len(samples)} pairs lack a gold label ({found}) and are "
        "left out, because their traces cannot be checked there; --filter labelled takes them"
    )
