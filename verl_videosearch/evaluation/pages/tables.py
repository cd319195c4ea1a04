"""Tables and plots of evaluation figures, in words that a reader understands without this code.

The one idea: every number is printed as `Rate` prints it - share, interval, k/n - and every block
of figures stands beside the judges that never look. Figures come from `summary`; nothing is
computed here. The tables of comparisons and probes are in `comparison_tables` and `probe_tables`.

>>> from verl_videosearch import metrics
>>> print(describe_baselines(metrics.score_baselines([0, 0, 1])).to_markdown().splitlines()[4])
| majority class | 66.7 % (2/3) | 100.0 % (1/1) |
"""

from __future__ import annotations

from collections.abc import Mapping

from verl_videosearch.evaluation.summary import Summary
from verl_videosearch.metrics import Accuracies, Baselines, PairedDifference, Rate
from verl_videosearch.report.chart import Bar, Line, draw_intervals, draw_lines
from verl_videosearch.report.page import Block, Note, Plot
from verl_videosearch.report.table import Table

ACCURACY_COLUMNS = ("with ties", "without ties")
PUBLISHED_COLUMNS = ("as published, with ties", "as published, without ties")
ACCURACY_CAPTION = (
    "With ties: three classes over all labelled pairs. Without ties: pairs whose label prefers a "
    "video; a predicted tie is wrong. [a, b]: 95 % interval; (k/n): counts. Random: expected value."
)
PUBLISHED_CAPTION = (
    "As published: every order by itself, mean over the orders run (papers judge each pair once): "
    "compare these with a paper's tables, not the merged figures."
)
LABEL_NAMES = {0: "tie", 1: "video 1", 2: "video 2"}


def describe_summary(summary: Summary) -> list[Block]:
    """Return the blocks of one run."""
    blocks: list[Block] = []
    if summary.header.num_scored < summary.header.num_pairs:
        kinds = (
            ", ".join(f"{kind} {count}" for kind, count in summary.failures.items())
            or "not run yet"
        )
        blocks.append(
            Note(
                f"{summary.header.num_pairs - summary.header.num_scored} of "
                f"{summary.header.num_pairs} pairs lack an "
                f"episode and are in no figure (failed episodes: {kinds}). Repeat the command "
                "to try them again."
            )
        )
    blocks.append(_overall_table(summary))
    if has_labels := bool(summary.overall.with_ties.total):
        blocks.append(_overall_plot(summary))
    if has_labels or summary.dimensions:
        blocks.append(_dimension_table(summary))
    if has_labels:
        blocks.append(_label_table(summary))
    if summary.subsets:
        blocks.append(_subset_table(summary) if has_labels else _effort_table(summary))
    blocks += [_order_table(summary), _behaviour_table(summary)]
    if has_labels:
        blocks.append(_risk_plot(summary))
    if summary.calibration_error is not None:
        blocks += [_reliability_plot(summary), _calibration_table(summary)]
    return blocks


def describe_baselines(baselines: Baselines, title: str = "Judges that never look") -> Table:
    """Return a table of the three baselines."""
    rows = [(name, *accuracy_cells(figures)) for name, figures in list_baselines(baselines)]
    return Table(title, ("judge", *ACCURACY_COLUMNS), rows, ACCURACY_CAPTION)


def list_baselines(baselines: Baselines) -> list[tuple[str, Accuracies]]:
    return [
        ("majority class", baselines.majority),
        ("always tie", baselines.always_tie),
        ("random", baselines.random),
    ]


def explain_intervals(rate: Rate) -> str:
    """Say over what the intervals of a table are drawn.

    >>> explain_intervals(Rate.over([True, False, True], "aab"))
    'Intervals draw the 2 prompts of the 3 pairs, since pairs of one prompt are alike.'
    """
    if rate.num_clusters is None:
        return "Intervals draw single pairs."
    return (
        f"Intervals draw the {rate.num_clusters} prompts of the {rate.total} pairs, since pairs of "
        "one prompt are alike."
    )


def accuracy_cells(figures: Accuracies) -> tuple[str, str]:
    return str(figures.with_ties), str(figures.without_ties)


def _overall_table(summary: Summary) -> Table:
    if not summary.overall.with_ties.total:
        return _verdict_table(summary)
    published = summary.orders.as_published
    merged = (*accuracy_cells(summary.overall), *accuracy_cells(published))
    rows = [(summary.header.model, *merged, str(summary.overall.unreadable))]
    rows += [
        (name, *2 * accuracy_cells(figures), "")
        for name, figures in list_baselines(summary.baselines)
    ]
    best = summary.best_threshold
    caption = (
        f"{ACCURACY_CAPTION} {explain_intervals(summary.overall.with_ties)} {PUBLISHED_CAPTION} "
        "With the tie threshold that fits these very pairs best (an upper bound): "
        f"{best.accuracy}, at {best.threshold:g}."
    )
    if summary.num_derived:
        caption += (
            f" {summary.num_derived} of {summary.header.num_scored} overall labels are not given "
            "by a person but derived from the dimensions', where 1, 2 and 0 make a tie."
        )
    columns = ("judge", *ACCURACY_COLUMNS, *PUBLISHED_COLUMNS, "no verdict")
    return Table("Overall verdict", columns, rows, caption)


def _verdict_table(summary: Summary) -> Table:
    """Say what was answered where no pair has an overall label: there is nothing to be right
    about."""
    unlabelled = summary.overall.unlabelled
    rows = [("pairs judged", str(unlabelled.total))]
    return Table(
        "Overall verdict",
        ("figure", "value"),
        rows,
        "No pair has an overall label, so no accuracy is printed; the verdicts are in "
        "episodes.jsonl.",
    )


def _overall_plot(summary: Summary) -> Plot:
    bars = [to_bar(summary.header.model, summary.overall.with_ties)]
    bars += [
        to_bar(name, figures.with_ties, True) for name, figures in list_baselines(summary.baselines)
    ]
    bars += [
        to_bar(f"order {order} alone", figures.with_ties)
        for order, figures in summary.orders.by_order.items()
    ]
    bars += [to_bar(name, figures.with_ties) for name, figures in summary.dimensions.items()]
    return Plot("Accuracy with ties", draw_intervals(bars, "accuracy with ties, 95 % interval"))


def to_bar(label: str, rate: Rate, is_reference: bool = False) -> Bar:
    return Bar(label, rate.value, rate.low, rate.high, is_reference)


def _dimension_table(summary: Summary) -> Table:
    rows = []
    for key, figures in summary.dimensions.items():
        published = accuracy_cells(summary.dimensions_as_published[key])
        rows.append((key, *accuracy_cells(figures), *published, str(figures.unreadable)))
    columns = ("dimension", *ACCURACY_COLUMNS, *PUBLISHED_COLUMNS, "no verdict")
    return Table("Dimensions", columns, rows or [("none is labelled", *5 * ("",))])


def _label_table(summary: Summary) -> Table:
    """Cross the gold labels with the verdicts."""
    rows = [
        (LABEL_NAMES[label], *map(str, counts), str(summary.recall[label]))
        for label, counts in enumerate(summary.confusion)
    ]
    return Table(
        "Labels against verdicts",
        ("label", *(f"said {n}" for n in LABEL_NAMES.values()), "said nothing", "recall"),
        rows,
    )


def _subset_table(summary: Summary) -> Table:
    rows = []
    for name, figures in summary.subsets.items():
        cells = accuracy_cells(figures)
        published = accuracy_cells(summary.subsets_as_published[name])
        majority = str(summary.subset_baselines[name].with_ties)
        rows.append((name, *cells, *published, majority, f"{summary.subset_calls[name]:.2f}"))
    last = ("majority class with ties", "calls per episode")
    return Table("Subsets", ("subset", *ACCURACY_COLUMNS, *PUBLISHED_COLUMNS, *last), rows)


def _effort_table(summary: Summary) -> Table:
    """Show the calls of each subset where there are no labels to be right about."""
    rows = [(name, f"{calls:.2f}") for name, calls in summary.subset_calls.items()]
    return Table("Subsets", ("subset", "calls per episode"), rows)


def _order_table(summary: Summary) -> Table:
    """Say what the order of the two videos did."""
    orders = summary.orders
    rows = []
    for order, figures in orders.by_order.items():
        if figures.with_ties.total:
            rows.append((f"order {order} alone, with ties", str(figures.with_ties)))
            rows.append((f"order {order} alone, without ties", str(figures.without_ties)))
    if orders.as_published.with_ties.total:
        for name, cell in zip(ACCURACY_COLUMNS, accuracy_cells(orders.as_published), strict=True):
            rows.append((f"mean over the orders (as published), {name}", cell))
    if orders.consistency is not None:
        rows += [
            ("same winner in both orders", str(orders.consistency.consistent)),
            ("both orders prefer the first place", str(orders.consistency.first_slot)),
            ("both orders prefer the second place", str(orders.consistency.second_slot)),
            ("a tie in one order only", str(orders.consistency.half_tie)),
            ("no verdict in an order", str(orders.consistency.unreadable)),
        ]
    if orders.bias.predicted_first.total:
        bias = f"{100 * orders.bias.value:+.1f} points"
        first = f"{orders.bias.predicted_first}, labels {orders.bias.gold_first}: bias {bias}"
        rows.append(("prefers the first place", first))
    return Table("Order of the videos", ("figure", "value"), rows)


def _behaviour_table(summary: Summary) -> Table:
    did = summary.behaviour
    gain = format_difference(did.gain) if did.gain.a.total else "no pair is labelled"
    rows = [
        ("episodes that searched", str(did.searched)),
        ("episodes with a verdict", str(did.answered)),
        ("final verdict against the first one stated", gain),
        ("calls per episode", f"{did.calls:.2f}"),
        ("frames shown per episode", f"{did.frames:.1f}"),
        ("images sent per episode, all turns", f"{did.images_sent:.1f}"),
        ("tokens read per episode", format_number(did.prompt_tokens)),
        ("tokens written per episode", format_number(did.reply_tokens)),
        ("endings", format_counts(did.endings)),
        ("calls without frames", format_counts(did.call_faults)),
    ]
    return Table("What the episodes did", ("figure", "value"), rows)


def _risk_plot(summary: Summary) -> Plot:
    points = [(point.covered.value, point.wrong.value) for point in summary.risk.points]
    area = (
        f"Area under the curve {summary.risk.area:.3f} (lower is better)."
        if points
        else "No pair is labelled."
    )
    return Plot(
        "Wrong answers when only the surest are given",
        draw_lines([Line("judge", points)], "pairs answered", "wrong of the answered"),
        f"{area} Confidence: stated confidence and agreement of the orders, or the calibrated "
        "share.",
    )


def _reliability_plot(summary: Summary) -> Plot:
    assert summary.calibration_error is not None
    filled = [each for each in summary.calibration_error.bins if each.accuracy.total]
    lines = [
        Line("judge", [(each.mean_confidence, each.accuracy.value) for each in filled]),
        Line("perfect", [(0.0, 0.0), (1.0, 1.0)], is_reference=True),
    ]
    caption = f"Expected calibration error {summary.calibration_error.value:.3f}."
    return Plot(
        "Stated against true share of right verdicts",
        draw_lines(lines, "calibrated confidence", "right"),
        caption,
    )


def _calibration_table(summary: Summary) -> Table:
    point = summary.abstention
    assert point is not None
    rows = [("answered", str(point.covered)), ("wrong of the answered", str(point.wrong))]
    return Table(
        f"Abstaining below a confidence of {point.threshold:.3f}", ("figure", "value"), rows
    )


def format_difference(test: PairedDifference) -> str:
    """Write a difference of shares in points.

    >>> from verl_videosearch import metrics
    >>> format_difference(metrics.paired_bootstrap([1, 1], [1, 1]))
    '+0.0 [+0.0, +0.0]'
    """
    return f"{100 * test.value:+.1f} [{100 * test.low:+.1f}, {100 * test.high:+.1f}]"


def format_number(value: float | None) -> str:
    """Write a mean; None is a thing that nobody counted.

    >>> format_number(1234.56), format_number(0.42), format_number(None)
    ('1,235', '0.42', 'not counted')
    """
    if value is None:
        return "not counted"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def format_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"
