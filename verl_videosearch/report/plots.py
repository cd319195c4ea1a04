"""Plots as files for papers and slides: SVG and PNG by matplotlib, equal bytes for equal figures.

The one idea: nothing of the day or the machine goes into a file - fixed ids in the SVG, no date, no
program name.

    svg, png = draw_bars([Bar("ours", 0.6, 0.5, 0.7)], "accuracy with ties")

Covers: shares with intervals. Does not cover: the plots inside pages (`chart`, no library)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from verl_videosearch.extras import Extra, require
from verl_videosearch.report.chart import Bar
from verl_videosearch.report.plain_text import clean_line

_OURS, _REFERENCE = "#2456c9", "#8a8f98"


@dataclass(frozen=True)
class PlotFiles:
    """One plot in two formats."""

    svg: bytes
    png: bytes


def has_plots() -> bool:
    """True where matplotlib is installed (the extra `plots`)."""
    try:
        require("matplotlib", Extra.PLOTS)
    except ImportError:
        return False
    return True


def draw_bars(bars: Sequence[Bar], axis: str) -> PlotFiles:
    """Draw one row per bar: a dot at the share, a line over its interval; raises `ImportError`
    with what to install."""
    matplotlib = require("matplotlib", Extra.PLOTS)
    figure_class = require("matplotlib.figure", Extra.PLOTS).Figure
    with matplotlib.rc_context({"svg.hashsalt": "videosearch", "svg.fonttype": "path"}):
        figure = figure_class(figsize=(7, 0.9 + 0.34 * len(bars)), dpi=150, layout="constrained")
        axes = figure.subplots()
        for row, bar in enumerate(bars):
            colour = _REFERENCE if bar.is_reference else _OURS
            if bar.low is not None and bar.high is not None:
                axes.plot([100 * bar.low, 100 * bar.high], [row, row], color=colour, linewidth=2)
            axes.plot([100 * bar.value], [row], "o", color=colour)
        labels = [clean_line(bar.label).replace("$", r"\$") for bar in bars]
        axes.set_yticks(range(len(bars)), labels)
        axes.set_xlim(0, 100)
        axes.invert_yaxis()
        axes.set_xlabel(f"{axis}, per cent")
        axes.grid(axis="x", alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", metadata={"Software": None})
    return PlotFiles(svg.getvalue(), png.getvalue())
