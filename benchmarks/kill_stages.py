"""SIGKILL every stage of a finished pipeline in the middle, start the pipeline again, and see what
is different.

    OUT=outputs/small TRAIN_PAIRS=200 TEST_PAIRS=20 COLD_START_STEPS=600 RFT_STEPS=2 GRPO_STEPS=2 \\
        PARTS=cold_start=.6,rft=.15,grpo=.2,validation=.05 recipes/pipeline.sh
    (the same variables) python -m benchmarks.kill_stages outputs/small

A stage is run again from nothing (`pipeline.sh STAGE`) and killed, with everything that it has
started, after half of the time that it took the first time. Then the whole pipeline is started:
only that stage may go on, and its files must be those of before. So every stage is tried with the
same input. The table has how long the rest took, beside the first run, and which files are
different.

Files: all of the pipeline's folder but logs, checkpoints, journals (their lines are in the order of
arrival), times and the report, which has the minutes of all tries. Some files name the commit that
made them: try with the one of the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.console import Console
from verl_videosearch.recipes.stage import TIMES

from verl_videosearch.report.table import Table

ROOT = Path(__file__).parents[1]
FOLDERS_LEFT_OUT = {"logs", "training", "results.json", "results.md", "index.html"}
FILES_LEFT_OUT = {
    "journal.jsonl",
    "episodes.jsonl",  # its records say how long each took
    "server.log",
    "timing.json",
    ".lock",
}
COLUMNS = ("stage", "first run, s", "killed after, s", "rest, s", "run again", "different files")


@dataclass(frozen=True)
class Trial:
    """What killing one stage led to."""

    stage: str
    first_s: float
    killed_s: float | None
    """None: it ended before."""
    rest_s: float
    run_again: list[str]
    """The stages that ran after the kill."""
    different: list[str]

    @property
    def row(self) -> tuple[str, ...]:
        killed = "ended before" if self.killed_s is None else f"{self.killed_s:.1f}"
        files = ", ".join(self.different[:3]) + (
            f" and {n} more" if (n := len(self.different) - 3) > 0 else ""
        )
        return (
            self.stage,
            f"{self.first_s:.1f}",
            killed,
            f"{self.rest_s:.1f}",
            ", ".join(self.run_again),
            files,
        )


def start_pipeline(out: Path, *stages: str, **settings: str) -> subprocess.Popen:
    """Start the pipeline with the variables of this process and more."""
    variables = os.environ | settings | {"OUT": str(out), "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "recipes" / "pipeline.sh"), *stages]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        cwd=ROOT,
    )


def kill_all(process: subprocess.Popen) -> str:
    """SIGKILL a program and all that it has started, as if the machine had stopped; returns what it
    had said."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for signal in (
        psutil.Process.suspend,
        psutil.Process.kill,
    ):  # nobody may react to the death of another
        for member in family:
            with suppress(psutil.NoSuchProcess):
                signal(member)
    return process.communicate()[0]


def try_stage(out: Path, stage: str, first_s: float) -> Trial:
    """Kill one stage and go on; raises `RuntimeError` if the pipeline fails then."""
    before = dict(hash_files(out))
    process, start = start_pipeline(out, stage), time.monotonic()
    while process.poll() is None and time.monotonic() - start < first_s / 2:
        time.sleep(0.05)
    killed_s = time.monotonic() - start if process.poll() is None else None
    if killed_s is not None:
        kill_all(process)
    process, start = start_pipeline(out), time.monotonic()
    said, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the pipeline failed after {stage} was killed:\n{said}")
    run_again = [line.partition(":")[0] for line in said.splitlines() if ": started, " in line]
    rest_s = sum(seconds for name, seconds in read_times(out)[-1:] if name in run_again)
    after = dict(hash_files(out))
    different = sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )
    return Trial(stage, first_s, killed_s, rest_s, run_again, different)


def hash_files(out: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and a hash of every file that a rerun must bring back."""
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if (
            path.is_file()
            and name.parts[0] not in FOLDERS_LEFT_OUT
            and name.name not in FILES_LEFT_OUT
        ):
            yield str(name), blake2b(path.read_bytes()).digest()


def read_times(out: Path) -> list[tuple[str, float]]:
    lines = (out / "logs" / TIMES).read_text("utf-8").splitlines()
    return [(line["stage"], line["seconds"]) for line in map(json.loads, lines)]


def main(
    out: Annotated[Path, typer.Argument(help="Folder of a finished pipeline.")],
    stages: Annotated[list[str] | None, typer.Argument(help="Stages to kill; all without.")] = None,
) -> None:
    """Kill every stage of a pipeline once and print what came of it."""
    first = dict(reversed(read_times(out)))  # of several runs the first
    trials = []
    for number, stage in enumerate(stages or reversed(first), start=1):
        trials.append(try_stage(out, stage, first[stage]))
        print(number, *trials[-1].row, sep=" | ", file=sys.stderr, flush=True)
    table = Table("SIGKILL", COLUMNS, [trial.row for trial in trials])
    Console(width=200).print(table.to_markdown(), markup=False, highlight=False, soft_wrap=True)
    if any(trial.run_again not in ([trial.stage], []) for trial in trials):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
