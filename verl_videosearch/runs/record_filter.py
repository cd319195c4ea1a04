"""Choosing among records and counting them: what `videosearch episodes` shows.

The one idea: every question is one optional field of `RecordFilter`; a record is kept when it
answers all of them.

>>> RecordFilter(outcome="failed", is_right=True).describe()
'outcome=failed, right'

Covers: outcome, kind, failure, order, searched, right or wrong. Does not cover: figures with
intervals (`evaluation`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verl_videosearch.runs.record import EpisodeRecord, RecordKind
from verl_videosearch.sample import Order


@dataclass(frozen=True)
class RecordFilter:
    """Which records to keep; None asks nothing."""

    kind: RecordKind | None = None
    """Which program played it."""
    outcome: str | None = None
    """An `Ending`, or `failed`."""
    failure: str | None = None
    """A failure's kind (`video`) or its full name (`video_truncated`)."""
    order: Order | None = None
    has_searched: bool | None = None
    """At least one call brought frames."""
    is_right: bool | None = None
    """The overall verdict is the label's; records without a label are neither."""
    uid: str | None = None
    """Of the sample."""
    altered: str | None = None
    """What a probe altered, such as `blank` or `emptied`."""

    def keeps(self, record: EpisodeRecord) -> bool:
        """True when the record answers every question."""
        asked = {
            "kind": record.kind,
            "outcome": record.outcome,
            "order": record.order,
            "has_searched": record.has_searched if record.has_result else None,
            "is_right": record.is_right,
            "uid": record.uid,
            "altered": record.altered,
        }
        if any(getattr(self, name) not in (None, value) for name, value in asked.items()):
            return False
        if self.failure is None:
            return True
        return record.failure is not None and self.failure in (
            record.failure.kind.value,
            record.failure.label,
        )

    def describe(self) -> str:
        """Return the questions in words."""
        words = [
            f"{name}={getattr(value, 'value', value)}"
            for name in ("kind", "outcome", "failure", "order", "uid", "altered")
            if (value := getattr(self, name)) is not None
        ]
        for claim, yes, no in (
            (self.has_searched, "searched", "not searched"),
            (self.is_right, "right", "wrong"),
        ):
            words += [] if claim is None else [yes if claim else no]
        return ", ".join(words) or "all"


def count_records(records: Iterable[EpisodeRecord]) -> dict[str, dict[str, int]]:
    """Count records by kind, order, outcome, failure, searched, and right or wrong.

    >>> count_records([])["outcome"]
    {}
    """
    names = ("kind", "order", "outcome", "failure", "searched", "overall verdict")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    for record in records:
        counts["kind"][record.kind.value] += 1
        counts["order"][record.order.value] += 1
        counts["outcome"][record.outcome] += 1
        if record.failure is not None:
            passing = "passing" if record.failure.is_passing else "permanent"
            counts["failure"][f"{record.failure.label} ({passing})"] += 1
            continue
        counts["searched"]["yes" if record.has_searched else "no"] += 1
        is_right = record.is_right
        word = "no label" if is_right is None else "right" if is_right else "wrong"
        counts["overall verdict"][word] += 1
    return {name: dict(sorted(counter.items())) for name, counter in counts.items()}


def write_counts(counts: dict[str, dict[str, int]]) -> Sequence[str]:
    """Return the lines of a table of counts.

    >>> write_counts({"order": {"AB": 3, "BA": 2}, "failure": {}})
    ['order            AB 3, BA 2', 'failure          none']
    """
    return [
        f"{name:<16} " + (", ".join(f"{key} {n}" for key, n in found.items()) or "none")
        for name, found in counts.items()
    ]
