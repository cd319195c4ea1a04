"""The audit of rejection sampling: what was played, what was right, what is taught - in all and per
group.

| column | counts |
|---|---|
| inputs | pairs in one order of their videos |
| episodes | finished attempts; failures stand apart, by kind |
| accepted | of them, passed the filter |
| right | per dimension and overall, of the episodes with a gold label: verdict equal to it |
| solved | inputs with an accepted attempt |
| chosen, taken | attempts chosen per input; of those, left by balance and target |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from verl_videosearch.data_prep.traces.attempts import Attempt, AttemptLogs
from verl_videosearch.data_prep.traces.selection import Selection, group_by, read_verdict

from verl_videosearch.judgement import OVERALL

GROUPS: dict[str, Callable[[Attempt], Any]] = {
    "source": lambda attempt: attempt.trace.sample.source,
    "order": lambda attempt: attempt.key.order.value,
    "verdict": read_verdict,
    "turns": lambda attempt: len(attempt.trace.replies),
}
"""Verdict is the gold one of overall."""


@dataclass(frozen=True)
class AuditRow:
    """The figures of one group of attempts."""

    group: str
    num_inputs: int
    num_episodes: int
    num_accepted: int
    right: Mapping[str, float | None]
    """Share per dimension and overall; None without a gold label."""
    num_solved: int
    num_chosen: int
    num_taken: int


def audit(attempts: Sequence[Attempt], selection: Selection) -> list[AuditRow]:
    """Return the figures of all attempts, then of every group."""
    rows = [_describe("all", attempts, selection)]
    for name, value_of in GROUPS.items():
        groups = group_by(attempts, value_of)
        for value in sorted(groups, key=lambda value: (value is None, value)):
            rows.append(_describe(f"{name} {value}", groups[value], selection))
    return rows


def _describe(group: str, attempts: Sequence[Attempt], selection: Selection) -> AuditRow:
    accepted = [attempt for attempt in attempts if attempt.trace.is_accepted]
    members = {attempt.key for attempt in attempts}
    keys = dict.fromkeys(key for a in attempts for key in (*a.trace.sample.dimension_keys, OVERALL))
    return AuditRow(
        group=group,
        num_inputs=len({attempt.key.input for attempt in attempts}),
        num_episodes=len(attempts),
        num_accepted=len(accepted),
        right={key: _share_right(attempts, key) for key in keys},
        num_solved=len({attempt.key.input for attempt in accepted}),
        num_chosen=sum(attempt.key in members for attempt in selection.chosen),
        num_taken=sum(attempt.key in members for attempt in selection.taken),
    )


def _share_right(attempts: Sequence[Attempt], key: str) -> float | None:
    rated = [
        attempt.trace for attempt in attempts if attempt.trace.sample.labels.get(key) is not None
    ]
    return (
        sum(t.wrong is not None and key not in t.wrong for t in rated) / len(rated)
        if rated
        else None
    )


def count_reasons(attempts: Sequence[Attempt], failures: Sequence[str]) -> dict[str, int]:
    """Count why attempts were refused (one may have several reasons), then the failures by kind."""
    reasons = Counter(reason for attempt in attempts for reason in attempt.trace.reasons)
    kinds = Counter(f"failed: {kind}" for kind in failures)
    return {name: count for counts in (reasons, kinds) for name, count in sorted(counts.items())}


def describe_run(keys: Sequence[str], logs: AttemptLogs, selection: Selection) -> dict[str, Any]:
    """Return the whole audit as plain data; every planned episode is finished, failed or not played
    yet."""
    attempts = [logs.attempts[key] for key in keys if key in logs.attempts]
    failures = [logs.failures[key] for key in keys if key in logs.failures]
    return {
        "planned": len(keys),
        "finished": len(attempts),
        "failed": len(failures),
        "not_planned": len(logs.attempts) - len(attempts),
        "repeated": logs.num_repeated,
        "groups": [asdict(row) for row in audit(attempts, selection)],
        "not_accepted": count_reasons(attempts, failures),
    }


def find_missing_verdicts(attempts: Sequence[Attempt], selection: Selection) -> list[int | None]:
    """Return the gold verdicts of which nothing is taught: what is taught then is one-sided."""
    taken = {read_verdict(attempt) for attempt in selection.taken}
    return [verdict for verdict in group_by(attempts, read_verdict) if verdict not in taken]


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
