"""What a page of episodes costs: seconds to write, MB, seconds until a browser shows it.

    python -m benchmarks.report --episodes 1000

The one idea: the films are real files of noise and motion at 480p, which compress worse than most
generated videos, and each pair has its own two; so the figures are on the high side. Episodes come
from a scripted judge that searches twice, in both orders.

Covers: a store that holds the frames (as after `videosearch eval`), and one that does not. Does not
cover: a store on a network disk."""

from __future__ import annotations

import resource
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import numpy as np
import typer

from tests.clips import write_clip
from verl_videosearch.episode import Episode, EpisodeConfig, Reply
from verl_videosearch.frames import CandidateFrames
from verl_videosearch.report.episode_page import Source, write_episode_page
from verl_videosearch.runs.play import make_key
from verl_videosearch.runs.record import EpisodeRecord, Identity, RecordKind, record_episode
from verl_videosearch.sample import Order, PreferenceSample
from verl_videosearch.video.store import FrameStore

NUM_FRAMES = 48
SIZE = (480, 848)
_SHOWN = "return performance.getEntriesByName('episode shown').at(-1).startTime"
WORDS = "The subject keeps its shape until the middle, then the background flickers. " * 6


def draw_film(seed: int) -> np.ndarray:
    """Make a film of coarse moving patterns with fine noise, uint8 (N, H, W, 3)."""
    random = np.random.default_rng(seed)
    height, width = SIZE
    coarse = random.integers(0, 256, (height // 20, width // 20 + NUM_FRAMES, 3), dtype=np.uint8)
    large = coarse.repeat(20, axis=0).repeat(20, axis=1)
    noise = random.integers(0, 24, (height, width, 1), dtype=np.uint8)
    frames = [large[:height, 8 * i : 8 * i + width] // 2 + noise for i in range(NUM_FRAMES)]
    return np.stack(frames).astype(np.uint8)


def play(sample: PreferenceSample, order: Order, seed: int) -> EpisodeRecord:
    """Play an episode of two searches, eight frames each."""
    random = np.random.default_rng(seed)
    times = tuple(index / 25 for index in range(NUM_FRAMES))
    episode = Episode(sample, CandidateFrames(times, times), EpisodeConfig())
    guess = "<Recommend Answer>TA=0, VQ=1, MQ=0, OA=1, CF=2</Recommend Answer>"
    head = f"<Snapshot>{WORDS}</Snapshot><Think>{WORDS}</Think>"
    for _ in range(2):
        numbers = sorted(random.choice(np.arange(1, 2 * NUM_FRAMES + 1), 8, replace=False).tolist())
        call = f'{{"name": "select_frames", "arguments": {{"target_frames": {numbers}}}}}'
        episode.step(Reply(f"{head}{guess}<tool_call>{call}</tool_call>"))
    episode.step(Reply(f"{head}<Answer>TA=0, VQ=1, MQ=0, OA={seed % 3}, CF=1</Answer>"))
    key = make_key(sample.uid, order)
    identity = Identity(model="scripted")
    return record_episode(
        RecordKind.EVALUATION, key, sample, order, episode, identity=identity, has_messages=False
    )


def make_records(folder: Path, num_episodes: int, num_films: int) -> list[EpisodeRecord]:
    """Return the episodes; each pair gets files of its own, copies with a few bytes more."""
    films = [write_clip(folder / f"film-{seed}.mp4", draw_film(seed)) for seed in range(num_films)]
    records = []
    for number in range((num_episodes + 1) // 2):
        paths = []
        for side in (0, 1):
            path = folder / f"{number}-{side}.mp4"
            content = films[(2 * number + side) % num_films].read_bytes()
            # a `free` box at the end: another file to the store, the same film to a player
            path.write_bytes(content + (16).to_bytes(4, "big") + b"free" + f"{number:08d}".encode())
            paths.append(str(path))
        labels = {"TA": 0, "VQ": 1, "MQ": 0, "OA": number % 3}
        sample = PreferenceSample(f"pair-{number:04d}", f"prompt {number}: {WORDS}", *paths, labels)
        records += [play(sample, order, 2 * number + n) for n, order in enumerate(Order)]
    return records[:num_episodes]


@dataclass(frozen=True)
class Opening:
    """Seconds from the start of loading."""

    list_s: float
    """The list is painted."""
    first_episode_s: float
    """The first episode is on the page with its pictures."""
    last_episode_s: float
    """The last one is, when the page is opened by a link to it: all of the file has been read."""

    def describe(self) -> str:
        """Say it in one line."""
        parts = {
            "list": self.list_s,
            "first episode": self.first_episode_s,
            "last episode by its link": self.last_episode_s,
        }
        return "opened: " + ", ".join(f"{name} {at_s:.2f} s" for name, at_s in parts.items())


def open_in_browser(path: Path, last_key: str) -> Opening | None:
    """Open the page, then again by a link to its last episode; None without a browser."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return None
    from tests.report.browser import start_browser

    with start_browser() as page:
        page.resize(1600, 900)
        page.driver.set_script_timeout(120)
        page.open(path)
        list_ms = page.ask("return performance.getEntriesByType('paint').at(-1).startTime")
        first_ms = page.ask(_SHOWN)
        page.open(path, f"#{quote(last_key)}")
        return Opening(list_ms / 1000, first_ms / 1000, page.ask(_SHOWN) / 1000)


def main(
    episodes: Annotated[int, typer.Option(help="How many.")] = 1000,
    films: Annotated[int, typer.Option(help="Different films; the rest are copies.")] = 12,
    folder: Annotated[Path | None, typer.Option(help="Where; default: a temporary one.")] = None,
) -> None:
    """Measure the page of many episodes."""
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        records = make_records(root, episodes, films)
        typer.echo(f"{len(records)} episodes of {len(records) // 2} pairs, {SIZE[1]}x{SIZE[0]}")
        path = root / "report.html"
        for name in ("videos decoded for the page", "frames in the store"):
            start, start_cpu = time.perf_counter(), time.process_time()
            written = write_episode_page(
                [Source("benchmark", records)], path, store=FrameStore(root / "store"), limit=None
            )
            seconds = time.perf_counter() - start
            cpu_s = time.process_time() - start_cpu
            typer.echo(
                f"{name}: {seconds:.1f} s ({cpu_s:.1f} s of CPU), {written.num_bytes / 1e6:.1f} MB"
            )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        typer.echo(f"peak memory of this process: {peak:.1f} GB")
        shown = open_in_browser(path, records[-1].key)
        typer.echo("no chromium here: not opened" if shown is None else shown.describe())


if __name__ == "__main__":
    typer.run(main)
