"""Print the tables and the targets of `benchmarks.frames`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.frames.clips import make_clip
from benchmarks.frames.rivals import NUM_THREADS, RIVALS
from benchmarks.frames.tables import Tables


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
