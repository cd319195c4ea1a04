"""The benchmarks by their short names, read into samples.

The one idea: a benchmark is a public set's test split through the same reader that training data
takes, so a label means the same everywhere. A PATH.parquet of samples is a benchmark too.

Covers: finding labels and videos; a missing video is an error that says how many and where it was
looked for, unless the user leaves such pairs out on purpose. Does not cover: downloading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from verl_videosearch.sample import PreferenceSample, read_samples
from verl_videosearch.sources import BENCHMARKS
from verl_videosearch.sources.read import choose_split, read_samples_of
from verl_videosearch.sources.source import DropReason, ReadOptions, ReadReport
from verl_videosearch.sources.video_finder import VideoFinder

_NUM_NAMED = 5


@dataclass(frozen=True)
class Place:
    """A benchmark as it was asked for on the command line."""

    name: str
    """Short name of a public set, or a PATH.parquet."""
    root: Path | None = None
    """Folder of the label file."""
    video_root: Path | None = None
    """Folder of the videos; null: `root`, or that of the file of samples."""
    split: str | None = None

    @property
    def videos(self) -> Path | None:
        """Where relative video paths begin."""
        beside = Path(self.name).parent if self.name.endswith(".parquet") else None
        return self.video_root or self.root or beside


@dataclass(frozen=True)
class Benchmark:
    """Pairs to judge."""

    name: str
    split: str
    samples: list[PreferenceSample]
    num_missing: int = 0
    """Pairs that were left out because a video is not there."""
    dropped: str = ""
    """Rows of the label file that are no pairs, by reason, in words."""


def load_benchmark(
    name: str,
    root: Path | None,
    video_root: Path | None = None,
    *,
    split: str | None = None,
    needs_videos: bool = True,
    allows_missing: bool = False,
) -> Benchmark:
    """Read a benchmark by short name (labels below `root`), or a file of samples; raises
    `ValueError` for the user."""
    if name.endswith(".parquet"):
        return _load_file(Path(name), video_root, needs_videos, allows_missing)
    if name not in BENCHMARKS:
        raise ValueError(
            f"unknown benchmark {name!r}; choose {', '.join(BENCHMARKS)}, or give a "
            "PATH.parquet of "
            "samples"
        )
    if root is None:
        raise ValueError(f"benchmark {name} needs --root, the folder of its label file")
    benchmark = BENCHMARKS[name]
    source, split_name = choose_split(benchmark.name, split or benchmark.benchmark_splits[0])
    report = ReadReport()
    finder = VideoFinder(video_root or root, source.video_folders)
    keeps_missing = not (needs_videos and allows_missing)
    samples = list(
        read_samples_of(
            source, split_name, root, finder, ReadOptions(), report, keep_missing=keeps_missing
        )
    )
    if needs_videos and not allows_missing:
        _refuse_missing(list(report.missing), finder.root)
    num_missing = report.dropped.pop(DropReason.MISSING_FILE, 0)
    dropped = ", ".join(f"{reason.value} {count}" for reason, count in report.dropped.items())
    return Benchmark(name, split_name, samples, num_missing, dropped)


def list_places(
    names: Sequence[str],
    roots: Sequence[Path],
    video_roots: Sequence[Path],
    splits: Sequence[str],
) -> list[Place]:
    """Give every benchmark its folders and split: one for all, or one for each in their order;
    raises `ValueError`."""
    given = {"--root": roots, "--video-root": video_roots, "--split": splits}
    for option, values in given.items():
        if len(values) not in (0, 1, len(names)):
            raise ValueError(
                f"{option} is given once, or once per --benchmark in the same order; got "
                f"{len(values)} for {len(names)} benchmarks"
            )
    spread = [
        [*values, None][:1] * len(names) if len(values) < 2 else values for values in given.values()
    ]
    return [Place(*each) for each in zip(names, *spread, strict=True)]


def name_benchmarks(benchmarks: Sequence[Benchmark]) -> list[str]:
    """Name each benchmark for its folder, with its split where the name alone is taken; raises
    `ValueError` for two that are the same.

    >>> name_benchmarks([Benchmark("genai", "test", []), Benchmark("genai", "test_v1", [])])
    ['genai-test', 'genai-test_v1']
    """
    names = [each.name for each in benchmarks]
    full = [
        each.name if names.count(each.name) == 1 else f"{each.name}-{each.split}"
        for each in benchmarks
    ]
    if twice := sorted({name for name in full if full.count(name) > 1}):
        raise ValueError(
            f"two benchmarks have the name {', '.join(twice)}: judge each by a command of its own, "
            "with its own --out"
        )
    return full


def find_trained(
    samples: Sequence[PreferenceSample],
    videos: Path | None,
    trained: Sequence[Path],
    trained_roots: Sequence[Path],
    by_path: bool = False,
) -> str | None:
    """Say how many pairs share their prompt or a video with a file of training pairs, with an
    example; None when none does. Compared as `data split --against` does."""
    from verl_videosearch.data_prep.sets.sample_keys import make_keys
    from verl_videosearch.data_prep.split import find_overlaps, pair_roots

    files = pair_roots(trained, trained_roots, None)
    others = [read_samples(each.file) for each in files]
    rooted = [
        (pairs, each.root or each.file.parent) for pairs, each in zip(others, files, strict=True)
    ]
    keys, *other_keys = make_keys([(samples, videos), *rooted], by_path)
    found = [
        overlap
        for each, pairs, pair_keys in zip(files, others, other_keys, strict=True)
        for overlap in find_overlaps(samples, keys, str(each.file), pairs, pair_keys)
    ]
    if not found:
        return None
    first, count = found[0], len({overlap.uid for overlap in found})
    return (
        f"{count} of {len(samples)} pairs share a prompt or a video with training pairs, such as "
        f"{first.uid} its {' and '.join(first.shared)} with {first.against_uid} of {first.against}"
    )


def _load_file(
    path: Path, root: Path | None, needs_videos: bool, allows_missing: bool
) -> Benchmark:
    samples = read_samples(path)
    lacking = (
        {s.uid: [str(p) for p in s.resolve_videos(root) if not p.is_file()] for s in samples}
        if needs_videos
        else {}
    )
    if not allows_missing:
        _refuse_missing([video for videos in lacking.values() for video in videos], root)
    kept = [sample for sample in samples if not lacking.get(sample.uid)]
    split = ", ".join(sorted({sample.split for sample in samples}))
    return Benchmark(path.stem, split, kept, len(samples) - len(kept))


def _refuse_missing(missing: Sequence[str], root: Path | None) -> None:
    if missing:
        named = ", ".join(missing[:_NUM_NAMED]) + (", ..." if len(missing) > _NUM_NAMED else "")
        raise ValueError(
            f"{len(missing)} videos are missing below {root}: {named}; give their folder, or "
            "--allow-missing to leave such pairs out (the header of every table will say so)"
        )


def draw_samples(
    samples: Sequence[PreferenceSample], limit: int | None, seed: int
) -> list[PreferenceSample]:
    """Return at most `limit` samples, drawn by the seed, in file order."""
    if limit is None or limit >= len(samples):
        return list(samples)
    return [samples[i] for i in sorted(Random(seed).sample(range(len(samples)), limit))]
