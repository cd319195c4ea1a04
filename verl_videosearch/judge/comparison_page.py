"""A comparison as HTML: the verdict, both films as strips, what was asked for and said, by turn.

The one idea: it is the page of episodes (`report`) of one pair, with what only a comparison knows -
probability, agreement of the orders, cost - above it.

Covers: notebooks and `Comparison.to_page`. Does not cover: how a page is made (`report`)."""

from __future__ import annotations

from pathlib import Path

from verl_videosearch.judge.comparison import Comparison
from verl_videosearch.report.episode_page import render_inline, write_episode_page
from verl_videosearch.report.episode_view import Source


def write_comparison_page(comparison: Comparison, path: Path) -> Path:
    """Write the page in one step; returns its path."""
    written = write_episode_page(
        [Source("judge", comparison.records)],
        path,
        title=comparison.describe(),
        store=comparison.store,
        facts=list_facts(comparison),
    )
    return written.path


def render_comparison(comparison: Comparison) -> str:
    """Return the comparison as one HTML element with its own style."""
    source = Source("judge", comparison.records)
    return render_inline(source, comparison.store, facts=list_facts(comparison))


def list_facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return what stands above the episodes, as (name, text)."""
    agree = {True: "yes", False: "no", None: "not known"}[comparison.orders_agree]
    confidence = comparison.confidence
    stated = ", ".join(
        f"{order.value}: {'unsaid' if value is None else value}"
        for order, value in comparison.stated_confidence.items()
    )
    return [
        ("verdict", comparison.describe()),
        ("probability", "no calibration" if confidence is None else f"{confidence:.0%}"),
        ("stated confidence (1 high, 3 low)", stated),
        ("orders agree", agree),
        ("tokens", _show_tokens(comparison)),
        ("seconds", f"{comparison.seconds:.1f}"),
    ]


def _show_tokens(comparison: Comparison) -> str:
    read, written = comparison.num_prompt_tokens, comparison.num_reply_tokens
    return "not counted" if read is None else f"{read} read, {written} written"
