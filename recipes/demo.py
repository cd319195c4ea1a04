"""`make demo`: train a tiny judge on this machine's CPU, for real, and show what it did.

    python -m recipes.demo [--out outputs/demo] [--steps 4]

The one idea: nothing here is a mock. Real clips from a package, degraded into labelled pairs; a randomly
initialised 1M-parameter Qwen2.5-VL; verl's SFT trainer; verl's GRPO with a real vLLM engine - the same programs and
recipes as on 8 x H100, each started as a user would start it. Every stage is skipped when its result is there, so
the demo can be killed and started again at any moment.

Weak on purpose: the model is random at the start and sees 56-pixel frames, so its verdicts are worth little. What
the demo shows is that every part works: calls, evictions, rewards, updates."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # ten processes share the cores; more threads each make all of them slower
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
FIGURES = {
    "reward": "score",
    "  format": "reward_format",
    "  accuracy": "reward_accuracy",
    "  gain": "reward_gain",
    "  exploration": "reward_exploration",
    "overall verdict right": "correct_OA",
    "episodes with a verdict": "has_verdict",
    "tool rate": "has_searched",
    "calls per episode": "num_calls",
    "turns per episode": "num_turns",
    "evictions per episode": "num_evictions",
    "sequences per episode": "num_sequences",
    "tokens per episode": "num_trained_tokens",
    "frame-store hit rate": "frame_store_hit_rate",
    "engine/trainer logprob gap": "agreement/logprob_abs_diff_mean",
}
"""Row of the table to figure in the training log (`videosearch/...`)."""
MAX_COLUMNS = 8


@dataclass(frozen=True)
class Stage:
    """One program of the demo."""

    name: str
    title: str
    arguments: list[str]
    result: Path
    """Exists when the stage is complete."""
    progress: Callable[[], str] = field(default=lambda: "")
    """Says how far a running stage is."""
    work: Path | None = None
    """Where the program writes until it is complete. None: it writes beside `result`, which then only marks the end."""
    product: str | None = None
    """Pattern of what in `work` becomes `result`, in one step; the newest match counts. None: all of it."""
    is_resumable: bool = False
    """The program goes on where it was killed; otherwise `work` is emptied first."""


def list_stages(out: Path, warm_steps: int, steps: int) -> list[Stage]:
    """Return the programs in order, each exactly what a user would type."""
    pairs, model, traces, warm, grpo = (out / name for name in ("pairs", "model", "traces", "warm", "grpo"))
    python = [sys.executable, "-m"]
    return [
        Stage(
            "pairs",
            "32 labelled pairs from real clips",
            [*python, "data_prep.degrade", "--clips", "auto", "--out", f"{pairs}.work", "--pairs", "32"],
            result=pairs,
            work=Path(f"{pairs}.work"),
        ),
        Stage(
            "model",
            "tiny Qwen2.5-VL, random weights",
            [*python, "verl_videosearch.tiny_model", f"{model}.work"],
            result=model,
            work=Path(f"{model}.work"),
        ),
        Stage(
            "traces",
            "scripted traces for the warm-up",
            [
                *[*python, "data_prep.cold_start", "--pairs", f"{pairs}/pairs.parquet", "--video-root", f"{pairs}"],
                *["--out", f"{traces}.work", "--teacher", "template", "--recipe", "videosearch_cold_start_tiny"],
            ],
            result=traces,
            work=Path(f"{traces}.work"),
        ),
        Stage(
            "warm",
            f"warm-up: {warm_steps} steps of verl's SFT trainer",
            [
                *[
                    *python,
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc_per_node=1",
                    "-m",
                    "verl.trainer.sft_trainer",
                ],
                *["+recipe=videosearch_cold_start_tiny", f"model.path={model}"],
                *[f"data.train_files={traces}/sft.parquet", f"videosearch.frames.video_root={pairs}"],
                *[f"trainer.total_training_steps={warm_steps}", f"trainer.default_local_dir={warm}.work"],
            ],
            result=warm,
            work=Path(f"{warm}.work"),
            product="global_step_*/huggingface",
            is_resumable=True,
        ),
        Stage(
            "grpo",
            f"GRPO: {steps} steps, 8 pairs x 4 episodes each",
            [
                *[*python, "verl.trainer.main_ppo", "+recipe=videosearch_grpo_tiny"],
                *[f"actor_rollout_ref.model.path={warm}", f"data.train_files={pairs}/pairs.parquet"],
                *[f"data.val_files={pairs}/pairs.parquet", f"videosearch.frames.video_root={pairs}"],
                *[f"trainer.total_training_steps={steps}", f"trainer.default_local_dir={grpo}"],
            ],
            result=grpo / "complete",
            progress=lambda: f"{len(read_steps(out))} of {steps} steps",
        ),
    ]


def run_stage(stage: Stage, out: Path, console: Console) -> float:
    """Run one program with its output in a log; returns seconds, or exits with the end of the log."""
    log = out / "logs" / f"{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ENVIRONMENT | {"VERL_FILE_LOGGER_PATH": str(out / "grpo.jsonl")}
    start = time.monotonic()
    with log.open("wb") as file, Live(console=console, refresh_per_second=4, transient=True) as live:
        process = subprocess.Popen(
            stage.arguments, stdout=file, stderr=subprocess.STDOUT, env=environment, preexec_fn=start_dependent_group
        )
        try:
            while process.poll() is None:
                seconds = int(time.monotonic() - start)
                live.update(Spinner("dots", f"{stage.title}  {seconds // 60}:{seconds % 60:02d}  {stage.progress()}"))
                time.sleep(0.25)
        finally:
            stop_group(process)
    if process.returncode:
        tail = "".join(deque(log.open(errors="replace"), maxlen=25))
        console.print(f"[red]failed[/]: {stage.title} (exit {process.returncode}). End of {log}:\n{tail}", markup=True)
        raise typer.Exit(1)
    return time.monotonic() - start


def publish_result(stage: Stage) -> None:
    """Make a finished stage's result appear in one step."""
    if stage.work is None:
        stage.result.touch()
    else:
        matches = stage.work.glob(stage.product) if stage.product else [stage.work]
        max(matches, key=lambda path: path.stat().st_mtime).rename(stage.result)


def start_dependent_group() -> None:
    """Put a program into a group of its own that ends with the demo, even when the demo is killed (Linux)."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_group(process: subprocess.Popen) -> None:
    """End a program and what it started, also after Ctrl-C."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def read_steps(out: Path) -> dict[int, dict[str, float]]:
    """Read the training logs, an interrupted run's first; returns figures by step."""
    steps: dict[int, dict[str, float]] = {}
    for path in sorted(out.glob("grpo*.jsonl"), key=lambda path: path.stat().st_mtime):
        for line in path.read_text().splitlines():
            if line.endswith("}"):
                entry = json.loads(line)
                steps[entry["step"]] = entry["data"]
    return {step: figures for step, figures in sorted(steps.items()) if "videosearch/score" in figures}


def make_table(steps: dict[int, dict[str, float]]) -> Table:
    """Show one column per training step; of a long run the first, the last and some between."""
    shown = [list(steps)[i * (len(steps) - 1) // max(MAX_COLUMNS - 1, 1)] for i in range(MAX_COLUMNS)]
    columns = {step: steps[step] for step in (shown if len(steps) > MAX_COLUMNS else steps)}
    table = Table(title="GRPO, means over the episodes of a step", title_justify="left")
    table.add_column("step", no_wrap=True)
    for step in columns:
        table.add_column(str(step), justify="right")
    for heading, name in FIGURES.items():
        table.add_row(heading, *(f"{figures[f'videosearch/{name}']:.3g}" for figures in columns.values()))
    for name in list_seen(columns.values(), "videosearch/invalid_") or ["videosearch/num_invalid_calls"]:
        heading = name.removeprefix("videosearch/").replace("_", " ")
        table.add_row(heading, *(f"{figures[name]:.2g}" for figures in columns.values()))
    table.add_row("failed groups", *(f"{figures['videosearch/failed_groups']:.0f}" for figures in columns.values()))
    table.add_row("seconds", *(f"{figures['timing_s/step']:.0f}" for figures in columns.values()))
    return table


def list_seen(steps: Iterable[dict[str, float]], prefix: str) -> list[str]:
    """Return the figures of one kind that are not zero in every step.

    >>> list_seen([{"invalid_a": 0.0, "invalid_b": 0.0}, {"invalid_a": 0.5, "invalid_b": 0.0}], "invalid_")
    ['invalid_a']
    """
    seen = (name for figures in steps for name, value in figures.items() if name.startswith(prefix) and value)
    return sorted(set(seen))


def read_episodes(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the episodes that the agent loop wrote."""
    for path in sorted(folder.glob("episodes-*.jsonl")):
        yield from map(json.loads, path.open())


def collect_episodes(out: Path) -> int:
    """Gather every episode in one file of JSON lines, in order of step; returns how many."""
    episodes = sorted(read_episodes(out / "grpo" / "episodes"), key=lambda e: (e["step"], e["group"], e["session"]))
    partial = out / ".episodes.partial"
    partial.write_text("".join(json.dumps(episode) + "\n" for episode in episodes))
    os.replace(partial, out / "episodes.jsonl")
    return len(episodes)


def main(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("outputs/demo"),
    warm_steps: Annotated[int, typer.Option(min=1, help="SFT steps of the warm-up.")] = 200,
    steps: Annotated[int, typer.Option(min=1, help="GRPO steps.")] = 4,
) -> None:
    """Train a tiny video judge on this machine's CPU and show what it did."""
    console, out = Console(), out.resolve()
    for number, stage in enumerate(stages := list_stages(out, warm_steps, steps), start=1):
        label = f"[{number}/{len(stages)}] {stage.title}"
        if stage.result.exists():
            console.print(f"{label}: done before", markup=False)
            continue
        if stage.work is not None and not stage.is_resumable:
            shutil.rmtree(stage.work, ignore_errors=True)
        seconds = run_stage(stage, out, console)
        publish_result(stage)
        console.print(f"{label}: {seconds:.0f} s", markup=False)
    console.print(make_table(read_steps(out)))
    console.print(f"{collect_episodes(out)} episodes: {out / 'episodes.jsonl'}")
    console.print("The model started from random weights: the table shows that every part works, not a good judge.")


if __name__ == "__main__":
    typer.run(main)
