"""Print the tables and the targets of `benchmarks.frames`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import av
import typer

from benchmarks.frames.clips import CODECS, make_clip
from benchmarks.frames.rivals import NUM_THREADS, RIVALS, find_rivals
from benchmarks.frames.targets import Target, judge_call, judge_cold, judge_group
from benchmarks.frames.ways import Cost, compare_call, compare_cold, compare_group
from verl_videosearch.video.store import FrameStore


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
