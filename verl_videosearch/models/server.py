"""Start a model server beside a program, and end it with the program.

    with run_server(["vllm", "serve", "MODEL", "--port=8000"], Path("server.log")) as process:
        wait_until_healthy(process, "http://127.0.0.1:8000/health", Path("server.log"), 600)

The one idea: the server never outlives its user: it ends with the block, with an error, and (on
Linux) with the thread that started it, thus when the program is killed. A server that does not come
up is one error with the end of its log.

Covers: one process. Does not cover: starting it again (`replica`), what it runs (`serve`), servers
of other machines."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from pathlib import Path

from verl_videosearch.failures import ServerUnusable

PR_SET_PDEATHSIG = 1
SERVER_LOG = "server.log"
_POLL_S, _STOP_S, _LOG_LINES, _LOG_BYTES = 0.5, 30.0, 15, 2**16
_OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({})
)  # loopback: never through a proxy


class Health(Enum):
    """What a server says of itself."""

    WELL = "well"
    ILL = "ill"
    """It says that it cannot work (vLLM: its engine has died), or does not listen any more."""
    SILENT = "silent"
    """No answer in time: it may only be busy."""


def find_ports(count: int) -> list[int]:
    """Return different ports of this machine that are free now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextmanager
def run_server(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    keeps_log: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in a group of its own, its output in `log` (behind what stands there, or in its
    place); the whole group ends with the block. `environment` is added to this process's own."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab" if keeps_log else "wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            preexec_fn=_make_dependent(),
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
    while not is_up(process, url, log, deadline):
        time.sleep(_POLL_S)


def is_up(process: subprocess.Popen[bytes], url: str, log: Path, deadline: float) -> bool:
    """Return True when `url` answers; raises `ServerUnusable` with the end of the log when the
    process has ended or `deadline`, on the monotonic clock, has passed."""
    if process.poll() is not None:
        raise ServerUnusable(
            f"the model server ended with status {process.returncode}:\n{read_end(log)}"
        )
    if ask_health(url) is Health.WELL:
        return True
    if time.monotonic() > deadline:
        raise ServerUnusable(f"the model server is not healthy in time:\n{read_end(log)}")
    return False


def ask_health(url: str) -> Health:
    """Ask a server of this machine how it is."""
    try:
        with _OPENER.open(url, timeout=5):
            return Health.WELL
    except urllib.error.HTTPError as error:
        return Health.ILL if error.code >= 500 else Health.WELL
    except urllib.error.URLError as error:
        return Health.ILL if isinstance(error.reason, ConnectionError) else Health.SILENT
    except ConnectionError:
        return Health.ILL
    except (OSError, http.client.HTTPException, ValueError):  # what answers does not speak HTTP
        return Health.SILENT


def read_end(log: Path) -> str:
    """Return the last lines of a log, and where all of it lies."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(its log {log} cannot be read: {error.strerror or error})"
    return "\n".join([*lines[-_LOG_LINES:], f"(all of it: {log})"])


def _make_dependent() -> Callable[[], None]:
    """Return what a new process does first; loaded here, where no lock of another thread can be
    held for ever."""
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def depend_on_parent() -> None:
        os.setsid()
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    return depend_on_parent


def _stop_group(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then end whatever of its group is left."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
