"""Run one program of a pipeline, once: skipped when its result is there, resumable after a kill, its output in a log.

    python -m recipes.stage cold_start --result models/cold_start --work training/cold_start \\
        --product 'global_step_*/huggingface' --steps 1600 --logs logs -- python -m ... verl.trainer.sft_trainer ...

The one idea: a result appears in one step or not at all. The program writes into `--work`, and what it leaves there is
moved to `--result` when it has succeeded; so whatever exists is complete, and a pipeline that was killed anywhere is
simply started again. A program that writes its result in one step itself needs no `--work`.

Whoever stops this program stops the one it runs, too, and everything that one has started (Linux).
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
from dataclasses import dataclass
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
"""In the folder of logs: one line per program that was run, `{"stage": ..., "seconds": ...}`."""


@dataclass(frozen=True)
class Stage:
    """One program and what it leaves."""

    name: str
    command: Sequence[str]
    result: Path
    """Exists when the stage is complete."""
    logs: Path
    work: Path | None = None
    """Where the program writes until it is complete. None: it makes `result` itself, in one step."""
    product: str | None = None
    """Pattern of what in `work` becomes `result`; of several matches the one of the highest step. None: all of it."""
    steps: int | None = None
    """Training steps, to say how far it is."""

    @property
    def training_log(self) -> Path:
        """Return where verl's file logger writes."""
        return self.logs / f"{self.name}.jsonl"


def run_stage(stage: Stage, environment: dict[str, str], console: Console) -> float:
    """Run the program with its output in a log; returns seconds, or exits with the end of the log."""
    stage.logs.mkdir(parents=True, exist_ok=True)
    log, start = stage.logs / f"{stage.name}.log", time.monotonic()
    variables = os.environ | environment | {"VERL_FILE_LOGGER_PATH": str(stage.training_log)}
    with log.open("ab") as file, Live(console=console, refresh_per_second=4, transient=True) as live:
        process = subprocess.Popen(
            stage.command, stdout=file, stderr=subprocess.STDOUT, env=variables, preexec_fn=start_dependent_group
        )
        try:
            while process.poll() is None:
                seconds = int(time.monotonic() - start)
                live.update(Spinner("dots", f"{stage.name}  {seconds // 60}:{seconds % 60:02d}  {tell_step(stage)}"))
                time.sleep(0.25)
        finally:
            stop_group(process)
    if process.returncode:
        tail = "".join(deque(log.open(errors="replace"), maxlen=25))
        console.print(f"{stage.name} failed (exit {process.returncode}). End of {log}:\n{tail}", markup=False)
        raise typer.Exit(1)
    return time.monotonic() - start


def forget(stage: Stage) -> None:
    """Remove what a stage has left, so that it starts from nothing."""
    for path in filter(None, (stage.result, stage.work)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def publish_result(stage: Stage) -> None:
    """Make a finished stage's result appear in one step."""
    if stage.work is not None:
        matches = list(stage.work.glob(stage.product)) if stage.product else [stage.work]
        if not matches:
            raise ValueError(f"{stage.name} ended without {stage.product!r} in {stage.work}")
        stage.result.parent.mkdir(parents=True, exist_ok=True)
        max(matches, key=find_step).rename(stage.result)
    elif not stage.result.exists():
        raise ValueError(f"{stage.name} ended without {stage.result}")


def find_step(path: Path) -> int:
    """Return the training step that a path names.

    >>> find_step(Path("grpo/global_step_40/actor/huggingface"))
    40
    """
    found = re.findall(r"global_step_(\d+)", str(path))
    return int(found[-1]) if found else 0


def tell_step(stage: Stage) -> str:
    """Say how far a training is."""
    if stage.steps is None or not stage.training_log.exists():
        return ""
    last = deque(stage.training_log.open(errors="replace"), maxlen=1)
    found = re.match(r'\{"step": ?(\d+)', last[0]) if last else None
    return f"step {found[1]} of {stage.steps}" if found else ""


def start_dependent_group() -> None:
    """Put a program into a group of its own that ends with this one, even when this one is killed (Linux)."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_group(process: subprocess.Popen) -> None:
    """End a program and what it started, also after Ctrl-C."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main(
    name: Annotated[str, typer.Argument(help="Of the stage; its log is LOGS/NAME.log.")],
    command: Annotated[list[str], typer.Argument(help="The program, after --.")],
    result: Annotated[Path, typer.Option(help="Exists when the stage is complete.")],
    logs: Annotated[Path, typer.Option(help="Folder of the logs.")],
    work: Annotated[Path | None, typer.Option(help="Where the program writes until it is complete.")] = None,
    product: Annotated[str | None, typer.Option(help="Pattern of what in --work becomes the result.")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, for the progress line.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Forget the result and the work of before.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="Set what a machine without a GPU needs.")] = False,
) -> None:
    """Run one program of a pipeline, once."""
    console = Console()
    stage = Stage(name, command, result, logs, work, product, steps)
    if again:
        forget(stage)
    if result.exists():
        console.print(f"{name}: done before", markup=False, highlight=False)
        return
    seconds = run_stage(stage, ENVIRONMENT if tiny else {}, console)
    try:
        publish_result(stage)
    except ValueError as error:
        console.print(f"error: {error}; see {logs / name}.log", markup=False)
        raise typer.Exit(1) from error
    with (logs / TIMES).open("a") as file:
        file.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    console.print(f"{name}: {seconds:.0f} s", markup=False, highlight=False)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    typer.run(main)
