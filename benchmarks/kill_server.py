"""Kill the model server in the middle of comparisons, and say what becomes of them.

    python -m benchmarks.kill_server --model CHECKPOINT         # or a tiny model of random weights

The one idea: real vLLM, SIGKILL for its whole process group after the third comparison, a deadline
that nobody may pass. Two trials: an endpoint that stays away and is started again afterwards by
somebody else, and a server of the judge's own (`Judge.serve`), which the judge has to bring back
itself.

Covers: one server on this machine (about a minute a start on a CPU). Does not cover: a server that
hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.seeing_judge import CLIPS, write_clips
from verl_videosearch import Judge
from verl_videosearch.failures import EpisodeFailure, ServerUnusable
from verl_videosearch.judge.pair_judge import Outcome, Pair
from verl_videosearch.models.server import find_ports, run_server, wait_until_healthy
from verl_videosearch.sample import Order

OPTIONS = ("--max-model-len=4096",)
EPISODE = {
    "frames_per_video": 8,
    "initial_frames_per_video": 2,
    "max_tool_calls": 1,
    "patch_multiple": 28,
    "prompt_pack": "brief",
    "initial_max_pixels": 3136,
    "tool_max_pixels": 3136,
}
_KILL_AFTER = 3
_START_S = 600.0


@dataclass
class Endpoint:
    """A server that is somebody else's to the judge."""

    model: Path
    folder: Path
    port: int = field(default_factory=lambda: find_ports(1)[0])
    _stack: ExitStack = field(default_factory=ExitStack)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it on the same port as before and wait until it is healthy."""
        module = [sys.executable, "-m", "verl_videosearch.models.serve", str(self.model)]
        command = [*module, f"--port={self.port}", "--served-model-name", "judge", *OPTIONS]
        log, start = self.folder / "endpoint.log", time.monotonic()
        self._process = self._stack.enter_context(run_server(command, log))
        wait_until_healthy(self._process, f"http://127.0.0.1:{self.port}/health", log, _START_S)
        typer.echo(f"  a server is up after {time.monotonic() - start:.0f} s")

    def kill(self) -> None:
        """End it without warning, its engine too."""
        assert self._process is not None, "it has been started"
        os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End every server that is left."""
        self._stack.close()


def kill_own_servers() -> None:
    """End every process group that a child of ours leads: the servers of `Judge.serve`."""
    listed = subprocess.run(["ps", "-eo", "pid,pgid,ppid"], capture_output=True, text=True)
    for line in listed.stdout.splitlines()[1:]:
        pid, group, parent = map(int, line.split())
        if parent == os.getpid() and pid == group:
            os.killpg(group, signal.SIGKILL)


def describe(outcome: Outcome) -> str:
    """Say what became of a pair; the same words for the same end."""
    return outcome.label if isinstance(outcome, EpisodeFailure) else "judged"


def try_killing(
    name: str,
    judge: Judge,
    pairs: Sequence[Pair],
    kill: Callable[[], None],
) -> None:
    """Judge the pairs, kill the server on the way, and print what became of each of them."""
    ends_s: list[float] = []
    killed_s = 0.0

    def hear(_: Any) -> None:
        nonlocal killed_s
        ends_s.append(time.monotonic())
        if len(ends_s) == _KILL_AFTER:
            killed_s = time.monotonic()
            kill()

    start = time.monotonic()
    try:
        outcomes = judge.compare_many(pairs, on_episode=hear)
        words = ", ".join(f"{n} {what}" for what, n in Counter(map(describe, outcomes)).items())
    except (EpisodeFailure, ServerUnusable) as error:
        words = f"all ended as one {type(error).__name__}: {str(error)[:200]}"
    end = time.monotonic()
    typer.echo(
        f"{name}: {words}; {end - start:.0f} s, the last one {end - killed_s:.0f} s after the kill"
    )


def judge_again(name: str, judge: Judge, pairs: Sequence[Pair]) -> None:
    """Judge with the same judge after the trial."""
    start = time.monotonic()
    counts = Counter(map(describe, judge.compare_many(pairs)))
    typer.echo(
        f"{name}, the same judge afterwards: {dict(counts)}, {time.monotonic() - start:.0f} s"
    )


def name_pairs(folder: Path, prompt: str, count: int) -> list[Pair]:
    """Return pairs that differ in their prompts, so that none is remembered."""
    clips = folder / CLIPS[0], folder / CLIPS[2]
    return [(f"{prompt} {number}", *clips) for number in range(count)]


def run_endpoint_trials(model: Path, folder: Path, num_pairs: int, settings: Any) -> None:
    """Kill a server that the judge only knows by its address."""
    endpoint = Endpoint(model, folder)
    try:
        endpoint.start()
        with Judge(endpoint.url, "judge", **settings) as judge:
            judge.open()
            first = name_pairs(folder, "cat", num_pairs)
            try_killing("endpoint that stays away", judge, first, endpoint.kill)
            endpoint.start()
            judge_again("endpoint", judge, first)
    finally:
        endpoint.close()


def run_own_trial(model: Path, folder: Path, num_pairs: int, settings: Any) -> None:
    """Kill the server that the judge has started itself."""
    with Judge.serve(model, serve_options=OPTIONS, **settings) as judge:
        start = time.monotonic()
        judge.open()
        typer.echo(f"  Judge.serve is open after {time.monotonic() - start:.0f} s")
        pairs = name_pairs(folder, "cow", num_pairs)
        try_killing("a server of the judge's own", judge, pairs, kill_own_servers)
        judge_again("own server", judge, name_pairs(folder, "owl", num_pairs))


def main(
    model: Annotated[Path | None, typer.Option(help="Checkpoint; default: random weights.")] = None,
    pairs: Annotated[int, typer.Option(min=_KILL_AFTER + 1, help="Comparisons a trial.")] = 20,
    deadline_s: Annotated[float, typer.Option(help="Most seconds of a trial.")] = 600.0,
) -> None:
    """Run both trials."""
    from verl_videosearch.from_scratch.tiny_model import build_tiny_model  # torch

    with tempfile.TemporaryDirectory(prefix="kill-server-") as temporary:
        folder = Path(temporary)
        write_clips(folder)
        served = model or build_tiny_model(folder / "tiny")
        settings = {
            "episode": EPISODE,
            "store": folder / "frames",
            "orders": (Order.AB,),
            "max_turn_tokens": 24,
            "deadline_s": deadline_s,
            "concurrency": 4,
            "accepts_other_settings": True,
        }
        run_endpoint_trials(served, folder, pairs, settings)
        run_own_trial(served, folder, pairs, settings)


if __name__ == "__main__":
    typer.run(main)
