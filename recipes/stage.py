"""Run one program of a pipeline, once: skipped when its result is there, resumable after a kill,
its output in a log.

    python -m recipes.stage cold_start --result models/cold_start --work training/cold_start \\
        --product 'global_step_*/huggingface' --logs logs -- python -m ... verl.trainer.sft_trainer ...

The one idea: a result appears in one step or not at all. The program writes into `--work`, and what
it leaves there is moved to `--result` when it has succeeded; so whatever exists is complete, and a
pipeline that was killed anywhere is simply started again. A program that writes its result in one
step itself needs no `--work`.

Whoever stops this program stops the one it runs, too, and everything of that one's group. Killed
hard, it still takes that one along (Linux), which then ends what it has started, as verl's trainers
and our programs do.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner

PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # ten processes share the cores; more threads each make all of them slower
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""For a machine without a GPU; `--tiny` sets it."""
TIMES = "times.jsonl"
"""In the folder of logs: one line per run of a program, also of one that failed, `{"stage": ...,
"seconds": ...}`."""


@dataclass(frozen=True)
class Stage:
    """One program and what it leaves."""

    name: str
    command: Sequence[str]
    result: Path
    """Exists when the stage is complete."""
    logs: Path
    work: Path | None = None
    """Where the program writes until it is complete. None: it makes `result` itself, in one
    step."""
    product: str | None = None
    """Pattern of what in `work` becomes `result`; of several matches the one of the highest step.
    None: all of it."""
    best: str | None = None
    """Pattern of figures of the training log: of several matches the one of the step where their
    mean is highest, of equals the later one."""

    @property
    def training_log(self) -> Path:
        """Return where verl's file logger writes."""
        return self.logs / f"{self.name}.jsonl"


class StageFailed(Exception):
    """The program failed, or left no result; the text is for the user."""


def run_program(stage: Stage, environment: dict[str, str], console: Console) -> None:
    """Run the program with its output in a log; raises `StageFailed` with the end of the log."""
    log, start = stage.logs / f"{stage.name}.log", time.monotonic()
    variables = os.environ | environment | {"VERL_FILE_LOGGER_PATH": str(stage.training_log)}
    if not console.is_terminal:  # a terminal shows the seconds and the step instead
        console.print(
            f"{stage.name}: started, log {log}", markup=False, highlight=False, soft_wrap=True
        )
    with log.open("ab") as file:
        process = subprocess.Popen(
            stage.command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=variables,
            preexec_fn=start_dependent_group,
        )
    try:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            while process.poll() is None:
                seconds = int(time.monotonic() - start)
                live.update(
                    Spinner(
                        "dots",
                        f"{stage.name}  {seconds // 60}:{seconds % 60:02d}  {tell_step(stage)}",
                    )
                )
                time.sleep(0.25)
    finally:
        stop_group(process)
    if process.returncode:
        remove(stage.result)  # `videosearch eval` writes one although some episodes have failed
        tail = "".join(deque(log.open(errors="replace"), maxlen=25))
        raise StageFailed(f"{stage.name} failed (exit {process.returncode}). End of {log}:\n{tail}")


def forget(stage: Stage) -> None:
    """Remove what a stage has left, so that it starts from nothing."""
    training_logs = stage.logs.glob(f"{stage.name}.*jsonl")  # earlier tries have NAME.DATE.jsonl
    for path in filter(None, (stage.result, stage.work, *training_logs)):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish_result(stage: Stage) -> None:
    """Make a finished stage's result appear in one step; raises `StageFailed` if there is none."""
    work = stage.work or stage.result
    matches = list(work.glob(stage.product)) if stage.product else [work] * work.exists()
    if not matches:
        missing = work / stage.product if stage.product else work
        raise StageFailed(
            f"{stage.name} ended without {missing}; see {stage.logs / stage.name}.log"
        )
    stage.result.parent.mkdir(parents=True, exist_ok=True)
    choose_product(stage, matches).rename(stage.result)


def choose_product(stage: Stage, matches: Sequence[Path]) -> Path:
    """Return the last product of a training, or the best one by its log; raises `StageFailed` if
    the log has none."""
    if not stage.best:
        return max(matches, key=find_step)
    figures = read_figures(stage, stage.best)
    known = [path for path in matches if find_step(path) in figures]
    if not known:
        steps = sorted(map(find_step, matches))
        raise StageFailed(
            f"{stage.training_log} has no figure {stage.best!r} for any of the steps {steps}"
        )
    return max(known, key=lambda path: (figures[find_step(path)], find_step(path)))


def read_figures(stage: Stage, pattern: str) -> dict[int, float]:
    """Return, by step, the mean of the figures whose names match, from the logs of all tries."""
    figures: dict[int, float] = {}
    logs = stage.logs.glob(f"{stage.name}.*jsonl")  # earlier tries have NAME.DATE.jsonl
    for path in sorted(logs, key=lambda path: path.stat().st_mtime):
        for line in path.read_text("utf-8").splitlines():
            if line.endswith("}"):
                entry = json.loads(line)
                if found := [
                    value for name, value in entry["data"].items() if fnmatchcase(name, pattern)
                ]:
                    figures[entry["step"]] = sum(found) / len(found)
    return figures


def find_step(path: Path) -> int:
    """Return the training step that a path names.

    >>> find_step(Path("grpo/global_step_40/actor/huggingface"))
    40
    """
    found = re.findall(r"global_step_(\d+)", str(path))
    return int(found[-1]) if found else 0


def tell_step(stage: Stage) -> str:
    """Say how far a training is, and of how much, where the command says it."""
    if not stage.training_log.exists():
        return ""
    last = deque(stage.training_log.open(errors="replace"), maxlen=1)
    found = re.match(r'\{"step": ?(\d+)', last[0]) if last else None
    total = [
        word.partition("=")[2]
        for word in stage.command
        if word.startswith("trainer.total_training_steps=")
    ]
    return f"step {' of '.join([found[1], *total])}" if found else ""


def start_dependent_group() -> None:
    """Put a program into a group of its own that ends with this one, even when this one is killed
    (Linux)."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_group(process: subprocess.Popen) -> None:
    """End a program, also after Ctrl-C, and what is left of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def main(
    name: Annotated[str, typer.Argument(help="Of the stage; its log is LOGS/NAME.log.")],
    command: Annotated[list[str], typer.Argument(help="The program, after --.")],
    result: Annotated[Path, typer.Option(help="Exists when the stage is complete.")],
    logs: Annotated[Path, typer.Option(help="Folder of the logs.")],
    work: Annotated[
        Path | None, typer.Option(help="Where the program writes until it is complete.")
    ] = None,
    product: Annotated[
        str | None, typer.Option(help="Pattern of what in --work becomes the result.")
    ] = None,
    best: Annotated[
        str | None, typer.Option(help="Figures of the training log: take the best product.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Forget the result and the work of before.")
    ] = False,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Set what a machine without a GPU needs.")
    ] = False,
) -> None:
    """Run one program of a pipeline, once."""
    console = Console()
    stage = Stage(name, command, result, logs, work, product, best)
    if again:
        forget(stage)
    if result.exists():
        console.print(f"{name}: done before", markup=False, highlight=False)
        return
    logs.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        run_program(stage, ENVIRONMENT if tiny else {}, console)
        publish_result(stage)
    except StageFailed as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    finally:
        seconds = time.monotonic() - start
        with (logs / TIMES).open("a") as file:
            file.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    console.print(f"{name}: {seconds:.0f} s", markup=False, highlight=False)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    typer.run(main)
