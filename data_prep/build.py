"""Read a preference set into a file of samples, and say what became of every row.

    python -m data_prep.build --source genai_bench --root ~/data/GenAI-Bench --out genai.parquet
    python -m data_prep.build --source mj_bench_video --split test --root ~/data/MJ --check
    --keep-missing

The one idea: a row is written or counted under one reason, so `read = written + dropped` for sets
of pairs. The table at the end shows the labels as written next to the source's own words, so an
unknown word cannot hide.

Covers: the sources of data_prep/sources; finding the videos below the root (or --video-root);
`--check`, which writes nothing; a random subset (`--limit`, `--seed`). Does not cover: downloading,
unpacking zip files, decoding (frames.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.console import Console
from verl_videosearch.data_prep.sets.build_report import make_tables, show_missing

from verl_videosearch.judgement import DEFAULT_DIMENSIONS, OVERALL, Dimension
from verl_videosearch.sample import PreferenceSample, write_samples
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.fields import vote_overall
from verl_videosearch.sources.pairing import pair_videos
from verl_videosearch.sources.source import (
    BadRow,
    DropReason,
    Pair,
    PairTable,
    RatedVideo,
    ReadOptions,
    ReadReport,
    Source,
    SourceError,
)
from verl_videosearch.sources.tables import find_files, read_rows
from verl_videosearch.sources.video_finder import VideoFinder


def read_samples_of(
    source: Source,
    split: str,
    root: Path,
    finder: VideoFinder,
    options: ReadOptions,
    report: ReadReport,
    *,
    keep_missing: bool = False,
) -> Iterator[PreferenceSample]:
    """Yield a split's samples in file order; fills `report`. Raises `SourceError` for a wrong
    file."""
    for number, pair in _read_pairs(source, split, root, options, report):
        where, uid = f"row {number}", f"{source.name}/{split}/{number:06d}"
        try:
            sample = to_sample(pair, uid, source.name, split)
            yield _locate_videos(sample, finder, report, keep_missing)
        except BadRow as problem:
            report.drop(where, problem)


def _read_pairs(
    source: Source, split: str, root: Path, options: ReadOptions, report: ReadReport
) -> Iterator[tuple[int, Pair]]:
    """Yield (number, pair); the number is the row's for a table of pairs, else that of the pair."""
    table = source.splits[split]
    rows = enumerate(read_rows(find_files(root, table.patterns), table.columns), 1)
    if isinstance(table, PairTable):
        yield from _convert(rows, lambda row: table.to_pair(row, options), report)
        return
    rated: Iterator[RatedVideo] = (video for _, video in _convert(rows, table.to_rating, report))
    yield from enumerate(pair_videos(rated, table, options, report), 1)


def _convert(
    rows: Iterable[tuple[int, Any]], convert: Any, report: ReadReport
) -> Iterator[tuple[int, Any]]:
    for number, row in rows:
        report.num_read += 1
        try:
            if not isinstance(row, Mapping):
                raise BadRow(DropReason.NOT_A_ROW, f"{row!r:.60}")
            yield number, convert(row)
        except BadRow as problem:
            report.drop(f"row {number}", problem)


def to_sample(pair: Pair, uid: str, source: str, split: str) -> PreferenceSample:
    """Make a sample of a pair; a dimension that the source does not judge is null, a missing
    overall is voted."""
    if pair.video_1 == pair.video_2:
        raise BadRow(DropReason.SAME_VIDEO, pair.video_1)
    labels = {dimension.key: pair.labels.get(dimension.key) for dimension in pair.dimensions}
    meta = {**pair.meta, "raw_labels": {key: _plain(word) for key, word in pair.raw_labels.items()}}
    if OVERALL not in pair.labels:
        meta["overall_is_derived"] = True
    overall = pair.labels[OVERALL] if OVERALL in pair.labels else vote_overall(labels)
    if {overall, *labels.values()} == {None}:
        raise BadRow(DropReason.NO_LABEL, f"{meta['raw_labels']}"[:100])
    return PreferenceSample(
        uid,
        pair.prompt,
        pair.video_1,
        pair.video_2,
        labels | {OVERALL: overall},
        pair.dimensions,
        source,
        split,
        meta,
    )


def _plain(value: Any) -> Any:
    """Keep what JSON knows, name the rest."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else f"{value!r:.60}"


def _locate_videos(
    sample: PreferenceSample, finder: VideoFinder, report: ReadReport, keep_missing: bool
) -> PreferenceSample:
    """Replace both paths by those of the files; raises `BadRow` if one is missing, unless those are
    kept."""
    found = {path: finder.find(path) for path in (sample.video_1, sample.video_2)}
    urls = {
        sample.video_1: sample.meta.get("url_1", ""),
        sample.video_2: sample.meta.get("url_2", ""),
    }
    missing = [path for path, file in found.items() if file is None]
    report.missing |= {path: urls[path] for path in missing}
    if missing and not keep_missing:
        raise BadRow(DropReason.MISSING_FILE, ", ".join(missing))
    return replace(
        sample,
        video_1=found[sample.video_1] or sample.video_1,
        video_2=found[sample.video_2] or sample.video_2,
    )


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
        return tuple(Dimension(**fields) for fields in json.loads(path.read_text("utf-8")))
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
) -> None:
    """Read a preference set into a file of samples."""
    console = Console()
    try:
        chosen, split_name = choose_split(source, split)
        if (out is None) != check:
            raise SourceError("give either --out FILE or --check")
        options = ReadOptions(seed, margin, max_pairs_per_prompt, read_dimensions(dimensions))
        finder = VideoFinder(
            video_root or (root.parent if root.is_file() else root), chosen.video_folders
        )
        report = ReadReport()
        samples = list(
            read_samples_of(
                chosen, split_name, root, finder, options, report, keep_missing=keep_missing
            )
        )
    except SourceError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    samples = draw_samples(samples, limit, seed, report)
    console.print(f"{chosen.title}, split {split_name}", markup=False)
    for table in make_tables(report, samples):
        console.print(table)
    show_missing(console, report, finder)
    if missing_list is not None:
        missing_list.write_text(
            "".join(f"{path}\t{url}\n" for path, url in report.missing.items()), "utf-8"
        )
    if not samples:
        Console(stderr=True).print("error: no sample is left; nothing was written", soft_wrap=True)
        raise typer.Exit(1)
    if out is not None:
        console.print(
            f"wrote {write_samples(out, samples):,} samples to {out}", markup=False, soft_wrap=True
        )


def choose_split(source: str, split: str | None) -> tuple[Source, str]:
    """Look up a source and a split; raises `SourceError` that lists what there is."""
    if source not in SOURCES:
        raise SourceError(f"unknown source {source!r}; choose one of {', '.join(SOURCES)}")
    splits = SOURCES[source].splits
    if split is not None and split not in splits:
        raise SourceError(f"{source} has no split {split!r}; choose one of {', '.join(splits)}")
    return SOURCES[source], split or next(iter(splits))


if __name__ == "__main__":
    typer.run(main)
