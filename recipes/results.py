"""Put the runs of a pipeline into one table, one page with plots, and `results.json`.

    python -m recipes.results outputs/demo

The one idea: nothing is measured here. Every figure is computed from files that the programs of the
pipeline left (`runs/NAME` of `videosearch eval` and `probe`, the training log of GRPO), so it can
be made again at any time.

| file | holds |
|---|---|
| `results.json` | `{"stages": {"start"...: ROW}, "sampled": ..., "controls": {...}, "tests": ..., "alarms": [...]}` |
| `index.html`, `results.md` | the same as tables and plots |

Covers: pipelines on hide-and-seek pairs, whose truth is known. Does not cover: public benchmarks
(`videosearch compare`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table as ConsoleTable
from verl_videosearch.data_prep.hide_and_seek.plan import GUESSES, PairType
from verl_videosearch.recipes.rows import (
    Episode,
    compare,
    join_episodes,
    make_bare_row,
    make_row,
    replace_records,
)
from verl_videosearch.recipes.stage import TIMES

from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics.baselines import majority_label
from verl_videosearch.report.chart import Bar, Line, draw_intervals, draw_lines
from verl_videosearch.report.page import Block, Note, Plot, render_markdown, render_page
from verl_videosearch.report.table import Table
from verl_videosearch.runs.folder import RunFolder, RunFolderError
from verl_videosearch.verl_plugin.alarms import PREFIX, AlarmConfig, find_alarms

STAGES = ("start", "cold_start", "rft", "grpo")
HEADINGS = {
    "start": "start (random weights)",
    "cold_start": "cold start",
    "rft": "rejection sampling",
    "grpo": "GRPO",
    "majority": "majority class",
    "no_search": "best without a search",
    "random_frames": "GRPO, random frames returned",
    "blank_frames": "GRPO, blank frames returned",
    "no_window": "GRPO, memory window off",
}
BRIEF = {
    "start": "start",
    "cold_start": "cold start",
    "rft": "rejection",
    "grpo": "GRPO",
    "majority": "majority class",
    "no_search": "best unseen guess",
    "random_frames": "random frames",
    "blank_frames": "blank frames",
    "no_window": "window off",
}
"""Short headings, for a terminal."""
TYPES = ("hidden", "tie", "visible", "decoy")
SHARES = {"search": "search_rate", "aim": "aim_rate", "hit": "hit_rate"}
MEANS = {"gain": "gain", "calls": "calls", "invalid": "invalid_calls", "unreadable": "unreadable"}
CURVES = {
    "overall right": "correct_OA",
    "reward: accuracy": "reward_accuracy",
    "reward: format": "reward_format",
    "tool rate": "has_searched",
    "groups without signal": "filtered_group_rate",
}
"""Line of the plot of a training to figure of its log."""
MINUTES = {
    "start": ("pairs", "splits", "start"),
    "cold_start": ("traces", "captions_cold_start", "cold_start"),
    "rft": ("samples", "captions_rft", "rft"),
    "grpo": ("grpo",),
}
"""Which programs a stage is made of."""
CAPTION = (
    "Held-out pairs, each judged once and greedily; 95 % bootstrap intervals. aim: of the searches, those that asked "
    "for a frame behind the cue; hit: of the pairs with a hidden defect, those where a frame that shows it was asked "
    "for; gain: overall accuracy of the last verdict less that of the first; calls and invalid calls per episode."
)
SAMPLED_CAPTION = (
    "The same pairs, replies sampled at temperature 0.8, as in training: what the policy does, and not only what it "
    "does most often."
)


class Pipeline:
    """The folder that `pipeline.sh` has written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_episodes(self, run: str) -> list[Episode]:
        """Read a finished `videosearch eval`."""
        source = RunFolder(self.folder / "runs" / run)
        return join_episodes(source.read_samples(), source.read_records().records)

    def replace_frames(self, run: str, replacement: str) -> list[Episode]:
        """Return a run as it went on when its calls brought other frames."""
        source, probe = (RunFolder(self.folder / "runs" / name) for name in (run, f"{run}-probe"))
        return join_episodes(
            source.read_samples(),
            replace_records(
                source.read_records().records, probe.read_records().records, replacement
            ),
        )

    def read_training(self) -> list[dict[str, float]]:
        """Read the figures of every GRPO step, in order; of a run that was resumed, each step's
        newest."""
        steps: dict[int, dict[str, float]] = {}
        paths = (self.folder / "logs").glob("grpo.*jsonl")  # and of earlier tries: grpo.DATE.jsonl
        for path in sorted(paths, key=lambda path: path.stat().st_mtime):
            for line in path.read_text("utf-8").splitlines():
                if line.endswith("}"):
                    entry = json.loads(line)
                    ours = {
                        name: value
                        for name, value in entry["data"].items()
                        if name.startswith(PREFIX)
                    }
                    steps[entry["step"]] = {"step": entry["step"]} | ours
        return [
            figures for _, figures in sorted(steps.items()) if f"{PREFIX}/num_episodes" in figures
        ]

    def read_minutes(self) -> dict[str, float]:
        """Return how long each stage took, all runs of all of its programs; one that was killed
        hard left no time."""
        path = self.folder / "logs" / TIMES
        times = (
            [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            if path.exists()
            else []
        )
        return {
            stage: round(
                sum(each["seconds"] for each in times if each["stage"] in programs) / 60, 1
            )
            for stage, programs in MINUTES.items()
        }


def collect(pipeline: Pipeline) -> dict[str, Any]:
    """Compute every figure; raises `RunFolderError` if a run is not finished."""
    runs = {stage: pipeline.read_episodes(stage) for stage in STAGES}
    sampled = {stage: pipeline.read_episodes(f"{stage}-sampled") for stage in STAGES[1:]}
    controls = {
        "random_frames": pipeline.replace_frames("grpo", "random"),
        "blank_frames": pipeline.replace_frames("grpo", "blank"),
        "no_window": pipeline.read_episodes("grpo-no-window"),
    }
    minutes, training = pipeline.read_minutes(), pipeline.read_training()
    return {
        "stages": {
            stage: make_row(episodes) | {"minutes": minutes[stage]}
            for stage, episodes in runs.items()
        },
        "sampled": {stage: make_row(episodes) for stage, episodes in sampled.items()},
        "controls": describe_blind(runs["grpo"])
        | {name: make_row(episodes) for name, episodes in controls.items()},
        "tests": {
            "rft against cold_start": compare(runs["rft"], runs["cold_start"]),
            "grpo against rft": compare(runs["grpo"], runs["rft"]),
            "rft against cold_start, sampled": compare(sampled["rft"], sampled["cold_start"]),
            "grpo against rft, sampled": compare(sampled["grpo"], sampled["rft"]),
            **{
                f"{name} against grpo": compare_verdicts(episodes, runs["grpo"])
                for name, episodes in controls.items()
            },
        },
        "training": training,
        "alarms": list_alarms(training),
    }


def compare_verdicts(after: Sequence[Episode], before: Sequence[Episode]) -> dict[str, Any]:
    """Test a control: its first call is the same, so only the verdicts say something."""
    return {"accuracy": compare(after, before)["accuracy"]}


def describe_blind(episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    """Return the judges that never look: the majority class, and the best answer at first sight."""
    gold = [each.sample.labels[OVERALL] for each in episodes]
    types = [PairType(each.sample.meta["pair_type"]) for each in episodes]
    share = gold.count(majority_label(gold)) / len(gold)
    best = sum(GUESSES[pair_type] for pair_type in types) / len(types)
    return {
        "majority": make_bare_row(share, len(gold)),
        "no_search": make_bare_row(
            best, len(gold), {t.value: GUESSES[t] for t in sorted(set(types))}
        ),
    }


def list_alarms(training: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Return every alarm of a training with the steps at which it was on."""
    found: dict[str, dict[str, Any]] = {}
    for number, figures in enumerate(training, start=1):
        for alarm in find_alarms(training[:number], AlarmConfig()):
            entry = found.setdefault(
                alarm.kind.value, {"kind": alarm.kind.value, "steps": [], "text": alarm.message}
            )
            entry["steps"].append(figures["step"])
    return list(found.values())


def list_blocks(results: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what the page shows."""
    for alarm in results["alarms"]:
        yield Note(
            f"Alarm in GRPO, at {len(alarm['steps'])} steps from step {alarm['steps'][0]} on: {alarm['text']}"
        )
    yield tabulate("Stages", results["stages"], CAPTION)
    bars = [make_bar(name, row) for name, row in results["stages"].items()]
    bars += [make_bar(name, row, is_reference=True) for name, row in results["controls"].items()]
    yield Plot(
        "Overall accuracy", draw_intervals(bars, "held-out pairs with the right overall verdict")
    )
    yield tabulate("Controls", results["controls"], "The same pairs; greedy.")
    yield tabulate("Stages, sampled", results["sampled"], SAMPLED_CAPTION)
    yield tabulate_tests(results["tests"])
    yield plot_training(results["training"])


def tabulate(title: str, rows: Mapping[str, Mapping[str, Any]], caption: str) -> Table:
    """Make a table with a row per judge."""
    columns = ("judge", "overall", *TYPES, "VQ", "MQ", *SHARES, *MEANS, "tokens", "minutes")
    return Table(
        title, columns, [tuple(describe_row(name, row)) for name, row in rows.items()], caption
    )


def describe_row(name: str, row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cells of one judge."""
    yield HEADINGS[name]
    yield describe_share(row["overall"])
    for group, keys in (("by_type", TYPES), ("by_dimension", ("VQ", "MQ"))):
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
            f"{100 * test['difference']:+.1f} [{100 * test['low']:+.1f}, {100 * test['high']:+.1f}]",
            f"+{test['won']} / -{test['lost']}",
            f"{test['p_value']:.1g}",
        )
        for name, figures in tests.items()
        for figure, test in figures.items()
    ]
    caption = "Per cent points with 95 % bootstrap intervals over pairs; pairs won and lost; exact McNemar test."
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


def make_brief_table(results: Mapping[str, Any]) -> ConsoleTable:
    """Show what matters in 80 columns: per cent without the sign, means with one digit."""
    look = {
        "title_justify": "left",
        "box": box.SIMPLE_HEAD,
        "collapse_padding": True,
        "pad_edge": False,
    }
    table = ConsoleTable(title="per cent of the held-out pairs", **look)
    columns = ("right", "", "hid", "tie", "vis", "dec", "srch", "hit", "gain", "calls")
    table.add_column("judge", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    parts = (("stages", ""), ("sampled", ", sampled"), ("controls", ""))
    for part, suffix in parts:
        for name, row in results[part].items():
            table.add_row(BRIEF[name] + suffix, *describe_briefly(row))
        table.add_section()
    return table


def describe_briefly(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the cells of one judge."""
    share = row["overall"]
    yield f"{100 * share['accuracy']:.1f}"
    yield "" if share["low"] is None else f"{100 * share['low']:.0f}-{100 * share['high']:.0f}"
    shares = [row.get("by_type", {}).get(key, {}).get("accuracy") for key in TYPES]
    for value in (*shares, row.get("search_rate"), row.get("hit_rate"), row.get("gain")):
        yield "" if value is None else f"{100 * value:.0f}"
    yield "" if row.get("calls") is None else f"{row['calls']:.1f}"


def main(folder: Annotated[Path, typer.Argument(help="The pipeline's folder.")]) -> None:
    """Put the runs of a pipeline into one table, one page and results.json."""
    console = Console()
    try:
        results = collect(Pipeline(folder))
    except (RunFolderError, ValueError) as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    target, blocks = RunFolder(folder), list(list_blocks(results))
    target.write_text("results.md", render_markdown("Pipeline", blocks))
    target.write_text("index.html", render_page("Pipeline", blocks))
    target.write_json("results.json", results)
    for block in blocks:
        if isinstance(block, Note):
            console.print(block.text, style="bold red", markup=False)
    console.print(make_brief_table(results))
    console.print(
        f"{folder / 'index.html'} has the plots, {folder / 'results.json'} every figure",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
