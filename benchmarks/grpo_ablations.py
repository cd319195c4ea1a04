"""What each part of GRPO brings, at tiny scale: the same start, data, seed and budget, one setting
changed.

    python -m benchmarks.grpo_ablations outputs/demo outputs/seed1      # finished pipelines with different seeds

Every variant is a run of `recipes/pipeline.sh` beside the pipeline's own GRPO, from the same model
after rejection sampling; finished ones are not repeated. Variables of the pipeline, such as
GRPO_STEPS, must be set as they were then.

The budget is the number of steps. With dynamic sampling a step goes on until its batch is full, so
the table also has how many episodes were sampled. Figures are on held-out pairs, greedy and
sampled.
"""  # noqa: E501

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from verl_videosearch.recipes.results import Pipeline
from verl_videosearch.recipes.rows import compare, make_row
from verl_videosearch.recipes.tables import describe_share, percent

from verl_videosearch.report.table import Table
from verl_videosearch.sample import read_samples

SCRIPT = Path(__file__).parents[1] / "recipes" / "pipeline.sh"
BASE = "grpo"
"""The pipeline's own run, which has all parts."""
VARIANTS = {
    BASE: "",
    "no-exploration-term": "videosearch.reward.exploration_weight=0",
    "no-gain-term": "videosearch.reward.gain_weight=0",
    "no-dynamic-sampling": "algorithm.filter_groups.enable=false",
}
"""Name of a run to the setting that makes it."""
COLUMNS = (
    "GRPO",
    "pipeline",
    "greedy",
    "search",
    "hit",
    "sampled",
    "search",
    "hit",
    "sampled, against all parts",
    "episodes",
)


def run_variant(pipeline: Path, run: str) -> None:
    """Train and judge one variant, unless it is done; raises `CalledProcessError` if a stage
    failed."""
    results = {run: f"models/{run}"}
    results |= {f"judge_{name}": f"runs/{name}/results.json" for name in (run, f"{run}-sampled")}
    if wanted := [stage for stage, result in results.items() if not (pipeline / result).exists()]:
        ours = {
            "OUT": str(pipeline),
            "PYTHON": sys.executable,
            "GRPO": run,
            "GRPO_SETTINGS": VARIANTS[run],
        }
        subprocess.run(["bash", str(SCRIPT), *wanted], check=True, env={**os.environ, **ours})


def describe(pipeline: Path, run: str) -> tuple[str, ...]:
    """Return a row of the table."""
    source = Pipeline(pipeline)
    rows = [make_row(source.read_episodes(each)) for each in (run, f"{run}-sampled")]
    cells = [
        cell for row in rows for cell in (describe_share(row["overall"]), *describe_choices(row))
    ]
    if run == BASE:
        return ("all parts", pipeline.name, *cells, "", str(count_episodes(pipeline, run)))
    test = compare(source.read_episodes(f"{run}-sampled"), source.read_episodes(f"{BASE}-sampled"))[
        "accuracy"
    ]
    against = (
        f"{100 * test['difference']:+.1f} [{100 * test['low']:+.1f}, {100 * test['high']:+.1f}]"
    )
    return (
        run.replace("-", " "),
        pipeline.name,
        *cells,
        against,
        str(count_episodes(pipeline, run)),
    )


def describe_choices(row: dict[str, Any]) -> tuple[str, str]:
    """Return how often a judge searched and how often it looked where the defect was."""
    return percent(row["search_rate"]), percent(row["hit_rate"])


def count_episodes(pipeline: Path, run: str) -> int:
    """Count the episodes that were sampled for training, also those of groups that were then left
    out."""
    trained_on = {sample.uid for sample in read_samples(pipeline / "splits" / "grpo.parquet")}
    lines = [
        line
        for path in (pipeline / "training" / run / "episodes").iterdir()
        for line in path.open()
    ]
    return sum(json.loads(line)["sample_uid"] in trained_on for line in lines)


def main(
    pipelines: Annotated[
        list[Path], typer.Argument(help="Folders of finished pipelines, one per seed.")
    ],
) -> None:
    """Train and judge every variant from every pipeline, then print the table."""
    for pipeline in pipelines:
        for run in VARIANTS:
            run_variant(pipeline, run)
    rows = [describe(pipeline, run) for run in VARIANTS for pipeline in pipelines]
    table = Table("What each part of GRPO brings", COLUMNS, rows)
    Console(width=200).print(table.to_markdown(), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
