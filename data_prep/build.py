"""Read a preference set into a file of samples, and say what became of every row.

    python -m data_prep.build --source genai_bench --root ~/data/GenAI-Bench --out genai.parquet
    python -m data_prep.build --source mj_bench_video --split test --root ~/data/MJ --check
    --keep-missing

The one idea: a row is written or counted under one reason, so `read = written + dropped` for sets
of pairs. The table at the end shows the labels as written next to the source's own words, so an
unknown word cannot hide.

Covers: the sets of verl_videosearch/sources; finding the videos below the root (or --video-root);
`--check`, which writes nothing; a random subset (`--limit`, `--seed`). Does not cover: downloading,
unpacking zip files, decoding (frames.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from verl_videosearch.data_prep.sets.build_report import make_tables, show_missing

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, Dimension
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.folder import RunFolder, explain_disk
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.read import choose_split, read_samples_of
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    ReadOptions,
    ReadReport,
    SourceError,
)
from verl_videosearch.sources.video_finder import VideoFinder


def draw_samples(
    samples: list[PreferenceSample], limit: int | None, seed: int, report: ReadReport
) -> list[PreferenceSample]:
    """Keep `limit` samples, drawn at random, in their order."""
    if limit is None or limit >= len(samples):
        return samples
    report.drop("--limit", BadRow(DropReason.OVER_LIMIT), len(samples) - limit)
    return [samples[index] for index in sorted(Random(seed).sample(range(len(samples)), limit))]


def read_dimensions(path: Path | None) -> tuple[Dimension, ...]:
    """Read a JSON list of {key, name, explanation}; without a file the default three."""
    if path is None:
        return DEFAULT_DIMENSIONS
    try:
        found = tuple(Dimension(**fields) for fields in json.loads(path.read_text("utf-8")))
        keys = [dimension.key for dimension in found]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"the keys {repeated} stand there more than once")
        return found
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(
            f"--dimensions {path}: {error}; give a JSON list of key, name, explanation"
        ) from error


def main(
    source: Annotated[str, typer.Option(help=f"One of {', '.join(SOURCES)}.")],
    root: Annotated[Path, typer.Option(help="Folder of the label file, or the file itself.")],
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of the source; default: its first.")
    ] = None,
    video_root: Annotated[
        Path | None, typer.Option(help="Folder of the videos; default: the root.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Write at most this many samples, drawn at random.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit and of the pairing.")] = 0,
    check: Annotated[bool, typer.Option("--check", help="Read and report, write nothing.")] = False,
    keep_missing: Annotated[
        bool, typer.Option(help="Keep pairs whose videos are not there (yet).")
    ] = False,
    missing_list: Annotated[
        Path | None, typer.Option(help="Write all missing files here: path, tab, URL.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(min=0, help="Scores this close are a tie.")
    ] = None,
    max_pairs_per_prompt: Annotated[
        int, typer.Option(min=1, help="For sets that rate single videos.")
    ] = 4,
    dimensions: Annotated[
        Path | None, typer.Option(help="JSON list of dimensions, for pairs_csv.")
    ] = None,
    keep_unlabelled: Annotated[
        bool, typer.Option(help="Keep pairs without any label, to be judged.")
    ] = False,
) -> None:
    """Read a preference set into a file of samples."""
    console = Console()
    with explain_errors():
        chosen, split_name = choose_split(source, split)
        if (out is None) != check:
            raise SourceError("give either --out FILE or --check")
        options = ReadOptions(
            seed, margin, max_pairs_per_prompt, read_dimensions(dimensions), keep_unlabelled
        )
        finder = VideoFinder(
            video_root or (root.parent if root.is_file() else root), chosen.video_folders
        )
        report = ReadReport()
        samples = list(
            read_samples_of(
                chosen, split_name, root, finder, options, report, keep_missing=keep_missing
            )
        )
    samples = draw_samples(samples, limit, seed, report)
    console.print(f"{chosen.title}, split {split_name}", markup=False)
    if len(report.files) > 1:
        named = ", ".join(path.name for path in report.files)
        say(f"read {len(report.files)} label files: {named}")
    for table in make_tables(report, samples):
        console.print(table)
    show_missing(console, report, finder)
    with explain_errors():
        if missing_list is not None:
            lines = [f"{path}\t{url}\n" for path, url in report.missing.items()]
            RunFolder(missing_list.parent).write_text(missing_list.name, "".join(lines))
        if not samples:
            raise SourceError("no sample is left; nothing was written")
        if out is not None:
            with explain_disk(out):
                write_samples(out, samples)
            say(f"wrote {len(samples):,} samples to {out}")


if __name__ == "__main__":
    typer.run(main)
