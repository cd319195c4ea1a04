"""Make SFT rows of played episodes of any kind: RL rollouts, traces, samples, evaluations.

    python -m data_prep.sft_rows runs/a/episodes.jsonl training/grpo/episodes/*.jsonl \\
        --out sft.parquet                                  # right and well-formed ones only
    python -m data_prep.sft_rows ... --filter labelled --keep 2

The one idea: an `EpisodeRecord` holds all that a row needs, whoever played it; the filter and the
choice among several episodes of one input are those of cold start and rejection sampling.

Covers: files of records. Does not cover: playing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from verl_videosearch.data_prep.traces.selection import (
    Choice,
    Selection,
    SelectionConfig,
    find_shortfall,
    select,
)
from verl_videosearch.data_prep.traces.sft_rows import make_sft_row, write_sft_rows
from verl_videosearch.data_prep.traces.trace_filter import Filter, Trace, filter_records
from verl_videosearch.data_prep.traces.trace_report import tabulate_reasons, tabulate_yields

from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.record_file import read_records


@dataclass(frozen=True)
class RowsRun:
    """What `make_rows` has done."""

    traces: tuple[Trace, ...]
    selection: Selection
    num_failed: int
    """Records without a result, left out."""
    damaged: tuple[str, ...]
    """Lines that cannot be read, left out."""


def make_rows(
    files: Sequence[Path],
    out: Path,
    config: SelectionConfig | None = None,
    stages: Filter = Filter.CORRECT,
) -> RowsRun:
    """Filter and choose the episodes of some files, and write them as SFT rows to `out`; raises
    `ValueError` when none is left."""
    config = config or SelectionConfig()
    read = [read_records(file) for file in files]
    records = [record for file in read for record in file.records]
    damaged = [line for file in read for line in file.damaged]
    finished = [record for record in records if record.has_result]
    traces = filter_records(finished, stages)
    selection = select(traces, config)
    if selection.taken:
        write_sft_rows(out, [make_sft_row(trace.record) for trace in selection.taken])
    return RowsRun(tuple(traces), selection, len(records) - len(finished), tuple(damaged))


def main(
    files: Annotated[list[Path], typer.Argument(help="Files of episodes (*.jsonl).")],
    out: Annotated[Path, typer.Option(help="Parquet file to write.")],
    stages: Annotated[
        Filter, typer.Option("--filter", help="well_formed keeps wrong answers.")
    ] = Filter.CORRECT,
    keep: Annotated[int, typer.Option(help="Most traces per input.")] = SelectionConfig.keep,
    choose: Annotated[
        Choice, typer.Option(help="Which right ones: shortest is within equal numbers of turns.")
    ] = SelectionConfig.choice,
    target: Annotated[int | None, typer.Option(help="Most traces in all.")] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
) -> None:
    """Make SFT rows of played episodes."""
    console = Console()
    with explain_errors():
        config = SelectionConfig(keep, target, choice=choose, seed=seed)
        run = make_rows(files, out, config, stages)
        if run.traces:
            console.print(tabulate_yields(run.traces))
            console.print(tabulate_reasons(run.traces, ()))
        if run.damaged:
            say(f"{len(run.damaged)} lines cannot be read, the first one: {run.damaged[0]}")
        if run.num_failed:
            say(f"{run.num_failed} episodes have no result and are left out")
        if shortfall := find_shortfall(run.selection, config):
            say(shortfall)
        if not run.selection.taken:
            raise ValueError(
                f"none of {len(run.traces)} episodes is taken by --filter {stages.value}; nothing "
                "was written"
            )
    say(f"{len(run.selection.taken)} rows in {out}")


if __name__ == "__main__":
    typer.run(main)
