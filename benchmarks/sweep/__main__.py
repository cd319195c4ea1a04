"""Run the ablations of the method over seeds, and print them as one table.

    python -m benchmarks.sweep outputs/sweep --tier 1 --seeds 0-4 --budget-minutes 600
    python -m benchmarks.sweep outputs/sweep --tier 2 --seeds 0-2
    python -m benchmarks.sweep table --into docs/results.md    # prints it, and puts it there
    python -m benchmarks.sweep outputs/looks --keep base --seeds 0    # a pipeline run by hand

Two seeds run at once, with one thread each. Killed or out of time, the same command goes on. Each
finished row is kept as a small file in benchmarks/sweep/rows. Pairs are those of PROFILE=looks;
`--mix tiny` takes those of `make demo`. TRAIN_PAIRS, COLD_START_STEPS, GRPO_STEPS and the like are
the pipeline's, and must be the same for all rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.sweep.finished import ROWS, collect_row
from benchmarks.sweep.runner import BUDGET, Sweep
from benchmarks.sweep.table import make_memory_table, make_table
from benchmarks.sweep.variants import VARIANTS, Variant

MIXES = ("looks", "tiny")
MARKS = ("<!-- table of benchmarks.sweep -->", "<!-- end of the table -->")
"""Between them stands the table on a page."""


def read_seeds(text: str) -> list[int]:
    """Read seeds such as 0-4 or 0,2; raises `ValueError`.

    >>> read_seeds("0-2"), read_seeds("1,4")
    ([0, 1, 2], [1, 4])
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ValueError(f"got the seeds {text!r}; write them as 0-4 or 0,2")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def main(
    place: Annotated[str, typer.Argument(help="Folder of the sweep, or the word table.")],
    tier: Annotated[int, typer.Option(min=1, max=2, help="Which rows.")] = 1,
    seeds: Annotated[str, typer.Option(help="Such as 0-4.")] = "0-4",
    mix: Annotated[str, typer.Option(help="looks or tiny.")] = "looks",
    row: Annotated[
        list[str] | None, typer.Option(help="Only these rows, of any tier; repeatable.")
    ] = None,
    budget_minutes: Annotated[
        float | None, typer.Option(help="Start no row after so many minutes.")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Keep the finished pipeline in this folder as this row.")
    ] = None,
    rows: Annotated[Path, typer.Option(help="Where finished rows are kept.")] = ROWS,
    into: Annotated[
        Path | None, typer.Option(help="Page whose table between the marks is replaced.")
    ] = None,
) -> None:
    """Run the rows of a tier, or print all rows."""
    console = Console()

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    try:
        check_names([*(row or []), *([keep] if keep else [])], mix)
        if place == "table":
            text = write_tables(mix, rows)
            say(text)
            if into is not None:
                put_between_marks(into, text)
            return
        if keep:
            say(f"kept {keep_pipeline(Path(place), VARIANTS[keep], seeds, mix, rows)}")
            return
        chosen = [v for v in VARIANTS.values() if (v.name in row if row else v.tier <= tier)]
        limit_s = None if budget_minutes is None else 60 * budget_minutes
        num_failed = Sweep(Path(place), mix, chosen, read_seeds(seeds), limit_s, rows, say).run()
    except ValueError as error:
        say(f"error: {error}")
        raise typer.Exit(2) from error
    if num_failed:
        raise typer.Exit(1)


def write_tables(mix: str, rows: Path) -> str:
    """Return the rows, and what altered memories cost where that was asked."""
    memory = make_memory_table(mix, rows)
    tables = [make_table(mix, rows), *([memory] if memory.rows else [])]
    return "\n".join(table.to_markdown() for table in tables)


def put_between_marks(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page; raises `ValueError` without them."""
    whole = page.read_text("utf-8")
    before, first, rest = whole.partition(MARKS[0])
    _, last, after = rest.partition(MARKS[1])
    if not last:
        raise ValueError(f"{page} lacks the marks {MARKS[0]} and {MARKS[1]}")
    page.write_text(f"{before}{first}\n{text}{last}{after}", "utf-8")


def check_names(names: list[str], mix: str) -> None:
    """Raise `ValueError` for a row or a mix that there is not."""
    if wrong := [name for name in names if name not in VARIANTS]:
        raise ValueError(f"no row is called {wrong}; choose among {list(VARIANTS)}")
    if mix not in MIXES:
        raise ValueError(f"--mix is one of {list(MIXES)}, got {mix!r}")


def keep_pipeline(folder: Path, variant: Variant, seeds: str, mix: str, rows: Path) -> Path:
    """Keep a pipeline that was run by hand as the row of a variant; returns the file."""
    found = read_seeds(seeds)
    if len(found) != 1:
        raise ValueError(f"--keep takes the one seed of the pipeline, got {seeds!r}: --seeds 0")
    budget = {name: os.environ[name] for name in BUDGET if name in os.environ}
    settings = {"PROFILE": mix, **budget, **variant.settings}
    return collect_row(folder, variant, found[0], mix, settings).write(rows)


if __name__ == "__main__":
    typer.run(main)
