"""Serve a checkpoint with vLLM beside a program: one server, or one for each GPU.

    with serve_replicas(Path("checkpoints/warm"), "judge", Path("server.log")) as replicas:
        for replica in replicas:
            await replica.wait_until_ready()
        ...                                       # replicas[0].url: http://127.0.0.1:PORT/v1

The one idea: each replica is a `Replica` on GPUs of its own; all start at once, and each is kept
running until the block ends.

Covers: one model on this machine. Does not cover: what is run (`serve`), how a process is kept
running (`replica`), servers of other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from verl_videosearch.checkpoint import explain_no_model
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.models.replica import Replica, RestartPolicy
from verl_videosearch.models.server import find_ports


@contextmanager
def serve_replicas(
    checkpoint: Path,
    model: str,
    log: Path,
    options: Sequence[str] = (),
    num_replicas: int = 1,
    policy: RestartPolicy | None = None,
) -> Iterator[list[Replica]]:
    """Start servers of a checkpoint on free ports, each on GPUs of its own where there are any;
    yields them at once, before they are healthy.

    `options` are further ones of `vllm serve`. The output of the first goes to `log`, that of the
    others beside it (`server-1.log`). Raises `ServerUnusable` for a folder that is no model."""
    if not (checkpoint / "config.json").is_file():
        raise ServerUnusable(explain_no_model(checkpoint))
    module = [sys.executable, "-m", "verl_videosearch.models.serve", str(checkpoint)]
    logs = [log] + [log.with_stem(f"{log.stem}-{index}") for index in range(1, num_replicas)]
    gpus = share_gpus(list_gpus(), num_replicas)
    replicas = []
    for port, each_log, own_gpus in zip(find_ports(num_replicas), logs, gpus, strict=True):
        command = [*module, f"--port={port}", "--served-model-name", model, *options]
        chosen = {"CUDA_VISIBLE_DEVICES": ",".join(own_gpus)} if own_gpus else None
        replicas.append(Replica(command, port, each_log, chosen, policy))
    try:
        for replica in replicas:
            replica.start()
        yield replicas
    finally:
        close_all(replicas)


def close_all(replicas: Sequence[Replica]) -> None:
    """End all servers side by side."""
    for replica in replicas:
        replica.end()
    for replica in replicas:
        replica.close()


def list_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [each.strip() for each in chosen.split(",") if each.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no driver, no GPU
        return []
    return listed.stdout.split()


def share_gpus(gpus: Sequence[str], num_replicas: int) -> list[list[str]]:
    """Give each replica as many GPUs as the others, in order; without a GPU, none.

    >>> share_gpus(["0", "1", "2", "3", "4"], 2), share_gpus([], 2)
    ([['0', '1'], ['2', '3']], [[], []])
    """
    if gpus and num_replicas > len(gpus):
        raise ValueError(
            f"{num_replicas} replicas need as many GPUs, here are {len(gpus)}; "
            f"give --replicas {len(gpus)}"
        )
    size = len(gpus) // num_replicas
    return [list(gpus[index * size : (index + 1) * size]) for index in range(num_replicas)]


def count_replicas(options: Sequence[str], gpus: Sequence[str] | None = None) -> int:
    """Return how many servers the GPUs hold; options that spread one over several are respected.

    >>> count_replicas(["--tensor-parallel-size=2"], ["0", "1", "2", "3"]), count_replicas([], [])
    (2, 1)
    """
    size = 1
    for names in (
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        ("--data-parallel-size", "-dp"),
    ):
        size *= _read_count(options, names)
    return max(len(list_gpus() if gpus is None else gpus) // size, 1)


def _read_count(options: Sequence[str], names: Sequence[str]) -> int:
    """Return the number given to an option as `--name=2`, `--name 2` or (one word) `--name 2`."""
    words = [word for option in options for word in option.replace("=", " ").split()]
    for name, value in zip(words, words[1:], strict=False):
        if name in names and value.isdecimal():
            return max(int(value), 1)
    return 1
