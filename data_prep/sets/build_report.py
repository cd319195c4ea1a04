"""What data_prep.build tells its user: what became of the rows, the labels, the missing videos.

The one idea: labels stand next to the source's own words for them, so a word that no reader knows
cannot hide.

Covers: tables for a terminal. Does not cover: the counting, which the readers do
(sources/source.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from verl_videosearch.judgement import OVERALL
from verl_videosearch.report.plain_text import clean_markup, clean_text
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.sources.source import ReadReport
from verl_videosearch.sources.video_finder import VideoFinder

MAX_NAMED = 10
"""How many missing files, and how many of a source's own label words, the report names."""


def make_tables(report: ReadReport, samples: Sequence[PreferenceSample]) -> Iterator[Table]:
    """Yield the tables of the report: rows, then labels."""
    rows = Table("rows", "", "first one", title_justify="left")
    rows.add_row("read", f"{report.num_read:,}", "")
    for reason, count in report.dropped.most_common():
        rows.add_row(
            f"dropped: {reason.value}", f"{count:,}", clean_markup(report.examples[reason][:80])
        )
    rows.add_row("samples", f"{len(samples):,}", "")
    yield rows
    labels = Table("label", "video 1", "video 2", "tie", "null", "as the source says")
    keys = dict.fromkeys(key for sample in samples for key in sample.labels)
    for key in keys:
        counts = Counter(sample.labels.get(key) for sample in samples)
        words = Counter(_word_of(sample, key) for sample in samples)
        words.pop("", None)
        named = ", ".join(f"{word} {count:,}" for word, count in words.most_common(MAX_NAMED))
        more = f", and {len(words) - MAX_NAMED} more" if len(words) > MAX_NAMED else ""
        labels.add_row(
            key, *(f"{counts[label]:,}" for label in (1, 2, 0, None)), clean_markup(named + more)
        )
    yield labels


def _word_of(sample: PreferenceSample, key: str) -> str:
    """Return the source's own word for a label; empty for numbers, which only the sample's meta
    shows."""
    if key == OVERALL and sample.meta.get("overall_is_derived"):
        return "(derived)"
    raw_labels = sample.meta["raw_labels"]
    word = raw_labels.get(key) if key in raw_labels else "(not asked)"
    return "" if isinstance(word, list) else "(missing)" if word in (None, "") else str(word)


def show_missing(console: Console, report: ReadReport, finder: VideoFinder) -> None:
    """Name the first missing files and where they were looked for."""
    if not report.missing:
        return
    places = ", ".join(str(finder.root / folder) for folder in finder.folders)
    console.print(
        clean_text(f"{len(report.missing):,} video files are missing; looked in {places}"),
        markup=False,
        soft_wrap=True,
    )
    for path in list(report.missing)[:MAX_NAMED]:
        console.print(clean_text(f"  {path}"), markup=False, soft_wrap=True)
    if archives := sorted(path.name for path in finder.root.glob("*.zip")):
        console.print(clean_text(f"unpack {', '.join(archives)} there first"), markup=False)
