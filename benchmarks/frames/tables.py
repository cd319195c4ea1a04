"""The four tables, one at a time, and the targets that they were measured against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import typer

from benchmarks.frames.clips import CODECS, make_clip
from benchmarks.frames.rivals import find_rivals
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
