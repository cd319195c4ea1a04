"""Print what our reader makes of every file of a folder: the table to hold beside right values.

    python -m benchmarks.inputs FOLDER [--frames 8]

One row a file: frames, size, duration, mean colour, and the notes; or the kind of failure and its
cause. With files that are known (each kind of fault that people reported, made small), a glance
shows whether a kind came back: nothing may be silently wrong, and nothing but a `VideoError` may
come out. `--expect FILE` compares each row with a right value (one `NAME: WORDS` a line; the words
must stand in the row) and ends with status 1 where one differs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from verl_videosearch.video.decode import (
    FramePlan,
    VideoError,
    probe_video,
    read_candidate_frames,
)

TABLES = frozenset({".md", ".txt", ".csv", ".parquet", ".json", ".jsonl"})
"""Suffixes of files that are no media on purpose."""


class Row(NamedTuple):
    """What came of one file."""

    name: str
    result: str
    """Frames, size, duration; or the kind of failure."""
    detail: str
    """Mean colour and notes; or the cause."""
    ms: float


def read_file(path: Path, num_frames: int) -> Row:
    """Read one file as an episode would; a `VideoError` is a result, any other one ends the
    program."""
    start = time.perf_counter()
    try:
        info = probe_video(path)
        video = read_candidate_frames(path, FramePlan(frames_per_video=num_frames))
    except VideoError as error:
        result, detail = error.kind.value, error.cause
    else:
        size = f"{info.width}x{info.height}"
        result = f"{info.num_frames} frames of {size}, {info.duration_s:.2f} s"
        red, green, blue = video.frames.mean((0, 1, 2))
        detail = "; ".join([f"mean colour {red:.0f} {green:.0f} {blue:.0f}", *video.notes])
    return Row(path.name, result, detail, 1000 * (time.perf_counter() - start))


def main(
    folder: Path,
    frames: Annotated[int, typer.Option(min=1, help="candidate frames of each file")] = 8,
    expect: Annotated[Path | None, typer.Option(help="right values, `NAME: WORDS` a line")] = None,
) -> None:
    """Print a Markdown table of FOLDER's media."""
    paths = sorted(path for path in folder.iterdir() if path.suffix not in TABLES)
    right = read_expectations(expect) if expect is not None else {}
    typer.echo("| file | result | detail | ms | right |\n| --- | --- | --- | --- | --- |")
    num_wrong = 0
    for path in paths:
        row = read_file(path, frames)
        detail, words = row.detail.replace("|", "\\|"), right.get(row.name, "")
        is_right = words in f"{row.result} {row.detail}"
        num_wrong += not is_right
        verdict = ("yes" if is_right else f"NO, {words}") if words else ""
        typer.echo(f"| {row.name} | {row.result} | {detail} | {row.ms:.0f} | {verdict} |")
    raise typer.Exit(min(1, num_wrong))


def read_expectations(path: Path) -> dict[str, str]:
    """Read `NAME: WORDS` lines; raises `ValueError` for a line without a colon."""
    right = {}
    for line in path.read_text("utf-8").splitlines():
        name, colon, words = line.partition(":")
        if line.strip() and not colon:
            raise ValueError(f"got the line {line!r}; write NAME: WORDS")
        right[name.strip()] = words.strip()
    return right


if __name__ == "__main__":
    typer.run(main)
