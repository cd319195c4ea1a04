"""What the agent loop itself costs: CPU per turn, and how long it blocks, from 1 to 512 episodes at
once.

    python -m benchmarks.loop

The one idea: the generator answers at once, so whatever time is left is ours: rendering,
tokenising, reading the turn, naming images, checking the sequences. Images are made (their pixels
are image work) and then given away unread. A ticking task measures how late the event loop calls it
back, and how much of that its thread has computed. Python's garbage collection says itself how long
it took: its longest run of the loop's thread stands beside the longest block. Before the episodes
one collection walks over all that is imported, to show what taking it out spares.

Targets: under 3 ms of CPU per turn without image work, no block over 50 ms, cost linear in
episodes.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import typer

from benchmarks.transfer import make_pair, make_renderer, write_call
from verl_videosearch.episode import Episode, EpisodeConfig, Message
from verl_videosearch.report.table import Table
from verl_videosearch.rollout import run_episode, take_turn
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.verl_plugin.agent_loop import TokenGenerator, spare_imports
from verl_videosearch.video.pair import PairFrames

SIZES = (1, 8, 64, 512)
MAX_CPU_MS = 3.0
MAX_BLOCK_MS = 50.0
TICK_S = 0.005
CONFIG = EpisodeConfig()
ANSWER = "<Snapshot>a</Snapshot><Think>b</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"
SAMPLE = PreferenceSample("pair", "a cat", "1", "2", {"TA": 0, "VQ": 1, "MQ": 0, "OA": 1})


class Cost(NamedTuple):
    """What some episodes at once cost."""

    cpu_ms: float
    """Per turn, of all threads."""
    block_ms: float
    """Longest time that the loop's thread computed and did not come back."""
    collection_ms: float
    """Longest garbage collection in that thread."""
    wait_ms: float
    """Longest time that it did not come back, other programs on the machine included."""
    wall_s: float


class Collections:
    """Notes how long garbage collection kept the loop's thread, as Python tells."""

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._loop_thread, self._start_s = threading.get_ident(), 0.0

    def note(self, phase: str, _: Any) -> None:
        """Take a call of `gc.callbacks`."""
        if threading.get_ident() != self._loop_thread:
            return
        if phase == "start":
            self._start_s = time.thread_time()
        else:
            spent_ms = 1000 * (time.thread_time() - self._start_s)
            self.longest_ms = max(self.longest_ms, spent_ms)


class InstantEngine:
    """Writes the next reply of an episode of two calls at once."""

    def __init__(self, replies: list[list[int]]) -> None:
        self.replies, self.turns = replies, dict[str, int]()

    async def generate(self, request_id: str, **_: Any) -> Any:
        """Answer as verl's client does."""
        await asyncio.sleep(0)
        turn = self.turns[request_id] = self.turns.get(request_id, -1) + 1
        ids = self.replies[turn]
        return SimpleNamespace(
            token_ids=ids, log_probs=[-1.0] * len(ids), num_preempted=0, extra_fields={}
        )


class MadeImages:
    """A pair whose images are made before the clock runs."""

    def __init__(self, pair: PairFrames) -> None:
        self.pair = pair
        self._made: dict[str, Any] = {}

    def images(self, messages: list[Message]) -> list[Any]:
        """Return the images of a context, each made once."""
        from verl_videosearch.episode import images_of

        return [self._image(item) for item in images_of(messages)]

    def _image(self, item: Any) -> Any:
        name = json.dumps(item)
        if name not in self._made:
            self._made[name] = self.pair.image(item.number, item.max_pixels)
        return self._made[name]


def main() -> None:
    """Print the costs; exit status 1 where a target is missed."""
    renderer = make_renderer()
    with tempfile.TemporaryDirectory() as folder:
        pair, frames = make_pair(Path(folder) / "pair", (360, 640), CONFIG)
    replies = [renderer.tokenizer.encode(write_call(CONFIG, call)) for call in range(2)]
    replies.append(renderer.tokenizer.encode(ANSWER))
    settings = SimpleNamespace(frames=frames)
    made = MadeImages(pair)
    asyncio.run(play_all(renderer, settings, made, replies, 1))  # images, caches
    collections = Collections()
    gc.callbacks.append(collections.note)
    gc.collect()
    imported_ms = collections.longest_ms
    spare_imports()  # as the loop does
    rows, costs = [], dict[int, Cost]()
    for size in SIZES:
        collections.longest_ms = 0.0
        cost = asyncio.run(play_all(renderer, settings, made, replies, size))
        cost = costs[size] = cost._replace(collection_ms=collections.longest_ms)
        longest = (cost.block_ms, cost.collection_ms, cost.wait_ms)
        cells = [f"{cost.cpu_ms:.2f}", *(f"{each:.0f}" for each in longest), f"{cost.wall_s:.2f}"]
        rows.append((str(size), *cells))
    columns = (
        "episodes at once",
        "CPU ms per turn",
        "longest block, ms",
        "longest collection, ms",
        "longest wait, ms",
        "seconds",
    )
    typer.echo(Table("The loop's own cost", columns, rows).to_markdown())
    typer.echo(f"one collection over all that is imported: {imported_ms:.0f} ms")
    first, last = costs[SIZES[1]].cpu_ms, costs[SIZES[-1]].cpu_ms
    exponent = 1 + math.log(last / first) / math.log(SIZES[-1] / SIZES[1])
    typer.echo(
        f"growth of all CPU from {SIZES[1]} to {SIZES[-1]} episodes: exponent {exponent:.2f}"
    )
    typer.echo(f"targets: {MAX_CPU_MS:g} ms a turn, no block over {MAX_BLOCK_MS:g} ms, 1.1")
    worst_cpu, worst_block = (max(cost[i] for cost in costs.values()) for i in (0, 1))
    if worst_cpu > MAX_CPU_MS or worst_block > MAX_BLOCK_MS or exponent > 1.1:
        raise SystemExit(1)


async def play_all(
    renderer: Any, settings: Any, pair: MadeImages, replies: list[list[int]], size: int
) -> Cost:
    """Play `size` episodes at once."""
    loop = SimpleNamespace(
        renderer=renderer,
        server_manager=InstantEngine(replies),
        measure_room=lambda *_: 10_000,
        settings=settings,
    )
    waits, blocks = [0.0], [0.0]
    ticker = asyncio.create_task(tick(waits, blocks))
    await asyncio.sleep(2 * TICK_S)
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(play(loop, pair) for _ in range(size)))
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - start
    ticker.cancel()
    cpu_ms = 1000 * cpu_s / (size * len(replies))
    return Cost(cpu_ms, 1000 * max(blocks), 0.0, 1000 * max(waits), wall_s)


async def play(loop: Any, pair: MadeImages) -> None:
    """Play one episode and check its sequences."""
    episode = await take_turn(Episode, SAMPLE, pair.pair.candidates, CONFIG)
    group: Any = SimpleNamespace(raise_if_failed=lambda uid: None)
    generator = TokenGenerator(loop, episode, group, {})
    await run_episode(episode, pair, generator)  # type: ignore[arg-type]
    await take_turn(generator.close)


async def tick(waits: list[float], blocks: list[float]) -> None:
    """Note how much later than asked the event loop comes back, and at most as much as its thread
    has computed meanwhile: other programs make it late, too."""
    while True:
        start, cpu = time.perf_counter(), time.thread_time()
        await asyncio.sleep(TICK_S)
        late_s = time.perf_counter() - start - TICK_S
        waits.append(late_s)
        blocks.append(min(late_s, time.thread_time() - cpu))


if __name__ == "__main__":
    typer.run(main)
