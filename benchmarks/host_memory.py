"""Resident memory of a GRPO run's processes while 200 episodes are played: is it flat?

    python -m benchmarks.host_memory --model DIR --pairs train.parquet --video-root DIR --out DIR

The one idea: what is kept per episode shows as growth. A run of the tiny recipe is watched from
outside: whenever the file of episodes has grown by another 50, the resident memory of each kind of
process is noted, beginning with the first episode. The agent loop worker holds episodes, contexts
and images; the storage unit holds the sequences of a step until they are trained.

Covers: the CPU, tiny sizes. Does not cover: pages of files that several processes share, which are
counted in each of them.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks.tiny_grpo import Model, Out, Pairs, TinyGrpo, VideoRoot
from verl_videosearch.report.table import Table

MEGABYTE = 1e6
AT_EPISODES = (1, 50, 100, 150, 200)
MAX_GROWTH = 0.05
"""Most that the agent loop worker may grow from 50 to 200 episodes, as a share."""
PROCESSES = {
    "agent loop": "AgentLoopWorker",
    "trainer": "TaskRunner",
    "storage": "SimpleStorage",
    "actor": "WorkerDict",
}
"""Our name of a kind of process, and what Ray's title of one contains."""
WATCHED = "agent loop"
POLL_S = 0.5


def main(
    model: Model,
    pairs: Pairs,
    video_root: VideoRoot,
    out: Out,
    timeout_s: Annotated[float, typer.Option(help="Most seconds of the run.")] = 1800.0,
) -> None:
    """Print megabytes at 1, 50, ... 200 episodes; status 1 where the agent loop grows."""
    grpo = TinyGrpo(model, pairs, video_root, out)
    run = grpo.start("memory", "trainer.total_training_steps=50", "trainer.save_freq=-1")
    try:
        noted = watch(psutil.Process(run.pid), grpo.episodes, timeout_s)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    columns = ("process", *(f"{number} episodes" for number in AT_EPISODES))
    rows = [(name, *(f"{noted[number][name]:.0f}" for number in AT_EPISODES)) for name in PROCESSES]
    typer.echo(Table("Resident memory, MB", columns, rows).to_markdown())
    first, last = (noted[number][WATCHED] for number in (50, 200))
    typer.echo(f"{WATCHED}: {last - first:+.1f} MB from 50 to 200 episodes")
    if last > first * (1 + MAX_GROWTH):
        raise SystemExit(1)


def watch(run: psutil.Process, episodes: Path, timeout_s: float) -> dict[int, dict[str, float]]:
    """Note megabytes by kind of process at each number of episodes; raises `SystemExit` when the
    run ends before."""
    noted: dict[int, dict[str, float]] = {}
    end = time.monotonic() + timeout_s
    while len(noted) < len(AT_EPISODES):
        if run.status() == psutil.STATUS_ZOMBIE or time.monotonic() > end:
            raise SystemExit(
                f"the run ended after {count_episodes(episodes)} episodes; see its log"
            )
        due = AT_EPISODES[len(noted)]
        if count_episodes(episodes) >= due:
            noted[due] = measure_memory(run)
            shown = ", ".join(f"{name} {value:.0f}" for name, value in noted[due].items())
            typer.echo(f"{count_episodes(episodes)} episodes: {shown} MB")
        time.sleep(POLL_S)
    return noted


def count_episodes(folder: Path) -> int:
    """Count the lines of all files of episodes."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("episodes-*.jsonl"))


def measure_memory(run: psutil.Process) -> dict[str, float]:
    """Return resident megabytes of each kind of process below a run."""
    found = dict.fromkeys(PROCESSES, 0.0)
    for process in run.children(recursive=True):
        try:
            title = " ".join(process.cmdline()) or process.name()
            memory = process.memory_info().rss / MEGABYTE
        except psutil.NoSuchProcess:
            continue
        for name, mark in PROCESSES.items():
            if mark in title:
                found[name] += memory
    return found


if __name__ == "__main__":
    typer.run(main)
