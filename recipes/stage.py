"""Run one program of a pipeline, once: skipped when its result is there, resumable after a kill,
its output in a log.

    python -m verl_videosearch.recipes.stage cold_start --result models/cold_start \\
        --work training/cold_start --product 'global_step_*/huggingface' --logs logs \\
        -- python -m ... verl.trainer.sft_trainer ...

The one idea: a result is published in one step, and only when its program ended with status 0, a
training also at its last step. The program writes into `--work`, and what it leaves there is moved
to `--result`. Where it writes the result itself, a mark in the folder of logs, `NAME.unfinished`,
says until it has ended well that whatever stands at `--result` is not published yet. So a pipeline
that was killed anywhere is simply started again, and no result is ever deleted: a partial one stays
where the program left it, and `--again` puts the old one aside until the new one is there.

| status of the program | stage |
|---|---|
| 0 | published |
| 1 | incomplete: what is done is kept, the same command goes on |
| 2 | wrong use, or a server that cannot work: mend it; the same command goes on |
| 3 | complete, but too many pairs cannot be judged: kept and named, not published |

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
from collections.abc import Callable, Mapping, Sequence
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
    # ten processes share the cores; more threads each make all of them slower
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""For a machine without a GPU; `--tiny` sets it."""
TIMES = "times.jsonl"
"""In the folder of logs: one line per run of a program, also of one that failed, `{"stage": ...,
"seconds": ...}`."""
TRACKER = "latest_checkpointed_iteration.txt"
"""verl writes it beside its checkpoints: the last step that is complete."""
TOTAL = "total_training_steps.txt"
"""Our hooks write it there: the step with which the training ends."""
MEANINGS = {
    1: "is incomplete: some of it failed for passing reasons, or it was stopped. What is done is "
    "kept; the same command goes on",
    2: "was refused: it is called wrongly, or its server cannot work. Nothing is lost; mend what "
    "the log says, then the same command goes on",
    3: "is complete, but more pairs than --max-failed-share cannot be judged. The result is kept "
    "and not published; the log names the files and the option that accepts this share",
}
"""What the statuses of our own programs mean."""


@dataclass(frozen=True)
class Stage:
    """One program and what it leaves."""

    name: str
    command: Sequence[str]
    result: Path
    """Is there, without the mark, when the stage is complete."""
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

    @property
    def mark(self) -> Path:
        """Return the file that is there while the result is not published."""
        return self.logs / f"{self.name}.unfinished"

    @property
    def previous(self) -> Path:
        """Return where `--again` keeps the result of before."""
        return self.logs / f"{self.name}.previous"

    @property
    def is_made_in_place(self) -> bool:
        """True when the program itself writes to where the result is published."""
        return self.work is None or self.work in (self.result, *self.result.parents)

    @property
    def is_published(self) -> bool:
        return self.result.exists() and not (self.is_made_in_place and self.mark.exists())

    @property
    def is_ours(self) -> bool:
        """True when the program is one of this package, whose exit status has a meaning."""
        return any(word.startswith("verl_videosearch.") for word in self.command)


class StageFailed(Exception):
    """The program failed, or left no result; the text is for the user."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
        """With which the stage ends."""


def run_program(stage: Stage, environment: dict[str, str], console: Console) -> None:
    """Run the program with its output in a log; raises `StageFailed` with the end of the log."""
    log, start = stage.logs / f"{stage.name}.log", time.monotonic()
    variables = os.environ | environment | {"VERL_FILE_LOGGER_PATH": str(stage.training_log)}
    if not console.is_terminal:  # a terminal shows the seconds and the step instead
        say(console, f"{stage.name}: started, log {log}")
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
        raise explain_failure(stage, process.returncode)


def explain_failure(stage: Stage, status: int) -> StageFailed:
    """Say what a status means, where partial work lies, and how the log ends."""
    is_known = stage.is_ours and status in MEANINGS
    log = stage.logs / f"{stage.name}.log"
    kept = stage.work if stage.work and stage.work.exists() else stage.result
    meaning = MEANINGS[status] if is_known else "failed"
    kept_text = f"; kept in {kept}" if kept.exists() else ""
    with log.open(errors="replace") as lines:
        tail = "".join(deque(lines, maxlen=25))
    text = f"{stage.name} {meaning} (exit {status}){kept_text}. End of {log}:\n{tail}"
    return StageFailed(text, status if is_known else 1)


def forget(stage: Stage) -> None:
    """Remove what a stage has left, so that it starts from nothing; a published result is put aside
    until the new one is there."""
    stage.logs.mkdir(parents=True, exist_ok=True)
    if stage.is_published:
        remove(stage.previous)
        shutil.move(stage.result, stage.previous)
    training_logs = stage.logs.glob(f"{stage.name}.*jsonl")  # earlier tries have NAME.DATE.jsonl
    for path in filter(None, (stage.result, stage.work, *training_logs)):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def has_finished_training(stage: Stage) -> bool:
    """True when all steps that the command asks for are done: a trainer that is started once more
    would train one step more (verl 0.9.1, SFT)."""
    total = find_asked_steps(stage)
    return total is not None and read_number(stage, TRACKER) >= total


def check_all_steps(stage: Stage) -> None:
    """Raise `StageFailed` when a training has ended well before its last step: its newest
    checkpoint is no result."""
    done, total = read_number(stage, TRACKER), find_total_steps(stage)
    if done < total:
        raise StageFailed(
            f"{stage.name} ended at step {done} of {total}: not published, kept in {stage.work}. "
            "The same command goes on; if it ends there again, raise trainer.total_epochs, which "
            "ends a training before trainer.total_training_steps"
        )


def find_total_steps(stage: Stage) -> int:
    """Return the step with which the training ends: what the command asks for, else what the
    trainer has noted; 0 for a program that is no training."""
    return find_asked_steps(stage) or read_number(stage, TOTAL)


def find_asked_steps(stage: Stage) -> int | None:
    """Return how many training steps the command asks for, None where it does not say.

    >>> find_asked_steps(Stage("a", ["trainer.total_training_steps=40"], Path("a"), Path("b")))
    40
    """
    for word in reversed(stage.command):
        name, _, value = word.partition("=")
        if name.lstrip("+") == "trainer.total_training_steps" and value.isdecimal():
            return int(value)
    return None


def read_number(stage: Stage, name: str) -> int:
    """Return the number in a file of the work, 0 where there is none yet."""
    path = stage.work / name if stage.work else None
    text = path.read_text("utf-8").strip() if path and path.is_file() else ""
    return int(text) if text.isdecimal() else 0


def publish_result(stage: Stage, say: Callable[[str], None] = lambda text: None) -> None:
    """Make a finished stage's result appear in one step; raises `StageFailed` if there is none."""
    work = stage.work or stage.result
    matches = list(work.glob(stage.product)) if stage.product else [work] * work.exists()
    if not matches:
        missing = work / stage.product if stage.product else work
        raise StageFailed(
            f"{stage.name} ended without {missing}; see {stage.logs / stage.name}.log"
        )
    stage.result.parent.mkdir(parents=True, exist_ok=True)
    product = choose_product(stage, matches, say)
    if product != stage.result:
        product.rename(stage.result)
    stage.mark.unlink(missing_ok=True)
    remove(stage.previous)


def choose_product(stage: Stage, matches: Sequence[Path], say: Callable[[str], None]) -> Path:
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
    best = max(known, key=lambda path: (figures[find_step(path)], find_step(path)))
    say(describe_choice(stage, find_step(best), sorted(map(find_step, known)), figures))
    return best


def describe_choice(
    stage: Stage, best: int, known: Sequence[int], figures: Mapping[int, float]
) -> str:
    """Say which step was chosen out of which, and which validated ones are gone."""
    shown = ", ".join(f"{step} ({figures[step]:.4f})" for step in known)
    gone = sorted(step for step in figures if step > 0 and step not in known)
    lost = f"; validated, but their checkpoints are gone: {gone}" if gone else ""
    return f"{stage.name}: step {best} is the best by {stage.best} of {shown}{lost}"


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
    """Say how far a training is, and of how much, where that is known."""
    if not stage.training_log.exists():
        return ""
    with stage.training_log.open(errors="replace") as lines:
        last = deque(lines, maxlen=1)
    found = re.match(r'\{"step": ?(\d+)', last[0]) if last else None
    total = find_total_steps(stage)
    of_total = f" of {total}" if total else ""
    return f"step {found[1]}{of_total}" if found else ""


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
    if stage.is_published:
        say(console, f"{name}: done before")
        return
    logs.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        run_stage(stage, ENVIRONMENT if tiny else {}, console)
    except StageFailed as error:
        say(console, f"error: {error}")
        if stage.previous.exists():
            say(console, f"the result of before is kept in {stage.previous}")
        raise typer.Exit(error.status) from error
    finally:
        seconds = time.monotonic() - start
        with (logs / TIMES).open("a") as file:
            file.write(json.dumps({"stage": name, "seconds": round(seconds, 1)}) + "\n")
    say(console, f"{name}: {seconds:.0f} s")


def run_stage(stage: Stage, environment: dict[str, str], console: Console) -> None:
    """Run the program, unless its training is finished already, and publish what it made; raises
    `StageFailed`."""
    stage.mark.touch()
    if has_finished_training(stage):
        total = find_asked_steps(stage)
        say(console, f"{stage.name}: all {total} steps were trained before; publishing them")
    else:
        run_program(stage, environment, console)
        check_all_steps(stage)
    publish_result(stage, lambda text: say(console, text))


def say(console: Console, text: str) -> None:
    """Print one line as it is."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    typer.run(main)
