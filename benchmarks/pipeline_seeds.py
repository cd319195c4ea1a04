"""How much a pipeline's figures depend on its seed: finished pipelines side by side.

    for seed in 0 1 2; do SEED=$seed OUT=outputs/seed$seed recipes/pipeline.sh; done
    python -m benchmarks.pipeline_seeds outputs/seed0 outputs/seed1 outputs/seed2

Each seed has other pairs, other first weights, other traces and other samples. Figures are those of
`results.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer
from rich.console import Console
from verl_videosearch.recipes.tables import HEADINGS

from verl_videosearch.report.table import Table

SHARES = ("overall", "search_rate", "hit_rate")
JUDGES = {
    "stages": ("cold_start", "rft", "grpo"),
    "sampled": ("cold_start", "rft", "grpo"),
    "controls": ("random_frames", "blank_frames"),
}
MODES = {"stages": "greedy", "sampled": "sampled", "controls": "greedy"}


def list_figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield name and value, in per cent, of each figure of one pipeline."""
    for part, names in JUDGES.items():
        for name in names:
            row = results[part][name]
            for figure in SHARES if part != "controls" else SHARES[:1]:
                value = row[figure]["accuracy"] if figure == "overall" else row[figure]
                kind = "right" if figure == "overall" else figure.replace("_", " ")
                yield f"{HEADINGS[name]}, {MODES[part]}: {kind}", 100 * value


def describe_spread(values: Sequence[float]) -> tuple[str, ...]:
    """Write the values, their mean and their sample standard deviation.

    >>> describe_spread([90.0, 94.0, 95.0])
    ('90.0', '94.0', '95.0', '93.0', '2.6')
    """
    return (*(f"{value:.1f}" for value in values), f"{mean(values):.1f}", f"{stdev(values):.1f}")


def main(
    pipelines: Annotated[
        list[Path], typer.Argument(help="Folders of finished pipelines, two or more.")
    ],
) -> None:
    """Print the figures of all pipelines beside each other."""
    if len(pipelines) < 2:
        raise typer.BadParameter(f"a spread needs two pipelines or more, got {len(pipelines)}")
    each = [
        dict(list_figures(json.loads((folder / "results.json").read_text("utf-8"))))
        for folder in pipelines
    ]
    rows = [(name, *describe_spread([figures[name] for figures in each])) for name in each[0]]
    columns = ("judge", *(folder.name for folder in pipelines), "mean", "sd")
    Console().print(
        Table("Seeds", columns, rows).to_markdown(), markup=False, highlight=False, soft_wrap=True
    )


if __name__ == "__main__":
    typer.run(main)
