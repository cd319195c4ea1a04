"""The audit of rejection sampling: what was played, what was right, what is taught - in all and per
group.

| column | counts |
|---|---|
| inputs | pairs in one order of their videos |
| episodes | finished episodes; failures stand apart, by kind |
| accepted | of them, passed the filter |
| right | per dimension and overall, of the episodes with a gold label: verdict equal to it |
| solved | inputs with an accepted episode |
| chosen, taken | episodes chosen per input; of those, left by caps and target |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from verl_videosearch.data_prep.traces.selection import (
    Selection,
    group_by,
    input_of,
    read_verdict,
)
from verl_videosearch.data_prep.traces.trace_filter import Trace

from verl_videosearch.runs.record import EpisodeRecord

GROUPS: dict[str, Callable[[Trace], Any]] = {
    "source": lambda trace: trace.record.own.source,
    "order": lambda trace: trace.record.order.value,
    "verdict": read_verdict,
    "turns": lambda trace: len(trace.replies),
}
"""Verdict is the gold one of overall."""


@dataclass(frozen=True)
class AuditRow:
    """The figures of one group of episodes."""

    group: str
    num_inputs: int
    num_episodes: int
    num_accepted: int
    right: Mapping[str, float | None]
    """Share per dimension and overall; None without a gold label."""
    num_solved: int
    num_chosen: int
    num_taken: int


def audit(traces: Sequence[Trace], selection: Selection) -> list[AuditRow]:
    """Return the figures of all traces, then of every group."""
    rows = [_describe("all", traces, selection)]
    for name, value_of in GROUPS.items():
        groups = group_by(traces, value_of)
        for value in sorted(groups, key=lambda value: (value is None, value)):
            rows.append(_describe(f"{name} {value}", groups[value], selection))
    return rows


def _describe(group: str, traces: Sequence[Trace], selection: Selection) -> AuditRow:
    accepted = [trace for trace in traces if trace.is_accepted]
    members = {id(trace.record) for trace in traces}
    keys = dict.fromkeys(key for trace in traces for key in trace.record.own.labels)
    return AuditRow(
        group=group,
        num_inputs=len({input_of(trace.record) for trace in traces}),
        num_episodes=len(traces),
        num_accepted=len(accepted),
        right={key: share_right(traces, key) for key in keys},
        num_solved=len({input_of(trace.record) for trace in accepted}),
        num_chosen=sum(id(trace.record) in members for trace in selection.chosen),
        num_taken=sum(id(trace.record) in members for trace in selection.taken),
    )


def share_right(traces: Sequence[Trace], key: str) -> float | None:
    """Return the share of the traces with a gold label that have its verdict; None without any."""
    rated = [trace for trace in traces if trace.record.own.labels.get(key) is not None]
    right = sum(trace.wrong is not None and key not in trace.wrong for trace in rated)
    return right / len(rated) if rated else None


def count_reasons(traces: Sequence[Trace], failures: Sequence[EpisodeRecord]) -> dict[str, int]:
    """Count why traces were refused (one may have several reasons), then the failures by kind."""
    reasons = Counter(reason for trace in traces for reason in trace.reasons)
    kinds = Counter(f"failed: {each.failure.label}" for each in failures if each.failure)
    return {name: count for counts in (reasons, kinds) for name, count in sorted(counts.items())}


def describe_run(
    num_planned: int,
    traces: Sequence[Trace],
    failures: Sequence[EpisodeRecord],
    selection: Selection,
) -> dict[str, Any]:
    """Return the whole audit as plain data; a planned episode is finished, failed, or was never
    asked for because the target was full."""
    return {
        "planned": num_planned,
        "finished": len(traces),
        "failed": len(failures),
        "not_asked": num_planned - len(traces) - len(failures),
        "groups": [asdict(row) for row in audit(traces, selection)],
        "not_accepted": count_reasons(traces, failures),
    }


def find_missing_verdicts(traces: Sequence[Trace], selection: Selection) -> list[int]:
    """Return the gold verdicts of which nothing is taught: what is taught then is one-sided."""
    taken = {read_verdict(trace) for trace in selection.taken}
    known = [verdict for verdict in group_by(traces, read_verdict) if verdict is not None]
    return [verdict for verdict in known if verdict not in taken]


def tabulate_audit(content: Mapping[str, Any]) -> list[Table]:
    """Show an audit as two tables: yields per group, and why attempts were not accepted."""
    keys = list(content["groups"][0]["right"])
    names = ["inputs", "episodes", "accepted", *keys, "solved", "chosen", "taken"]
    title = f"yields ({', '.join(keys)}: share right)"
    columns = (
        Column(no_wrap=True),
        *(Column(name, justify="right", overflow="fold") for name in names),
    )
    yields = Table(*columns, title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for row in content["groups"]:
        right = [_write_share(row["right"].get(key)) for key in keys]
        counts = [
            str(row[f"num_{name}"])
            for name in ("inputs", "episodes", "accepted", "solved", "chosen", "taken")
        ]
        yields.add_row(row["group"], *counts[:3], *right, *counts[3:])
    reasons = Table("reason", Column("count", justify="right"), title="not accepted")
    for name, count in content["not_accepted"].items():
        reasons.add_row(name, str(count))
    return [yields, reasons] if content["not_accepted"] else [yields]


def _write_share(share: float | None) -> str:
    """Write a share.

    >>> _write_share(0.5), _write_share(None)
    ('50%', '-')
    """
    return "-" if share is None else f"{100 * share:.0f}%"
