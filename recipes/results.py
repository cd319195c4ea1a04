"""Put the runs of a pipeline into one table, one page with plots, and `results.json`.

    python -m recipes.results outputs/demo

The one idea: nothing is measured here. Every figure is computed from files that the programs of the
pipeline left (`runs/NAME` of `videosearch eval` and `probe`, the training log of GRPO), so it can
be made again at any time.

| file | holds |
|---|---|
| `results.json` | `stages`, `sampled`, `controls`: a row per judge; `tests`, `needed`, `memory`, ... |
| `index.html`, `results.md` | the same as tables and plots |
| `episodes.html` | what each stage's judge looked at and said, pair by pair |

Covers: pipelines on hide-and-seek pairs, whose truth is known. Does not cover: how it looks
(`tables`), public benchmarks (`videosearch compare`)."""  # noqa: E501

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from verl_videosearch.recipes.bounds import check_needed, count_needed, describe_optimum
from verl_videosearch.recipes.rows import (
    Episode,
    compare,
    join_episodes,
    make_bare_row,
    make_row,
    replace_records,
)
from verl_videosearch.recipes.stage import TIMES
from verl_videosearch.recipes.tables import list_blocks, make_brief_table, make_call_table

from verl_videosearch.evaluation.results import EPISODE_PAGE
from verl_videosearch.judgement import OVERALL
from verl_videosearch.metrics.baselines import majority_label
from verl_videosearch.report.episode_page import (
    WrittenPage,
    read_sources,
    write_episode_page,
)
from verl_videosearch.report.page import Note, render_markdown, render_page
from verl_videosearch.runs.folder import RunFolder, RunFolderError
from verl_videosearch.verl_plugin.alarms import PREFIX, AlarmConfig, find_alarms

STAGES = ("start", "cold_start", "rft", "grpo")
OTHER_WINDOWS = ("no_window", "window_1")
"""The policy judged with another window than it was trained with: one of the two."""
MINUTES = {
    "start": ("pairs", "splits", "start"),
    "cold_start": ("traces", "captions_cold_start", "cold_start"),
    "rft": ("samples", "captions_rft", "rft"),
    "grpo": ("grpo",),
}
"""Which programs a stage is made of."""


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

    def read_other_window(self, run: str) -> dict[str, list[Episode]]:
        """Read the run with another window than the training's, under its name."""
        found = [name for name in OTHER_WINDOWS if self._has_run(run, name)]
        return {
            name: self.read_episodes(f"{run}-{name.replace('_', '-')}")
            for name in found[:1] or OTHER_WINDOWS[:1]
        }

    def _has_run(self, run: str, name: str) -> bool:
        return (self.folder / "runs" / f"{run}-{name.replace('_', '-')}").exists()

    def read_needed(self, run: str) -> dict[str, Any] | None:
        """Count the verdicts of a run that needed its search; None where that was not probed."""
        probed = RunFolder(self.folder / "runs" / f"{run}-probe").read_records().records
        return count_needed(self.read_episodes(run), probed)

    def read_memory(self, run: str) -> dict[str, Any]:
        """Read what altered memories cost, by control and pair type; empty where nobody asked."""
        path = self.folder / "runs" / f"{run}-memory" / "results.json"
        return json.loads(path.read_text("utf-8"))["rows"] if path.exists() else {}

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
        **pipeline.read_other_window("grpo"),
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
        "needed": pipeline.read_needed("grpo"),
        "memory": pipeline.read_memory("grpo"),
        "training": training,
        "alarms": list_alarms(training),
    }


def compare_verdicts(after: Sequence[Episode], before: Sequence[Episode]) -> dict[str, Any]:
    """Test a control: its first call is the same, so only the verdicts say something."""
    return {"accuracy": compare(after, before)["accuracy"]}


def describe_blind(episodes: Sequence[Episode]) -> dict[str, dict[str, Any]]:
    """Return the judges that are arithmetic: the majority class, and perfect ones with so many
    calls."""
    gold = [each.sample.labels[OVERALL] for each in episodes]
    share = gold.count(majority_label(gold)) / len(gold)
    return {
        "majority": make_bare_row(share, len(gold)),
        **describe_optimum([each.sample for each in episodes]),
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


def write_stage_episodes(folder: Path) -> WrittenPage:
    """Write the page of the greedy episodes of every stage, pairs drawn where there are many."""
    sources, _ = read_sources([folder / "runs" / stage for stage in STAGES])
    return write_episode_page(
        sources,
        folder / EPISODE_PAGE,
        title="Pipeline: episodes",
        video_root=folder / "pairs",
        links=[("figures", "index.html")],
    )


def main(folder: Annotated[Path, typer.Argument(help="The pipeline's folder.")]) -> None:
    """Put the runs of a pipeline into one table, one page and results.json."""
    console = Console()
    try:
        results = collect(Pipeline(folder))
    except (RunFolderError, ValueError) as error:
        _fail(error)
    target, blocks = RunFolder(folder), list(list_blocks(results))
    target.write_text("results.md", render_markdown("Pipeline", blocks))
    links = [("episodes", EPISODE_PAGE)]
    target.write_text("index.html", render_page("Pipeline", blocks, links=links))
    target.write_json("results.json", results)
    episodes = write_stage_episodes(folder)
    for block in blocks:
        if isinstance(block, Note):
            console.print(block.text, style="bold red", markup=False)
    console.print(make_brief_table(results))
    console.print(make_call_table(results))
    if needed := results["needed"]:
        console.print(
            f"{needed['needed']} of {needed['right']} right verdicts needed the search; "
            f"{needed['can_need']} can need it",
            highlight=False,
        )
    console.print(
        f"{folder / 'index.html'} has the plots, {folder / 'results.json'} every figure",
        highlight=False,
    )
    console.print(f"what each judge looked at and said: {episodes.describe()}", highlight=False)
    try:
        check_needed(results["needed"])
    except ValueError as error:
        _fail(error)


def _fail(error: Exception) -> NoReturn:
    Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
