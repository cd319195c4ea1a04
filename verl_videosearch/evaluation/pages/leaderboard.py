"""A comparison as a leaderboard file: csv to compute with, Markdown for a README, LaTeX for a
paper.

The one idea: one list of columns, three ways to write it; the judges stand in the order of their
accuracy with ties, and the ones that never look stand among them.

    for name, text in write_leaderboard(compare_judges(judges, samples)).items():
        (folder / name).write_text(text)

Covers: leaderboard.csv (every digit, counts and interval ends), leaderboard.md, leaderboard.tex (a
`tabular` for the booktabs package). Does not cover: several benchmarks in one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from verl_videosearch.evaluation.comparison import ComparedJudge, Comparison
from verl_videosearch.evaluation.pages.tables import list_baselines
from verl_videosearch.metrics import Accuracies, Rate
from verl_videosearch.report.plain_text import clean_line
from verl_videosearch.report.table import Table

_RATES = ("with_ties", "without_ties", "published_with_ties", "published_without_ties")
_COSTS = ("frames", "prompt_tokens", "reply_tokens", "seconds")
_HEADINGS = ("judge", "with ties", "without", "as published, with ties", "without")
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


@dataclass(frozen=True)
class LeaderboardRow:
    """One judge."""

    name: str
    rates: tuple[Rate | None, ...]
    """With and without ties, merged and as published; None: not known."""
    judge: ComparedJudge | None
    """None for the judges that never look."""


def list_rows(comparison: Comparison) -> list[LeaderboardRow]:
    """Return the judges and baselines, the best with ties first."""
    rows = [
        LeaderboardRow(judge.name, _rates(judge.overall, judge.as_published), judge)
        for judge in comparison.judges
    ]
    rows += [
        LeaderboardRow(name, _rates(figures, figures), None)
        for name, figures in list_baselines(comparison.baselines)
    ]
    return sorted(rows, key=_rank)


def _rank(row: LeaderboardRow) -> float:
    """Sort by accuracy with ties, downwards; whoever has none comes last."""
    rate = row.rates[0]
    return -rate.value if rate is not None and rate.total else 0.0


def write_leaderboard(comparison: Comparison) -> dict[str, str]:
    """Return file name to content."""
    rows = list_rows(comparison)
    return {
        "leaderboard.csv": _write_csv(rows),
        "leaderboard.md": _write_markdown(rows),
        "leaderboard.tex": _write_latex(rows),
    }


def escape_latex(text: str) -> str:
    """Write text so that LaTeX prints it.

    >>> print(escape_latex("50 % of a_b"))
    50 \\% of a\\_b
    """
    return "".join(_LATEX.get(character, character) for character in clean_line(text))


def _rates(merged: Accuracies, published: Accuracies | None) -> tuple[Rate | None, ...]:
    rates: list[Rate | None] = [merged.with_ties, merged.without_ties, None, None]
    if published is not None:
        rates[2:] = [published.with_ties, published.without_ties]
    return tuple(rates)


def _write_csv(rows: Sequence[LeaderboardRow]) -> str:
    ends = ("", "_low", "_high", "_correct", "_total")
    header = ["judge", *(f"{name}{end}" for name in _RATES for end in ends)]
    header += ["unreadable", "missing", *_COSTS]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        cells: list[object] = [clean_line(row.name)]
        for rate in row.rates:
            cells += _csv_cells(rate)
        cells += [row.judge.unreadable, row.judge.missing] if row.judge else ["", ""]
        facts = row.judge.facts if row.judge else {}
        cells += ["" if facts.get(name) is None else facts[name] for name in _COSTS]
        writer.writerow(cells)
    return file.getvalue()


def _csv_cells(rate: Rate | None) -> list[object]:
    if rate is None or not rate.total:
        return [""] * 5
    ends = ["" if end is None else round(end, 6) for end in (rate.low, rate.high)]
    return [round(rate.value, 6), *ends, rate.correct, rate.total]


def _write_markdown(rows: Sequence[LeaderboardRow]) -> str:
    cells = [(row.name, *map(_show, row.rates)) for row in rows]
    return Table("Leaderboard", _HEADINGS, cells, "Per cent, 95 % interval.").to_markdown()


def _write_latex(rows: Sequence[LeaderboardRow]) -> str:
    lines = [r"\begin{tabular}{lrrrr}", r"\toprule"]
    lines.append(" & ".join(map(escape_latex, _HEADINGS)) + r" \\")
    lines.append(r"\midrule")
    for row in rows:
        cells = [row.name, *map(_show, row.rates)]
        lines.append(" & ".join(map(escape_latex, cells)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _show(rate: Rate | None) -> str:
    """Write a share in per cent, with its interval where it has one."""
    if rate is None:
        return "unknown"
    if not rate.total:
        return "n/a"
    interval = ""
    if rate.low is not None and rate.high is not None:
        interval = f" [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
    return f"{100 * rate.value:.1f}{interval}"
