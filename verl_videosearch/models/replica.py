"""Replica: one model server of ours on this machine, started again when it dies.

    replica = Replica(command, port, Path("server.log"))
    replica.start()
    await replica.wait_until_ready()          # each request waits here while the server is away
    replica.close()

The one idea: the address outlives the process. A thread watches the process; when it has ended, or
says that it can work no more, what is left of it is ended and the same command is started again on
the same port. Whoever asks waits meanwhile. A server that dies again and again is given up with the
end of its log: `ServerUnusable`.

Covers: a death, a server that lives on but answers that it is ill (vLLM without its engine). Does
not cover: a server that hangs (requests have their own time limit), one that never came up (that
is a wrong option or too little memory: said at once, not tried again)."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_videosearch.config import above, at_least, check
from verl_videosearch.failures import ServerUnusable
from verl_videosearch.models.server import (
    Health,
    ask_health,
    is_up,
    read_end,
    run_server,
)

LOG = logging.getLogger(__name__)
_WATCH_S = 0.25
"""Seconds between two looks at the process."""


@dataclass(frozen=True)
class RestartPolicy:
    """How often a server that dies is started again."""

    max_restarts: int = 3
    """In a row; after that many it is given up. 0 never starts one again."""
    delay_s: float = 1.0
    """Wait before the first of them; doubled before each further one."""
    settled_s: float = 600.0
    """A server that was healthy for so long counts from 0 again."""
    start_timeout_s: float = 1800.0
    """Most seconds from a start until it is healthy."""

    def __post_init__(self) -> None:
        check(
            self,
            max_restarts=at_least(0),
            delay_s=at_least(0),
            settled_s=at_least(0),
            start_timeout_s=above(0),
        )


class Replica:
    """One server process behind a fixed address; safe to ask from any thread."""

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        log: Path,
        environment: Mapping[str, str] | None = None,
        policy: RestartPolicy | None = None,
    ) -> None:
        """`command` serves on 127.0.0.1:`port`, with `/health` beside the API; `environment` is
        added to this process's own."""
        self.command, self.port, self.log = list(command), port, log
        self.environment, self.policy = environment, policy or RestartPolicy()
        self.num_restarts = 0
        """Since it was last settled."""
        self._process: subprocess.Popen[bytes] | None = None
        """The one that is healthy as far as anybody knows."""
        self._error: ServerUnusable | None = None
        self._closing, self._doubted = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"server-{port}", daemon=True)

    @property
    def url(self) -> str:
        """Return the base URL of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def is_ready(self) -> bool:
        """True while it can be asked, as far as anybody knows."""
        process = self._process
        return process is not None and process.poll() is None and not self._doubted.is_set()

    @property
    def is_given_up(self) -> bool:
        """True once it has ended for good."""
        return self._error is not None

    def start(self) -> None:
        """Start the server; returns at once."""
        self._thread.start()

    def end(self) -> None:
        """Ask the server to end; returns at once."""
        self._closing.set()

    def close(self) -> None:
        """End the server and wait until it has ended."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join()

    def doubt(self) -> None:
        """Say that a request has failed: nobody asks again before the server was looked at."""
        self._doubted.set()

    async def wait_until_ready(self) -> None:
        """Return when it can be asked; raises `ServerUnusable` when it never will."""
        while not self.is_ready:
            if self._error is not None:
                raise self._error
            if self._closing.is_set():
                raise ServerUnusable("the model server was ended by its user")
            await asyncio.sleep(_WATCH_S / 2)

    def _keep(self) -> None:
        """Run the server until it is closed or given up."""
        try:
            self._run_once(is_first=True)
            while not self._closing.is_set():
                self._run_again()
        except ServerUnusable as error:
            LOG.error("the server on port %d is given up: %s", self.port, error)
            self._error = error
        except Exception as error:  # the end of a thread: whoever waits is told, whatever it was
            LOG.exception("the server on port %d cannot be kept running", self.port)
            words = f"{type(error).__name__}: {error}"
            self._error = ServerUnusable(f"the model server cannot be kept running: {words}")

    def _run_again(self) -> None:
        """Start it anew after its end; a start that fails is an end, too."""
        words, count = f"{self._last_words}:\n{read_end(self.log)}", self.num_restarts
        if count >= self.policy.max_restarts:
            ending = (
                f"\nit was started again {count} time{'s' if count > 1 else ''} and is given up"
            )
            raise ServerUnusable(words + (ending if count else ""))
        delay_s = self.policy.delay_s * 2**count
        self.num_restarts = count + 1
        LOG.warning(
            "%s\nit is started again in %g s (%d of %d)",
            words,
            delay_s,
            count + 1,
            self.policy.max_restarts,
        )
        if self._closing.wait(delay_s):
            return
        try:
            self._run_once(is_first=False)
        except ServerUnusable as error:
            self._last_words = str(error).partition(":\n")[0]

    def _run_once(self, *, is_first: bool) -> None:
        """Run one process to its end; raises `ServerUnusable` if it does not come up."""
        with run_server(
            self.command, self.log, self.environment, keeps_log=not is_first
        ) as process:
            if not self._wait_until_up(process):
                return
            start = time.monotonic()
            self._doubted.clear()
            self._process = process
            try:
                self._last_words = self._watch(process)
            finally:
                self._process = None
            if time.monotonic() - start >= self.policy.settled_s:
                self.num_restarts = 0

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> bool:
        """Return True when it is healthy, False when nobody wants it any more."""
        deadline = time.monotonic() + self.policy.start_timeout_s
        while not is_up(process, self._health_url, self.log, deadline):
            if self._closing.wait(_WATCH_S):
                return False
        return True

    def _watch(self, process: subprocess.Popen[bytes]) -> str:
        """Return why the server is of no use any more; empty when nobody wants it any more."""
        while not self._closing.wait(_WATCH_S):
            if process.poll() is not None:
                return f"the model server ended with status {process.returncode}"
            if self._doubted.is_set():
                if self._is_ill():
                    return "the model server says that it can work no more"
                self._doubted.clear()
        return ""

    def _is_ill(self) -> bool:
        """True when it says so twice: one connection may be cut off by chance."""
        if ask_health(self._health_url) is not Health.ILL:
            return False
        self._closing.wait(_WATCH_S)
        return ask_health(self._health_url) is Health.ILL

    @property
    def _health_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/health"

    _last_words: str = ""
    """How the last process ended."""
