"""Tables of several judges on the same pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verl_videosearch.evaluation.comparison import (
    ComparedJudge,
    Comparison,
    list_shared_keys,
)
from verl_videosearch.evaluation.pages.tables import (
    ACCURACY_CAPTION,
    ACCURACY_COLUMNS,
    PUBLISHED_CAPTION,
    PUBLISHED_COLUMNS,
    accuracy_cells,
    explain_intervals,
    format_difference,
    format_number,
    list_baselines,
    to_bar,
)
from verl_videosearch.report.chart import draw_intervals
from verl_videosearch.report.page import Block, Plot
from verl_videosearch.report.table import Table


def describe_comparison(comparison: Comparison) -> list[Block]:
    """Return the blocks of several judges on the same pairs."""
    rows: list[tuple[str, ...]] = [
        (
            judge.name,
            *accuracy_cells(judge.overall),
            *_published_cells(judge),
            str(judge.unreadable),
            str(judge.missing),
            *_cost_cells(judge.facts),
        )
        for judge in comparison.judges
    ]
    costs = ("frames", "tokens in + out", "seconds")
    rows += [
        (n, *2 * accuracy_cells(figures), *[""] * 5)
        for n, figures in list_baselines(comparison.baselines)
    ]
    bars = [to_bar(judge.name, judge.overall.with_ties) for judge in comparison.judges]
    bars += [
        to_bar(name, figures.with_ties, True)
        for name, figures in list_baselines(comparison.baselines)
    ]
    derived = (
        f" {comparison.num_derived} overall labels are derived from the dimensions', not given."
        if comparison.num_derived
        else ""
    )
    first = comparison.judges[0].overall.with_ties
    caption = (
        f"{comparison.num_pairs} pairs; {comparison.num_left_out} left out because an episode of "
        f"some run failed.{derived} {explain_intervals(first)} No verdict: a reply or word that "
        "cannot be read; missing: no row in the file; both are wrong. Costs are per pair, all "
        f"orders together. {ACCURACY_CAPTION} {PUBLISHED_CAPTION} `unknown`: a file of "
        "predictions does not say how they were made."
    )
    columns = ("judge", *ACCURACY_COLUMNS, *PUBLISHED_COLUMNS, "no verdict", "missing", *costs)
    return [
        Table("Judges", columns, rows, caption),
        Plot("Accuracy with ties", draw_intervals(bars, "accuracy with ties, 95 % interval")),
        *_paired_table(comparison),
        *_dimension_tables(comparison),
        *_threshold_table(comparison),
    ]


def _published_cells(judge: ComparedJudge) -> tuple[str, str]:
    return accuracy_cells(judge.as_published) if judge.as_published else ("unknown", "unknown")


def _dimension_tables(comparison: Comparison) -> Iterable[Table]:
    """Yield one table per dimension, of the judges that speak about it."""
    for key in list_shared_keys(comparison.judges):
        rows = [
            (judge.name, *accuracy_cells(judge.dimensions[key]))
            for judge in comparison.judges
            if key in judge.dimensions
        ]
        yield Table(f"Dimension {key}", ("judge", *ACCURACY_COLUMNS), rows)


def _paired_table(comparison: Comparison) -> Iterable[Table]:
    first, *others = comparison.judges
    rows = [
        (
            judge.name,
            title,
            format_difference(test),
            f"{test.only_a} : {test.only_b}",
            f"{test.p_value:.2g}",
        )
        for judge in others
        for title, test in (
            ("with ties", judge.against_first),
            ("without ties", judge.against_first_decided),
        )
        if test is not None
    ]
    columns = (
        "judge",
        "figure",
        "difference in points",
        "only this right : only the first",
        "p (exact, McNemar's over prompts)",
    )
    if rows:
        yield Table(f"Against {first.name}, pair by pair", columns, rows)


def _threshold_table(comparison: Comparison) -> Iterable[Table]:
    rows = [
        (
            judge.name,
            str(judge.best_threshold.accuracy),
            f"{judge.best_threshold.threshold:g}",
            str(judge.videoalign.accuracy),
        )
        for judge in comparison.judges
        if judge.best_threshold is not None and judge.videoalign is not None
    ]
    if rows:
        yield Table(
            "Upper bounds: tie threshold chosen on these very pairs",
            ("judge", "with ties, calibrated", "threshold", "by VideoAlign's program"),
            rows,
            "The last column depends on the order of the rows where scores repeat; it is for that "
            "leaderboard only.",
        )


def _cost_cells(facts: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Write what a judge costs per pair; a file of predictions does not tell."""
    if not facts:
        return "", "", ""
    read, written = facts["prompt_tokens"], facts["reply_tokens"]
    tokens = "not counted" if read is None or written is None else f"{read:,.0f} + {written:,.0f}"
    return format_number(facts["frames"]), tokens, format_number(facts["seconds"])
