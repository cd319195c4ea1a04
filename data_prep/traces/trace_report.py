"""Tables about a run of a teacher: what it yielded, why traces were refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean

from rich.markup import escape
from rich.table import Column, Table
from verl_videosearch.data_prep.traces.sampling_report import share_right
from verl_videosearch.data_prep.traces.trace_filter import Trace

from verl_videosearch.runs.record import EpisodeRecord

OUTSIDE_TEXT = "text_outside_tags"
"""The fault of a turn with text that no tag holds."""


def tabulate_yields(traces: Sequence[Trace]) -> Table:
    """Show per source, and for all: traces, share accepted, share right per dimension, turns,
    calls, evictions."""
    groups = _group_by_source(traces)
    table = Table("", *(Column(name, justify="right") for name in groups), title="yields")
    table.add_row("traces", *(str(len(group)) for group in groups.values()))
    table.add_row(
        "accepted", *(_share([trace.is_accepted for trace in group]) for group in groups.values())
    )
    for key in dict.fromkeys(key for trace in traces for key in trace.record.own.labels):
        shares = [share_right(group, key) for group in groups.values()]
        table.add_row(f"{key} right", *(_write(share) for share in shares))
    counts: dict[str, Callable[[Trace], int]] = {
        "turns": lambda trace: len(trace.replies),
        "calls": lambda trace: trace.record.num_calls,
        "evictions": lambda trace: trace.record.num_evictions,
    }
    for name, count in counts.items():
        means = [f"{fmean(map(count, group)):.2f}" if group else "-" for group in groups.values()]
        table.add_row(name, *means)
    return table


def _group_by_source(traces: Sequence[Trace]) -> dict[str, list[Trace]]:
    groups: dict[str, list[Trace]] = {}
    for trace in sorted(traces, key=lambda trace: trace.record.own.source):
        groups.setdefault(trace.record.own.source, []).append(trace)
    return groups if len(groups) == 1 else groups | {"all": list(traces)}


def tabulate_reasons(traces: Sequence[Trace], failures: Sequence[EpisodeRecord]) -> Table:
    """Count why traces were refused (a trace may have several reasons) and which episodes failed
    and have none."""
    table = Table("reason", "count", "first sample", title="not accepted")
    first: dict[str, str] = {}
    for trace in traces:
        for reason in trace.reasons:
            first.setdefault(reason, trace.record.uid)
    for reason, count in Counter(r for trace in traces for r in trace.reasons).most_common():
        table.add_row(reason, str(count), escape(first[reason]))
    labels = Counter(
        (each.failure.label, each.failure.is_passing) for each in failures if each.failure
    )
    for (label, is_passing), count in sorted(labels.items()):
        what = "tried again by the next run" if is_passing else "fails the same way again"
        table.add_row(f"failed: {label}", str(count), what)
    return table


def describe_preambles(traces: Sequence[Trace]) -> str:
    """Say how many traces were lost only because text stands outside the tags; empty for none."""
    lost = sum(trace.reasons == (OUTSIDE_TEXT,) for trace in traces)
    if not lost:
        return ""
    return (
        f"{lost} of {len(traces)} traces were lost only to text outside the tags, such as a "
        "preamble: the teacher has to be told (a prompt pack), or another teacher taken"
    )


def _share(flags: Sequence[bool]) -> str:
    """Write a share.

    >>> _share([True, False]), _share([])
    ('50 %', '-')
    """
    return _write(sum(flags) / len(flags) if flags else None)


def _write(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
