"""Tables of several judges on the same pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from verl_videosearch.evaluation.comparison import Comparison
from verl_videosearch.evaluation.pages.tables import (
    ACCURACY_CAPTION,
    ACCURACY_COLUMNS,
    accuracy_cells,
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
    rows = [
        (
            judge.name,
            *accuracy_cells(judge.overall),
            str(judge.overall.unreadable),
            *_cost_cells(judge.facts),
        )
        for judge in comparison.judges
    ]
    costs = ("frames", "tokens in + out", "seconds")
    rows += [
        (n, *accuracy_cells(figures), *[""] * 4)
        for n, figures in list_baselines(comparison.baselines)
    ]
    bars = [to_bar(judge.name, judge.overall.with_ties) for judge in comparison.judges]
    bars += [
        to_bar(name, figures.with_ties, True)
        for name, figures in list_baselines(comparison.baselines)
    ]
    caption = (
        f"{comparison.num_pairs} pairs; {comparison.num_left_out} left out because an episode of some run failed. "
        f"Costs are per pair, all orders together. {ACCURACY_CAPTION}"
    )
    return [
        Table("Judges", ("judge", *ACCURACY_COLUMNS, "no verdict", *costs), rows, caption),
        Plot("Accuracy with ties", draw_intervals(bars, "accuracy with ties, 95 % interval")),
        *_paired_table(comparison),
        *_threshold_table(comparison),
    ]


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
        "p (McNemar, exact)",
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
            "The last column depends on the order of the rows where scores repeat; it is for that leaderboard only.",
        )


def _cost_cells(facts: Mapping[str, float | None]) -> tuple[str, str, str]:
    """Write what a judge costs per pair; a file of predictions does not tell."""
    if not facts:
        return "", "", ""
    read, written = facts["prompt_tokens"], facts["reply_tokens"]
    tokens = "not counted" if read is None or written is None else f"{read:,.0f} + {written:,.0f}"
    return format_number(facts["frames"]), tokens, format_number(facts["seconds"])
