"""Several benchmarks judged by one model: one table, one status.

The one idea: each benchmark is a run of its own, in a folder of its own name; what is here only
puts
them beside one another.

    write_overview(Path("runs"), {"genai": evaluate(...), "mj": evaluate(...)})

Covers: accuracies, order consistency, use of the tool, failures. Does not cover: a mean over
benchmarks - they ask different questions of different numbers of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from verl_videosearch.evaluation.evaluate import Evaluation
from verl_videosearch.evaluation.pages.tables import ACCURACY_CAPTION
from verl_videosearch.evaluation.results import write_pages
from verl_videosearch.evaluation.summary import Summary
from verl_videosearch.report.table import Table
from verl_videosearch.runs.folder import RunFolder
from verl_videosearch.runs.jobs import ExitStatus

COLUMNS = (
    "benchmark",
    "pairs",
    "with ties",
    "without ties",
    "same in both orders",
    "readable",
    "searched",
    "failed",
)
_FIRST_TO_TELL = (ExitStatus.UNUSABLE, ExitStatus.INCOMPLETE, ExitStatus.TOO_MANY_FAILED)


def write_overview(out: Path, runs: Mapping[str, Evaluation]) -> Table:
    """Write `out`/index.html and results.md over finished runs, and return their table."""
    table = tabulate_benchmarks(
        {name: run.summary for name, run in runs.items() if run.summary is not None}
    )
    facts = [(name, f"{run.folder.name}/index.html") for name, run in runs.items()]
    write_pages(RunFolder(out), "Benchmarks", [table], facts)
    return table


def tabulate_benchmarks(summaries: Mapping[str, Summary]) -> Table:
    """Put the headline figures of every benchmark into a row."""
    rows = [(name, *_describe(summary)) for name, summary in summaries.items()]
    models = sorted({summary.header.model for summary in summaries.values()})
    return Table(", ".join(models) or "no finished run", COLUMNS, rows, ACCURACY_CAPTION)


def _describe(summary: Summary) -> tuple[str, ...]:
    overall, consistency = summary.overall, summary.orders.consistency
    return (
        f"{summary.header.num_scored} of {summary.header.num_pairs}",
        str(overall.with_ties),
        str(overall.without_ties),
        "one order only" if consistency is None else str(consistency.consistent),
        str(summary.behaviour.answered),
        str(summary.behaviour.searched),
        ", ".join(f"{kind} {count}" for kind, count in summary.failures.items()) or "none",
    )


def join_statuses(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """Return the status of a command that made several runs: what is to be done first.

    >>> join_statuses([ExitStatus.COMPLETE, ExitStatus.TOO_MANY_FAILED, ExitStatus.INCOMPLETE]).name
    'INCOMPLETE'
    """
    found = set(statuses)
    return next((status for status in _FIRST_TO_TELL if status in found), ExitStatus.COMPLETE)
