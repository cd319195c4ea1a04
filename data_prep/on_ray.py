"""Run a program's shards as Ray tasks, on as many machines as the cluster has, then once more to
put them together.

    python -m data_prep.on_ray 16 --gpus 1 -- \\
        verl_videosearch.data_prep.rejection_sampling --serve CHECKPOINT --out SHARED/rft ...

The one idea: a shard is a process of its own, `MODULE ... --shard i/n`; Ray decides where it runs,
and nothing else. With `--serve` each shard starts its own vLLM server on the GPUs that Ray gave it.
The folder of `--out`, the pairs, the videos and the checkpoint must be visible on every machine
under the same paths.

A shard that fails stops no other. Whatever was played is in the journals of the program, so the
same
command goes on: finished shards only look and leave. Exit status: that of the last run, or the
worst of the shards: 2 before 1, and 1 for a shard that was lost. Covers: programs that take
`--shard`, such as
`rejection_sampling`. Does not cover: starting a cluster (`ray start`)."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console

from verl_videosearch.extras import Extra, require
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.jobs import ExitStatus

PR_SET_PDEATHSIG = 1
_TAIL = 2000


def run_shard(command: Sequence[str], folder: str, index: int, count: int) -> tuple[int, int, str]:
    """Run one shard to its end; returns its number, exit status and the end of what it said."""
    result = subprocess.run(
        [sys.executable, "-m", *command, "--shard", f"{index}/{count}"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_end_with_parent,
        check=False,
    )
    return index, result.returncode, result.stdout.decode(errors="replace")[-_TAIL:]


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(
    shards: Annotated[int, typer.Argument(min=1, help="How many.")],
    command: Annotated[list[str], typer.Argument(help="Module and its options, after --.")],
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each shard.")] = 1.0,
    cpus: Annotated[float, typer.Option(min=0, help="Cores of each shard.")] = 4.0,
) -> None:
    """Run a program's shards on a Ray cluster ($RAY_ADDRESS, else this machine), then the program
    without --shard."""
    console = Console()
    with explain_errors():
        ray = require("ray", Extra.GPU)
    ray.init(log_to_driver=False, include_dashboard=False)
    task = ray.remote(run_shard).options(
        num_gpus=gpus, num_cpus=cpus, max_retries=0, scheduling_strategy="SPREAD"
    )
    waiting = [task.remote(command, os.getcwd(), index, shards) for index in range(shards)]
    failed: dict[str, int] = {}
    while waiting:
        [done], waiting = ray.wait(waiting)
        try:
            index, status, said = ray.get(done)
        except ray.exceptions.RayError as error:  # the machine is gone, or Ray ended the task
            failed[f"a shard was lost: {error}"] = ExitStatus.INCOMPLETE
            continue
        console.print(f"shard {index} of {shards}: exit {status}", highlight=False)
        if status not in (ExitStatus.COMPLETE, ExitStatus.TOO_MANY_FAILED):
            failed[f"shard {index} of {shards} failed (exit {status}):\n{said}"] = status
    ray.shutdown()
    if failed:
        say("\n".join([*failed, "nothing is lost: repeat the command"]))
        is_unusable = ExitStatus.UNUSABLE in failed.values()
        raise typer.Exit(int(ExitStatus.UNUSABLE if is_unusable else ExitStatus.INCOMPLETE))
    raise typer.Exit(subprocess.run([sys.executable, "-m", *command], check=False).returncode)


if __name__ == "__main__":
    typer.run(main)
