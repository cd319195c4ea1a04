"""Start a model server beside a program, and end it with the program.

    with serve_checkpoint(Path("checkpoints/warm"), model="judge", log=Path("server.log")) as url:
        ...                                       # url: http://127.0.0.1:PORT/v1, healthy

The one idea: the server never outlives its user: it ends with the block, with an error, and (on
Linux) when the program is killed. A server that does not come up is one error with the end of its
log.

Covers: one server, or several replicas of one model, on this machine. Does not cover: what it runs
(`serve`), servers of other machines."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from verl_videosearch.failures import ServerUnusable

PR_SET_PDEATHSIG = 1
SERVER_LOG = "server.log"
_POLL_S, _STOP_S, _LOG_LINES = 0.5, 30.0, 15
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # loopback: never through a proxy


@contextmanager
def serve_checkpoint(
    checkpoint: Path,
    model: str,
    log: Path,
    options: Sequence[str] = (),
    start_timeout_s: float = 1800.0,
) -> Iterator[str]:
    """Serve a checkpoint on a free port for the length of the block; yields the base URL of its
    API.

    `options` are further ones of `vllm serve`. Raises `ServerUnusable` if it does not come up."""
    with serve_replicas(checkpoint, model, log, options, 1, start_timeout_s) as (url,):
        yield url


@contextmanager
def serve_replicas(
    checkpoint: Path,
    model: str,
    log: Path,
    options: Sequence[str] = (),
    num_replicas: int = 1,
    start_timeout_s: float = 1800.0,
) -> Iterator[list[str]]:
    """Serve a checkpoint as several independent servers at once, each on GPUs of its own where
    there are any; yields their base URLs when all are healthy.

    The output of the first goes to `log`, that of the others beside it (`server-1.log`)."""
    if not (checkpoint / "config.json").is_file():
        raise ServerUnusable(
            f"{checkpoint} is no model: it has no config.json; give a Hugging Face folder"
        )
    module = [sys.executable, "-m", "verl_videosearch.models.serve", str(checkpoint)]
    logs = [log] + [log.with_stem(f"{log.stem}-{index}") for index in range(1, num_replicas)]
    gpus = share_gpus(list_gpus(), num_replicas)
    with ExitStack() as stack:
        started = []
        for port, each_log, own_gpus in zip(find_ports(num_replicas), logs, gpus, strict=True):
            command = [*module, f"--port={port}", "--served-model-name", model, *options]
            chosen = {"CUDA_VISIBLE_DEVICES": ",".join(own_gpus)} if own_gpus else {}
            started.append(
                (stack.enter_context(run_server(command, each_log, chosen)), port, each_log)
            )
        for process, port, each_log in started:
            wait_until_healthy(
                process, f"http://127.0.0.1:{port}/health", each_log, start_timeout_s
            )
        yield [f"http://127.0.0.1:{port}/v1" for _, port, _ in started]


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


def find_ports(count: int) -> list[int]:
    """Return different ports of this machine that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def run_server(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group of its own, its output in `log`; the whole group ends with the
    block. `environment` is added to this process's own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_depend_on_parent,
            env={**os.environ, **(environment or {})},
        )
    try:
        yield process
    finally:
        _stop_group(process)


def wait_until_healthy(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float
) -> None:
    """Return when `url` answers; raises `ServerUnusable` with the end of the log if it never
    will."""
    deadline = time.monotonic() + timeout_s
    while not _answers(url):
        if process.poll() is not None:
            raise ServerUnusable(
                f"the model server ended with status {process.returncode}:\n{_read_end(log)}"
            )
        if time.monotonic() > deadline:
            raise ServerUnusable(
                f"the model server is not healthy after {timeout_s:.0f} s:\n{_read_end(log)}"
            )
        time.sleep(_POLL_S)


def _answers(url: str) -> bool:
    try:
        with _OPENER.open(url, timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _read_end(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace").splitlines()
    return "\n".join([*lines[-_LOG_LINES:], f"(all of it: {log})"])


def _depend_on_parent() -> None:
    os.setsid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then end whatever of its group is left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
