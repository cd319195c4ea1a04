"""Start a model server beside a program, and end it with the program.

    with serve_checkpoint(Path("checkpoints/warm"), model="judge", log=Path("server.log")) as url:
        ...                                                      # url: http://127.0.0.1:PORT/v1, healthy

The one idea: the server never outlives its user: it ends with the block, with an error, and (on
Linux) when the program is killed. A server that does not come up is one error with the end of its
log.

Covers: one process on this machine. Does not cover: what it runs (`serve_model`), servers of other
machines."""

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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

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

    `options` are further ones of `vllm serve`. Raises `ValueError` if it does not come up."""
    if not (checkpoint / "config.json").is_file():
        raise ValueError(
            f"{checkpoint} is no model: it has no config.json; give a Hugging Face folder"
        )
    port = find_port()
    module = [sys.executable, "-m", "verl_videosearch.models.serve", str(checkpoint)]
    with run_server(
        [*module, f"--port={port}", "--served-model-name", model, *options], log
    ) as process:
        wait_until_healthy(process, f"http://127.0.0.1:{port}/health", log, start_timeout_s)
        yield f"http://127.0.0.1:{port}/v1"


def find_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def run_server(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group of its own, its output in `log`; the whole group ends with the
    block."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, preexec_fn=_depend_on_parent
        )
    try:
        yield process
    finally:
        _stop_group(process)


def wait_until_healthy(
    process: subprocess.Popen[bytes], url: str, log: Path, timeout_s: float
) -> None:
    """Return when `url` answers; raises `ValueError` with the end of the log if it never will."""
    deadline = time.monotonic() + timeout_s
    while not _answers(url):
        if process.poll() is not None:
            raise ValueError(
                f"the model server ended with status {process.returncode}:\n{_read_end(log)}"
            )
        if time.monotonic() > deadline:
            raise ValueError(
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
