"""Tables and plots of a pipeline: what `results.json` holds, for a page and for a terminal.

The one idea: nothing is computed here. Every cell is a figure of `results.collect`, written in per
cent or as a mean; columns follow the pair types that the pairs have.

>>> percent(0.125), percent(None)
('12.5 %', '')

Covers: the blocks of the page, two brief tables of 80 columns. Does not cover: the figures
(`rows`, `bounds`), the files (`results`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table as ConsoleTable

from verl_videosearch.report.chart import Bar, Line, draw_intervals, draw_lines
from verl_videosearch.report.page import Block, Note, Plot
from verl_videosearch.report.table import Table
from verl_videosearch.verl_plugin.alarms import PREFIX

HEADINGS = {
    "start": "start (random weights)",
    "cold_start": "cold start",
    "rft": "rejection sampling",
    "grpo": "GRPO",
    "majority": "majority class",
    "no_search": "best without a search",
    "one_call": "best with one call",
    "two_calls": "best with two calls",
    "three_calls": "best with three calls",
    "random_frames": "GRPO, random frames returned",
    "blank_frames": "GRPO, blank frames returned",
    "no_window": "GRPO, memory window off",
    "window_1": "GRPO, memory window 1",
}
BRIEF = {
    "start": "start",
    "cold_start": "cold start",
    "rft": "rejection",
    "grpo": "GRPO",
    "majority": "majority class",
    "no_search": "best unseen guess",
    "one_call": "best, one call",
    "two_calls": "best, two calls",
    "three_calls": "best, three calls",
    "random_frames": "random frames",
    "blank_frames": "blank frames",
    "no_window": "window off",
    "window_1": "window 1",
}
"""Short headings, for a terminal."""
TYPES = {
    "hidden": "hid",
    "empty": "emp",
    "tie": "tie",
    "visible": "vis",
    "decoy": "dec",
    "both_hidden": "both",
}
"""Pair types in the order of the columns, and their short headings."""
SHARES = {"search": "search_rate", "aim": "aim_rate", "hit": "hit_rate", "cover": "cover_rate"}
MEANS = {"gain": "gain", "calls": "calls", "invalid": "invalid_calls", "unreadable": "unreadable"}
CURVES = {
    "overall right": "correct_OA",
    "reward: accuracy": "reward_accuracy",
    "reward: format": "reward_format",
    "tool rate": "has_searched",
    "groups without signal": "filtered_group_rate",
}
"""Line of the plot of a training to figure of its log."""
CAPTION = (
    "Held-out pairs, each judged once and greedily; 95 % bootstrap intervals. aim: of the "
    "searches, those that asked for a frame behind the cue; hit: of the pairs with a hidden "
    "defect, those where a frame that shows it was asked for; cover: of the pairs with a cue, "
    "those where every marked place was looked at in both videos; gain: overall accuracy of the "
    "last verdict less that of the first; calls and invalid calls per episode."
)
CALLS_CAPTION = (
    "Calls per episode: effort that adapts looks where something is hidden, and only there."
)
MEMORY_CAPTION = (
    "The last policy judges the same pairs again while its earlier replies are altered: their "
    "Snapshots emptied, replaced by those of a pair with another label, or all but the calls "
    "removed (`videosearch probe --memory`)."
)
SAMPLED_CAPTION = (
    "The same pairs, replies sampled at temperature 0.8, as in training: what the policy does, "
    "and not only what it does most often."
)


def list_blocks(results: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what the page shows."""
    for alarm in results["alarms"]:
        yield Note(
            f"Alarm in GRPO, at {len(alarm['steps'])} steps from step {alarm['steps'][0]} on: "
            f"{alarm['text']}"
        )
    types = list_types(results)
    yield tabulate("Stages", results["stages"], types, CAPTION)
    bars = [make_bar(name, row) for name, row in results["stages"].items()]
    bars += [make_bar(name, row, is_reference=True) for name, row in results["controls"].items()]
    yield Plot(
        "Overall accuracy", draw_intervals(bars, "held-out pairs with the right overall verdict")
    )
    yield tabulate("Controls", results["controls"], types, "The same pairs; greedy.")
    yield tabulate("Stages, sampled", results["sampled"], types, SAMPLED_CAPTION)
    yield tabulate_calls(results, types)
    if results["needed"]:
        yield tabulate_needed(results["needed"])
    if results["memory"]:
        yield tabulate_memory(results["memory"])
    yield tabulate_tests(results["tests"])
    yield plot_training(results["training"])


def list_types(results: Mapping[str, Any]) -> list[str]:
    """Return the pair types of the held-out pairs, in the order of the columns."""
    return [name for name in TYPES if name in results["stages"]["grpo"]["by_type"]]


def tabulate(
    title: str, rows: Mapping[str, Mapping[str, Any]], types: Sequence[str], caption: str
) -> Table:
    """Make a table with a row per judge."""
    columns = ("judge", "overall", *types, "VQ", "MQ", *SHARES, *MEANS, "tokens", "minutes")
    cells = [tuple(describe_row(name, row, types)) for name, row in rows.items()]
    return Table(title, columns, cells, caption)


def tabulate_calls(results: Mapping[str, Any], types: Sequence[str]) -> Table:
    """Make a table of the calls that each judge makes on each type of pair."""
    cells = [
        (HEADINGS[name] + suffix, *(f"{row['calls_by_type'][each]:.2f}" for each in types))
        for part, suffix in (("stages", ""), ("sampled", ", sampled"), ("controls", ""))
        for name, row in results[part].items()
        if "calls_by_type" in row
    ]
    return Table("Calls by pair type", ("judge", *types), cells, CALLS_CAPTION)


def tabulate_needed(needed: Mapping[str, Any]) -> Table:
    """Make a table of the verdicts that needed the search, uncapped, and of how many can."""
    names = {
        "refused": "wrong when calls are refused",
        "in_view": "wrong when they bring nothing new",
    }
    rows = [("right verdicts of GRPO", str(needed["right"]))]
    rows += [(f"{names[name]}", str(count)) for name, count in needed["lost"].items()]
    types = ", ".join(f"{name} {count}" for name, count in needed["by_type"].items())
    rows.append(("needed the search: both", f"{needed['needed']} ({types or 'none'})"))
    limit = f"{needed['can_need']} (+ {needed['allowance']} by chance)"
    rows.append(("can need it, by what the data knows", limit))
    return Table("Did it need the search?", ("figure", "pairs"), rows)


def tabulate_memory(memory: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Make a table of what altered memories cost, by pair type."""
    cells = [
        (
            control.replace("_", " "),
            name,
            percent(row["accuracy"]["value"]),
            "" if row["change"] is None else describe_change(row["change"]),
            f"{row['calls']:.2f}",
            "" if row["tokens"] is None else f"{row['tokens']:.0f}",
        )
        for control, rows in memory.items()
        for name, row in rows.items()
    ]
    columns = ("memory", "pairs", "right", "against the run", "calls", "tokens")
    return Table("Memory", columns, cells, MEMORY_CAPTION)


def describe_change(change: Mapping[str, Any]) -> str:
    """Write a paired difference in per cent points with its interval.

    >>> describe_change({"value": -0.5, "low": -0.75, "high": -0.25})
    '-50.0 [-75.0, -25.0]'
    """
    low, high = 100 * change["low"], 100 * change["high"]
    return f"{100 * change['value']:+.1f} [{low:+.1f}, {high:+.1f}]"


def describe_row(name: str, row: Mapping[str, Any], types: Sequence[str]) -> Iterator[str]:
    """Yield the cells of one judge."""
    yield HEADINGS[name]
    yield describe_share(row["overall"])
    for group, keys in (("by_type", types), ("by_dimension", ("VQ", "MQ"))):
        yield from (percent(row.get(group, {}).get(key, {}).get("accuracy")) for key in keys)
    yield from (percent(row.get(key)) for key in SHARES.values())
    for key in MEANS.values():
        yield (
            ""
            if row.get(key) is None
            else f"{row[key]:+.2f}"
            if key == "gain"
            else f"{row[key]:.2f}"
        )
    yield "" if row.get("tokens") is None else f"{row['tokens']:.0f}"
    yield "" if row.get("minutes") is None else f"{row['minutes']:.1f}"


def describe_share(share: Mapping[str, Any]) -> str:
    """Write a share with its interval and number of rows.

    >>> describe_share({"accuracy": 0.5, "low": 0.25, "high": 0.75, "n": 8})
    '50.0 % [25.0, 75.0] of 8'
    """
    interval = (
        "" if share["low"] is None else f" [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"
    )
    return f"{percent(share['accuracy'])}{interval} of {share['n']}"


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def make_bar(name: str, row: Mapping[str, Any], is_reference: bool = False) -> Bar:
    share = row["overall"]
    return Bar(HEADINGS[name], share["accuracy"], share["low"], share["high"], is_reference)


def tabulate_tests(tests: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Make a table of the paired tests."""
    rows = [
        (
            name,
            figure.replace("_", " "),
            describe_change({**test, "value": test["difference"]}),
            f"+{test['won']} / -{test['lost']}",
            f"{test['p_value']:.1g}",
        )
        for name, figures in tests.items()
        for figure, test in figures.items()
    ]
    caption = (
        "Per cent points with 95 % bootstrap intervals over pairs; pairs won and lost; exact "
        "McNemar test."
    )
    return Table("Paired tests", ("runs", "figure", "difference", "pairs", "p"), rows, caption)


def plot_training(training: Sequence[Mapping[str, float]]) -> Plot:
    """Draw the figures of every GRPO step."""
    last = int(training[-1]["step"]) if training else 1
    lines = []
    for series, (heading, name) in enumerate(CURVES.items()):
        key = f"{PREFIX}/{name}"
        points = [
            (f["step"], min(max(f[key], 0.0), 1.0)) for f in training if f.get(key) is not None
        ]
        lines.append(Line(heading, points, series=series))
    caption = "Means over the sampled episodes of a step, after groups without signal were dropped."
    return Plot("GRPO", draw_lines(lines, "step", "share or reward", max_x=last), caption)


LOOK = {
    "title_justify": "left",
    "box": box.SIMPLE_HEAD,
    "collapse_padding": True,
    "pad_edge": False,
}
PARTS = (("stages", ""), ("sampled", ", sampled"), ("controls", ""))


def make_brief_table(results: Mapping[str, Any]) -> ConsoleTable:
    """Show what matters in 80 columns: per cent without the sign, means with one digit."""
    table, types = ConsoleTable(title="per cent of the held-out pairs", **LOOK), list_types(results)
    columns = ("right", "", *(TYPES[each] for each in types), "srch", "hit", "gain", "calls")
    table.add_column("judge", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for part, suffix in PARTS:
        for name, row in results[part].items():
            table.add_row(BRIEF[name] + suffix, *describe_briefly(row, types))
        table.add_section()
    return table


def make_call_table(results: Mapping[str, Any]) -> ConsoleTable:
    """Show the calls per episode by pair type in 80 columns."""
    table, types = ConsoleTable(title="calls per episode", **LOOK), list_types(results)
    table.add_column("judge", no_wrap=True)
    for each in types:
        table.add_column(TYPES[each], justify="right", no_wrap=True)
    for part, suffix in PARTS[:2]:
        for name, row in results[part].items():
            calls = (f"{row['calls_by_type'][each]:.2f}" for each in types)
            table.add_row(BRIEF[name] + suffix, *calls)
    return table


def describe_briefly(row: Mapping[str, Any], types: Sequence[str]) -> Iterator[str]:
    """Yield the cells of one judge."""
    share = row["overall"]
    yield f"{100 * share['accuracy']:.1f}"
    yield "" if share["low"] is None else f"{100 * share['low']:.0f}-{100 * share['high']:.0f}"
    shares = [row.get("by_type", {}).get(key, {}).get("accuracy") for key in types]
    for value in (*shares, row.get("search_rate"), row.get("hit_rate"), row.get("gain")):
        yield "" if value is None else f"{100 * value:.0f}"
    yield "" if row.get("calls") is None else f"{row['calls']:.1f}"
