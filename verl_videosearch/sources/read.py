"""Read a split of a preference set, or the user's own file, into samples.

The one idea: every row becomes a sample or is counted under one reason, and a column whose words
give no label at all is an error, never a column of nulls.

    report = ReadReport()
    finder = VideoFinder(root, source.video_folders)
    samples = list(read_samples_of(source, "test", root, finder, ReadOptions(), report))

Covers: labels, derived overall labels, finding the videos. Does not cover: drawing a subset and
writing files (`data_prep.build`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.sources import SOURCES
from verl_videosearch.sources.fields import vote_overall
from verl_videosearch.sources.label_words import ALLOWED
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

T = TypeVar("T")
_NUM_NAMED = 3


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
        report.note_labels(pair)
        try:
            sample = to_sample(pair, uid, source.name, split, options.keeps_unlabelled)
            yield _locate_videos(sample, finder, report, keep_missing)
        except BadRow as problem:
            report.drop(where, problem)
    _refuse_unread_columns(root, source, report)


def _refuse_unread_columns(root: Path, source: Source, report: ReadReport) -> None:
    """Raise `SourceError` for a label column with words of which none was read."""
    if not (unread := report.find_unread_columns()):
        return
    named = "; ".join(
        f"{key}: {', '.join(repr(word) for word, _ in words.most_common(_NUM_NAMED))}"
        for key, words in unread.items()
    )
    advice = f"allowed are {ALLOWED}" if source.is_own else "is it the right --source?"
    raise SourceError(f"{root}: no label could be read from the words of {named}; {advice}")


def _read_pairs(
    source: Source, split: str, root: Path, options: ReadOptions, report: ReadReport
) -> Iterator[tuple[int, Pair]]:
    """Yield (number, pair); the number is the row's for a table of pairs, else that of the pair."""
    table = source.splits[split]
    files = find_files(root, table.patterns)
    report.files += files
    foreign = table.foreign_columns if isinstance(table, PairTable) else ()
    rows = enumerate(read_rows(files, table.columns, foreign, is_own=source.is_own), 1)
    if isinstance(table, PairTable):
        yield from _convert(rows, root, lambda row: table.to_pair(row, options), report)
        return
    rated: Iterator[RatedVideo] = (
        video for _, video in _convert(rows, root, table.to_rating, report)
    )
    yield from enumerate(pair_videos(rated, table, options, report), 1)


def _convert(
    rows: Iterable[tuple[int, Any]],
    root: Path,
    convert: Callable[[Mapping[str, Any]], T],
    report: ReadReport,
) -> Iterator[tuple[int, T]]:
    for number, row in rows:
        report.num_read += 1
        try:
            if not isinstance(row, Mapping):
                raise BadRow(DropReason.NOT_A_ROW, f"{row!r:.60}")
            yield number, convert(row)
        except BadRow as problem:
            report.drop(f"row {number}", problem)
        except SourceError as error:
            raise SourceError(f"{root}, row {number}: {error}") from error


def to_sample(
    pair: Pair, uid: str, source: str, split: str, keeps_unlabelled: bool = False
) -> PreferenceSample:
    """Make a sample of a pair; a dimension that the source does not judge is null, a missing
    overall is voted."""
    if pair.video_1 == pair.video_2:
        raise BadRow(DropReason.SAME_VIDEO, pair.video_1)
    labels = {dimension.key: pair.labels.get(dimension.key) for dimension in pair.dimensions}
    meta = {**pair.meta, "raw_labels": {key: _plain(word) for key, word in pair.raw_labels.items()}}
    overall = pair.labels[OVERALL] if OVERALL in pair.labels else vote_overall(labels)
    if OVERALL not in pair.labels and overall is not None:
        meta["overall_is_derived"] = True
    is_kept = keeps_unlabelled or pair.is_for_judging
    if {overall, *labels.values()} == {None} and not is_kept:
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


def choose_split(source: str, split: str | None) -> tuple[Source, str]:
    """Look up a source and a split; raises `SourceError` that lists what there is."""
    if source not in SOURCES:
        raise SourceError(f"unknown source {source!r}; choose one of {', '.join(SOURCES)}")
    splits = SOURCES[source].splits
    if split is not None and split not in splits:
        raise SourceError(f"{source} has no split {split!r}; choose one of {', '.join(splits)}")
    return SOURCES[source], split or next(iter(splits))
