"""The plots of a comparison as files, with and without ties."""

from __future__ import annotations

from verl_videosearch.evaluation.comparison import Comparison
from verl_videosearch.evaluation.pages.leaderboard import list_rows
from verl_videosearch.evaluation.pages.tables import to_bar
from verl_videosearch.report.plots import draw_bars, has_plots

AXES = {"with_ties": "accuracy with ties", "without_ties": "accuracy without ties"}


def draw_comparison(comparison: Comparison) -> dict[str, bytes]:
    """Return file name to content: SVG and PNG; nothing where matplotlib is not installed (the
    page has its own plots)."""
    if not has_plots():
        return {}
    files: dict[str, bytes] = {}
    for column, (name, axis) in enumerate(AXES.items()):
        rates = [(row, row.rates[column]) for row in list_rows(comparison)]
        bars = [
            to_bar(row.name, rate, row.judge is None) for row, rate in rates if rate and rate.total
        ]
        if bars:
            plot = draw_bars(bars, axis)
            files |= {f"accuracy_{name}.svg": plot.svg, f"accuracy_{name}.png": plot.png}
    return files
