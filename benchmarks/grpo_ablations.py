"""What each part of GRPO brings, at tiny scale: the same start, budget and seed, one setting changed.

    python -m benchmarks.grpo_ablations outputs/demo outputs/seed1 --steps 20      # pipelines with different seeds

Every variant is a run of `recipes/pipeline.sh` beside the pipeline's own GRPO, from the same model after rejection
sampling; finished ones are not repeated. The table has the figures on held-out pairs, greedy and sampled.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from recipes.results import Pipeline, describe_share, percent
from recipes.rows import compare, make_row
from verl_videosearch.report.table import Table

SCRIPT = Path(__file__).parents[1] / "recipes" / "pipeline.sh"
VARIANTS = {
    "all parts": "",
    "no exploration term": "videosearch.reward.exploration_weight=0",
    "no gain term": "videosearch.reward.gain_weight=0",
    "no dynamic sampling": "algorithm.filter_groups.enable=false",
}
COLUMNS = ("variant", "pipeline", "greedy", "search", "hit", "sampled", "search", "hit", "sampled, against all parts")


def run_variant(pipeline: Path, name: str, setting: str, steps: int) -> str:
    """Train and judge one variant, unless it is done; returns the name of its runs."""
    run = f"{name.replace(' ', '-')}-{steps}"
    wanted = [stage for stage, result in list_stages(run).items() if not (pipeline / result).exists()]
    if wanted:
        settings = f"{setting} trainer.test_freq=-1 trainer.val_before_train=false trainer.save_freq={steps}"
        environment = {"OUT": str(pipeline), "PYTHON": sys.executable, "GRPO": run, "GRPO_STEPS": str(steps)}
        environment |= {"BEST": "", "GRPO_SETTINGS": settings}  # the last checkpoint of each, none is picked
        subprocess.run(["bash", str(SCRIPT), *wanted], check=True, env={**os.environ, **environment})
    return run


def list_stages(run: str) -> dict[str, str]:
    """Return the stages of a variant and their results."""
    judged = {f"judge_{name}": f"runs/{name}/results.json" for name in (run, f"{run}-sampled")}
    return {run: f"models/{run}"} | judged


def describe(pipeline: Path, name: str, run: str, base: str) -> tuple[str, ...]:
    """Return a row of the table."""
    source = Pipeline(pipeline)
    rows = [make_row(source.read_episodes(each)) for each in (run, f"{run}-sampled")]
    test = compare(source.read_episodes(f"{run}-sampled"), source.read_episodes(f"{base}-sampled"))["accuracy"]
    cells = [cell for row in rows for cell in (describe_share(row["overall"]), *map(percent, _choices(row)))]
    against = "" if run == base else f"{100 * test['difference']:+.1f} (p {test['p_value']:.1g})"
    return (name, pipeline.name, *cells, against)


def _choices(row: dict[str, Any]) -> tuple[float | None, float | None]:
    return row["search_rate"], row["hit_rate"]


def main(
    pipelines: Annotated[list[Path], typer.Argument(help="Folders of finished pipelines, one per seed.")],
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps of each variant.")] = 20,
) -> None:
    """Train and judge every variant from every pipeline, then print the table."""
    rows = []
    for pipeline in pipelines:
        runs = {name: run_variant(pipeline, name, setting, steps) for name, setting in VARIANTS.items()}
        rows += [describe(pipeline, name, run, runs["all parts"]) for name, run in runs.items()]
    table = Table(f"GRPO, {steps} steps", COLUMNS, sorted(rows, key=lambda row: list(VARIANTS).index(row[0])))
    Console(width=200).print(table.to_markdown(), markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
