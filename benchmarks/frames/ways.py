"""Ours and each decoder's way to the same frames, timed in turn."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks.frames.clips import CALL, FIRST_VIEW, choose_call, list_candidates
from benchmarks.frames.rivals import Fetch
from verl_videosearch.video.decode import read_frames
from verl_videosearch.video.store import FrameStore

NUM_EPISODES, NUM_CALLS = 8, 3


class Cost(NamedTuple):
    """Medians of one way."""

    wall_ms: float
    cpu_ms: float


def measure(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, Cost]:
    """Run all ways in turn, so that a machine that slows down slows all of them; one turn before
    the first is not counted."""
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            if turn:
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    return {
        name: Cost(1000 * statistics.median(walls[name]), 1000 * statistics.median(cpus[name]))
        for name in ways
    }


def compare_call(
    path: Path, store: FrameStore, rivals: dict[str, Fetch], repeats: int
) -> dict[str, Cost]:
    """Time a warm call of 8 frames against decoding them."""
    video = store.open(path, (CALL, FIRST_VIEW))
    chosen, decoded = choose_call(path)
    size = video.size_of(CALL.max_pixels)

    def ours() -> list[Image.Image]:
        again = store.open(path, (CALL, FIRST_VIEW))
        return [Image.fromarray(again.frame(index, CALL.max_pixels)) for index in chosen]

    pixels = [np.array(video.frame(index, CALL.max_pixels)) for index in chosen]
    ways: dict[str, Callable[[], object]] = {
        "floor": lambda: [Image.fromarray(np.array(frame)) for frame in pixels],
        "ours": ours,
    }
    for name, fetch in rivals.items():
        ways[name] = lambda fetch=fetch: [
            Image.fromarray(np.asarray(frame)) for frame in fetch(path, sorted(decoded), *size)
        ]
    return measure(ways, repeats)


def compare_cold(
    path: Path, folder: Path, rivals: dict[str, Fetch], repeats: int
) -> dict[str, Cost]:
    """Time 48 candidates at the size of a call, from nothing."""
    candidates = list_candidates(path)
    (first,) = read_frames(path, (CALL,))
    size = first.frames.shape[1:3]

    def fill() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            FrameStore(root).open(path, (CALL, FIRST_VIEW))

    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: read_frames(path, (CALL,)),
        "ours, stored": fill,
    }
    for name, fetch in rivals.items():
        if "seeking" not in name:
            ways[name] = lambda fetch=fetch: fetch(path, candidates, *size)
    return measure(ways, repeats)


class Group(NamedTuple):
    """What the 8 episodes of a GRPO group look at."""

    path: Path
    in_call: list[int]
    """Candidates of a call, 0-based; every call asks for the same ones."""
    in_call_decoded: list[int]
    """The same as indices of decoded frames."""
    first_view: tuple[int, ...]
    everything: list[int]
    """Decoded index of every candidate."""
    size: tuple[int, int]
    """(height, width) of a call's frames."""
    first_size: tuple[int, int]

    def play_stored(self, store: FrameStore) -> None:
        """Our way: references into the store."""
        for _ in range(NUM_EPISODES):
            video = store.open(self.path, (CALL, FIRST_VIEW))
            for index in self.first_view:
                Image.fromarray(video.frame(index, FIRST_VIEW.max_pixels))
            for index in NUM_CALLS * self.in_call:
                Image.fromarray(video.frame(index, CALL.max_pixels))

    def play_all_at_once(self, fetch: Fetch) -> None:
        """The authors' way: every candidate becomes an image, once per episode."""
        for _ in range(NUM_EPISODES):
            frames = fetch(self.path, self.everything, *self.first_size)
            images = [Image.fromarray(np.asarray(frame)) for frame in frames]
            for index in NUM_CALLS * self.in_call:
                images[index].resize(self.size[::-1], Image.Resampling.BICUBIC)

    def play_per_call(self, fetch: Fetch) -> None:
        """Open and decode whenever frames are asked for."""
        first = [self.everything[index] for index in self.first_view]
        for _ in range(NUM_EPISODES):
            fetch(self.path, first, *self.first_size)
            for _ in range(NUM_CALLS):
                fetch(self.path, sorted(self.in_call_decoded), *self.size)


def compare_group(
    path: Path, folder: Path, rivals: dict[str, Fetch], repeats: int
) -> dict[str, Cost]:
    """Spend the CPU of a GRPO group: 8 episodes, a first view and 3 calls each."""
    stored = FrameStore(folder / "group")
    video, (in_call, decoded) = stored.open(path, (CALL, FIRST_VIEW)), choose_call(path)
    sizes = video.size_of(CALL.max_pixels), video.size_of(FIRST_VIEW.max_pixels)
    first_view = FIRST_VIEW.choose(video.num_frames)
    group = Group(path, in_call, decoded, first_view, list_candidates(path), *sizes)

    def play_cold() -> None:
        with tempfile.TemporaryDirectory(dir=folder) as root:
            group.play_stored(FrameStore(root))

    ways: dict[str, Callable[[], object]] = {
        "ours, warm": lambda: group.play_stored(stored),
        "ours, cold": play_cold,
    }
    for name, fetch in rivals.items():
        if "seeking" not in name:
            ways[f"authors' way, {name}"] = lambda f=fetch: group.play_all_at_once(f)
            ways[f"per call, {name}"] = lambda f=fetch: group.play_per_call(f)
    return measure(ways, repeats)
