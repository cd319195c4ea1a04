"""What a turn's request costs the client and weighs: frames encoded once against every turn.

    python -m benchmarks.requests [--frames 8] [--turns 4] [--repeats 7]

The one idea: a judge's request is megabytes of frames around some kB of text. Three ways to send
the same episode (a first view, then new frames at every turn, the window keeping as many again) to
a server that only counts bytes, in a process of its own:

| way | what it does |
|---|---|
| every turn | encodes every frame in view again, as most clients do |
| once | encodes each frame once per episode, sends it while it is in view |
| by key | the same, and names a frame that the server has (vLLM's `uuid`) |

Printed are CPU milliseconds of the client's process per turn (medians), with new frames and
without, bytes per episode, and the ratios. Frames are films' frames with some noise: PNG of pure
noise or of flat colour would say nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from verl_videosearch.episode import Message
from verl_videosearch.models.client import ChatClient, ClientConfig
from verl_videosearch.models.endpoint import Endpoint
from verl_videosearch.models.pictures import Album

FIRST_SIZE, TOOL_SIZE = (840, 476), (756, 420)
"""Width and height: what a 720p frame of the first view becomes under the default pixel budget, and
a little more than what one of a call becomes (728 x 420)."""
WAYS = ("every turn", "once", "by key")
REPLY = "<Snapshot>grey</Snapshot><Think>look</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"


class CountingHandler(BaseHTTPRequestHandler):
    """Takes any request and answers at once; images are taken to be kept."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        """Read the body to its end and answer."""
        left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read(min(left, 2**20)))
        choice = {"index": 0, "message": {"content": REPLY}, "finish_reason": "stop"}
        body = json.dumps({"model": "judge", "choices": [choice], "usage": None}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve(port: Any) -> None:
    """Run the server; tells its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), CountingHandler)
    port.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def run_server() -> Iterator[str]:
    """Yield the URL of a server in a process of its own."""
    ours, theirs = multiprocessing.Pipe()
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}/v1"
    finally:
        process.terminate()
        process.join()


class ForgetfulAlbum(Album):
    """Encodes everything at every turn."""

    def turn_to(self, images: Sequence[Image.Image]) -> list[Any]:
        """Forget all pictures first."""
        self._pictures = {}
        return super().turn_to(images)


@dataclass
class Costs:
    """What one way of sending took."""

    with_new_ms: list[float] = field(default_factory=list)
    """CPU of turns that bring new frames."""
    without_new_ms: list[float] = field(default_factory=list)
    """CPU of turns that bring none."""
    num_bytes: list[int] = field(default_factory=list)
    """Of one episode's requests."""


def draw_frames(count: int, size: tuple[int, int], seed: int) -> list[Image.Image]:
    """Make frames that compress as films do: smooth shapes with a little noise."""
    rng = np.random.default_rng(seed)
    width, height = size
    frames = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + rng.normal(0, 1.5, (height, width, 3)).astype(np.int16)
        frames.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return frames


def make_context(num_turns: int, num_images: int) -> list[Message]:
    """Make a context of so many replies; its images stand in the first question."""
    text = [{"type": "text", "text": "Which video is better? " * 40}]
    frames = [{"type": "image", "frame_number": n, "max_pixels": 1} for n in range(num_images)]
    context = [{"role": "system", "content": text}, {"role": "user", "content": text + frames}]
    for _ in range(num_turns):
        context += [{"role": "assistant", "content": text}, {"role": "user", "content": text}]
    return context


def reload(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Make the same frames anew, as reading them from the store at every turn does."""
    return [image.copy() for image in images]


async def play(
    url: str, way: str, num_frames: int, num_turns: int, seed: int, costs: Costs
) -> None:
    """Send one episode: turns in pairs, one with new frames and one that only adds text."""
    endpoint = Endpoint(ClientConfig(url, "judge", is_vllm=way == "by key", timeout_s=60))
    endpoint.keeps_images = way == "by key"
    sizes: list[int] = []
    send = endpoint.send

    async def count(body: bytes, episode: str = "") -> Any:
        sizes.append(len(body))
        return await send(body, episode)

    endpoint.send = count  # type: ignore[method-assign]
    client = ChatClient(endpoint)
    if way == "every turn":
        client._album = ForgetfulAlbum()
    first = draw_frames(num_frames, FIRST_SIZE, seed)
    for turn in range(num_turns):
        brought = draw_frames(num_frames, TOOL_SIZE, seed + 1 + turn)
        for kind in (costs.with_new_ms, costs.without_new_ms):
            images = reload([*first, *brought])
            start = time.process_time()
            await client(make_context(turn, len(images)), images)
            kind.append(1000 * (time.process_time() - start))
    costs.num_bytes.append(sum(sizes))
    await endpoint.__aexit__()


def measure(num_frames: int, num_turns: int, repeats: int) -> dict[str, Costs]:
    """Play episodes in all ways, in turn, so that a busy machine is busy for all."""
    costs = {way: Costs() for way in WAYS}
    with run_server() as url:
        for repeat in range(repeats + 1):
            for way in WAYS:
                kept = costs[way] if repeat else Costs()  # the first warms up
                asyncio.run(play(url, way, num_frames, num_turns, 100 * repeat, kept))
    return costs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=8, help="first, and new per call")
    parser.add_argument("--turns", type=int, default=3, help="calls of an episode")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    costs = measure(options.frames, options.turns, options.repeats)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    count = options.frames
    print(f"{count} frames of {FIRST_SIZE}, {count} new ones of {TOOL_SIZE} a call")
    print(f"{'way':12} {'CPU ms, new frames':>20} {'CPU ms, none new':>18} {'MB an episode':>15}")
    for way, each in costs.items():
        new, none = (statistics.median(ms) for ms in (each.with_new_ms, each.without_new_ms))
        size = statistics.median(each.num_bytes) / 1e6
        print(f"{way:12} {new:20.1f} {none:18.1f} {size:15.1f}")
    base = costs["every turn"]
    for way in WAYS[1:]:
        each = costs[way]
        cpu = statistics.median(base.without_new_ms) / statistics.median(each.without_new_ms)
        size = statistics.median(base.num_bytes) / statistics.median(each.num_bytes)
        print(f"{way}: {cpu:.1f} times less CPU without new frames, {size:.1f} times fewer bytes")


if __name__ == "__main__":
    main()
