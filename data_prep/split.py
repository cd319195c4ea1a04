"""Split a file of samples so that no two parts share a prompt or a video, and none overlaps a
benchmark.

    python -m data_prep.split train.parquet --video-root ~/data --out splits \\
        --fractions cold_start=.1,rft=.3,grpo=.6,validation=512 \\
        --against genai.parquet --against-root GENAI --against mj.parquet --against-root MJ

The one idea: samples that share a prompt or a video are one *group* (connected component), and a
group is never divided. A prompt is compared as its words, a video by its bytes. Groups go, largest
first, to the part that lacks their classes (source and overall label) most, so every part keeps the
balance of the whole. The same seed gives the same parts. A part may also be a number of samples: it
gets no more than that, and the shares are of what the numbers leave.

Covers: renamed and copied videos, prompts that differ in case, punctuation or blanks; removal of
every sample that shares a prompt or a video with a file given as --against, listed in
overlaps.json. Does not cover: a video that was re-encoded, a prompt that was reworded.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from verl_videosearch.data_prep.sets.sample_keys import Keys, make_keys, normalise_prompt

from verl_videosearch.judgement import OVERALL
from verl_videosearch.models.option_groups import VideoRoot
from verl_videosearch.report.console import explain_errors, say
from verl_videosearch.runs.folder import RunFolder, explain_disk
from verl_videosearch.sample import PreferenceSample, read_samples, swap_videos, write_samples

PARTS = "parts.json"
"""The names of the parts that a folder holds."""
SWAPPED = "-swapped"
"""Ends the uid of a pair whose videos were swapped."""
DEFAULT_FRACTIONS = "cold_start=.1,rft=.3,grpo=.5,validation=.1"


@dataclass(frozen=True)
class Overlap:
    """A sample that was removed because a benchmark holds its prompt or one of its videos."""

    uid: str
    against: str
    """The benchmark's file."""
    against_uid: str
    """The first of its samples that shares something."""
    shared: tuple[str, ...]
    """`prompt`, `video` or both."""


def find_overlaps(
    samples: Sequence[PreferenceSample],
    keys: Sequence[Keys],
    against: str,
    others: Sequence[PreferenceSample],
    other_keys: Sequence[Keys],
) -> list[Overlap]:
    """List the samples that share their prompt or a video with a sample of `others`."""
    owner: dict[str, str] = {}
    for other, key in zip(others, other_keys, strict=True):
        for part in key:
            owner.setdefault(part, other.uid)
    overlaps = []
    for sample, key in zip(samples, keys, strict=True):
        if hits := [part for part in key if part in owner]:
            shared = tuple(dict.fromkeys(part.split(" ", 1)[0] for part in hits))
            overlaps.append(Overlap(sample.uid, against, owner[hits[0]], shared))
    return overlaps


def group_samples(keys: Sequence[Iterable[str]]) -> list[list[int]]:
    """Group the indices of samples that are connected by shared keys.

    >>> group_samples([["a", "b"], ["c"], ["b", "d"], ["d"]])
    [[0, 2, 3], [1]]
    """
    parent = list(range(len(keys)))

    def root_of(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first_with: dict[str, int] = {}
    for index, parts in enumerate(keys):
        for part in parts:
            parent[root_of(index)] = root_of(first_with.setdefault(part, index))
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(keys)):
        groups[root_of(index)].append(index)
    return sorted(groups.values())


def assign_groups(
    groups: Sequence[Sequence[int]],
    classes: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, list[int]]:
    """Give every group to one part, so that the parts reach their fractions of every class as
    nearly as possible.

    >>> parts = assign_groups([[0], [1], [2], [3, 4]], "aabbb", {"train": 0.6, "test": 0.4}, seed=0)
    >>> {name: [("aabbb")[index] for index in part] for name, part in parts.items()}
    {'train': ['a', 'b', 'b'], 'test': ['a', 'b']}
    """
    totals = Counter(classes)
    filled: dict[str, Counter[str]] = {name: Counter() for name in fractions}
    parts: dict[str, list[int]] = {name: [] for name in fractions}
    order = list(groups)
    Random(seed).shuffle(order)
    for group in sorted(order, key=len, reverse=True):
        added = Counter(classes[index] for index in group)

        def cost(name: str, added: Counter[str] = added) -> float:
            """Change of the squared distance to the targets, relative to them, if the group goes to
            this part."""
            targets = {each: fractions[name] * totals[each] for each in added}
            return sum(
                n * (n + 2 * (filled[name][each] - targets[each])) / targets[each]
                for each, n in added.items()
            )

        chosen = min(fractions, key=cost)
        filled[chosen] += added
        parts[chosen].extend(group)
    return {name: sorted(part) for name, part in parts.items()}


def split_samples(
    samples: Sequence[PreferenceSample],
    keys: Sequence[Keys],
    fractions: Mapping[str, float],
    seed: int = 0,
) -> dict[str, list[PreferenceSample]]:
    """Split samples into parts that share no prompt and no video; raises `ValueError` if a part
    would be empty."""
    groups = group_samples(keys)
    classes = [f"{sample.source} {sample.labels[OVERALL]}" for sample in samples]
    parts = assign_groups(groups, classes, fractions, seed)
    if empty := [name for name, part in parts.items() if not part]:
        raise ValueError(
            f"no group is left for {empty}: {len(samples)} samples in {len(groups)} groups; "
            "ask for less"
        )
    return {
        name: [replace(samples[index], split=name) for index in part]
        for name, part in parts.items()
    }


def add_swapped(samples: Sequence[PreferenceSample]) -> list[PreferenceSample]:
    """Return each pair followed by itself with the videos swapped, so that a mean over both hides
    no position bias."""
    return [
        each
        for sample in samples
        for each in (sample, replace(swap_videos(sample), uid=f"{sample.uid}{SWAPPED}"))
    ]


@dataclass(frozen=True)
class Parts:
    """What parts are asked for, in their order."""

    shares: Mapping[str, float]
    """Part of the whole; they add up to 1."""
    counts: Mapping[str, int]
    """Most samples; such parts come before the shares are taken."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*self.shares, *self.counts)

    def fractions_of(self, total: int) -> dict[str, float]:
        """Return the fraction of `total` samples that every part aims at; raises `ValueError` if
        the counts leave nothing.

        >>> Parts({"train": 1.0}, {"validation": 20}).fractions_of(100)
        {'train': 0.8, 'validation': 0.2}
        """
        left = total - sum(self.counts.values())
        if left <= 0:
            raise ValueError(
                f"--fractions asks for {total - left} samples by number, and only {total} are there"
            )
        shares = {name: share * left / total for name, share in self.shares.items()}
        return shares | {name: count / total for name, count in self.counts.items()}


def parse_fractions(text: str) -> Parts:
    """Read `name=fraction,...`; names are file names, fractions add up to 1, and a whole number
    above 1 is a number of samples.

    >>> parse_fractions("train=.9,test=.1,validation=512")
    Parts(shares={'train': 0.9, 'test': 0.1}, counts={'validation': 512})
    """
    shares: dict[str, float] = {}
    counts: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\w-]+)\s*=\s*([0-9]*\.?[0-9]+)\s*", part)
        if match is None or float(match[2]) == 0 or match[1] in {*shares, *counts}:
            raise ValueError(
                f"--fractions must be name=fraction,... with names that differ, got {part!r}"
            )
        if match[2].isdecimal() and int(match[2]) > 1:
            counts[match[1]] = int(match[2])
        else:
            shares[match[1]] = float(match[2])
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(
            f"--fractions must add up to 1, got {sum(shares.values()):g} from {text!r}; "
            "a whole number above 1 is a number of samples and does not count"
        )
    return Parts(shares, counts)


def draw_at_most(
    samples: Sequence[PreferenceSample], count: int, seed: int
) -> list[PreferenceSample]:
    """Draw so many samples, once and for all, in their order."""
    kept = Random(seed).sample(range(len(samples)), min(count, len(samples)))
    return [samples[index] for index in sorted(kept)]


def make_table(
    parts: Mapping[str, Sequence[PreferenceSample]], fractions: Mapping[str, float]
) -> Table:
    """Show the size and the classes of every part."""
    total = sum(map(len, parts.values()))
    table = Table(
        "part", "samples", "share", "asked", "prompts", "video 1", "video 2", "tie", "null"
    )
    for name, part in parts.items():
        labels = Counter(sample.labels[OVERALL] for sample in part)
        prompts = {normalise_prompt(sample.prompt) for sample in part}
        shares = [f"{labels[label] / len(part):.1%}" for label in (1, 2, 0, None)]
        table.add_row(
            name,
            f"{len(part):,}",
            f"{len(part) / total:.1%}",
            f"{fractions[name]:.1%}",
            f"{len(prompts):,}",
            *shares,
        )
    return table


@dataclass(frozen=True)
class Against:
    """A benchmark that no part may share a prompt or a video with."""

    file: Path
    root: Path | None
    """Folder of its videos."""


@dataclass(frozen=True)
class SplitReport:
    """What `split_file` has done."""

    num_read: int
    parts: Mapping[str, Sequence[PreferenceSample]]
    fractions: Mapping[str, float]
    overlaps: Mapping[str, Sequence[Overlap]]
    """By the benchmark's file."""
    num_surplus: Mapping[str, int]
    """Samples of a part beyond its number, left out."""

    @property
    def num_removed(self) -> int:
        return len({overlap.uid for each in self.overlaps.values() for overlap in each})


def split_file(
    file: Path,
    out: Path,
    wanted: Parts,
    *,
    video_root: Path | None = None,
    against: Sequence[Against] = (),
    both_orders: Sequence[str] = (),
    by_path: bool = False,
    seed: int = 0,
) -> SplitReport:
    """Split a file of samples without leaks into `out`/NAME.parquet, and list what was removed in
    `out`/overlaps.json; raises `ValueError` for the user."""
    if unknown := sorted(set(both_orders) - set(wanted.names)):
        raise ValueError(
            f"--both-orders names no part: {', '.join(unknown)}; "
            f"the parts are {', '.join(wanted.names)}"
        )
    refuse_old_parts(out, wanted.names)
    named = [str(each.file) for each in against]
    if repeated := sorted({name for name in named if named.count(name) > 1}):
        raise ValueError(f"--against names {repeated[0]} more than once; give each file once")
    samples = read_samples(file)
    benchmarks = {str(each.file): read_samples(each.file) for each in against}
    rooted = [(benchmarks[str(each.file)], each.root) for each in against]
    keys, *benchmark_keys = make_keys([(samples, video_root), *rooted], by_path)
    overlaps = {
        name: find_overlaps(samples, keys, name, others, other_keys)
        for (name, others), other_keys in zip(benchmarks.items(), benchmark_keys, strict=True)
    }
    removed = {overlap.uid for each in overlaps.values() for overlap in each}
    kept = [index for index, sample in enumerate(samples) if sample.uid not in removed]
    fractions = wanted.fractions_of(len(kept))
    kept_samples, kept_keys = [samples[index] for index in kept], [keys[index] for index in kept]
    parts = split_samples(kept_samples, kept_keys, fractions, seed)
    surplus = {name: len(parts[name]) - count for name, count in wanted.counts.items()}
    for name, count in wanted.counts.items():
        parts[name] = draw_at_most(parts[name], count, seed)
    listed = [asdict(overlap) for each in overlaps.values() for overlap in each]
    folder = RunFolder(out)
    folder.write_json(PARTS, list(parts))
    with explain_disk(out):
        for name, part in parts.items():
            rows = add_swapped(part) if name in both_orders else part
            write_samples(out / f"{name}.parquet", rows)
    folder.write_text("overlaps.json", json.dumps(listed, indent=1))
    surplus = {name: number for name, number in surplus.items() if number > 0}
    return SplitReport(len(samples), parts, fractions, overlaps, surplus)


def refuse_old_parts(out: Path, names: Sequence[str]) -> None:
    """Raise `ValueError` for parts of another split in the folder: beside the new ones they would
    share their samples."""
    old = [name for name in RunFolder(out).read_json(PARTS) or () if name not in names]
    if left := [f"{name}.parquet" for name in old if (out / f"{name}.parquet").exists()]:
        raise ValueError(
            f"{out} holds {', '.join(left)} of another split, with samples that the new parts "
            "would hold, too; choose another --out, or delete them"
        )


def describe_split(report: SplitReport, by_path: bool) -> list[str]:
    """Say in lines what was removed, and against which benchmark."""
    lines = []
    for name, overlaps in report.overlaps.items():
        shared = Counter(" and ".join(overlap.shared) for overlap in overlaps)
        found = ", ".join(f"{count:,} share {what}" for what, count in shared.items())
        lines.append(f"against {name}: {found or 'no overlap'}")
    method = "name only" if by_path else "content"
    lines.append(
        f"{report.num_read:,} samples read, {report.num_removed:,} removed as overlap; "
        f"videos compared by {method}"
    )
    for name, number in report.num_surplus.items():
        lines.append(f"{name}: {number:,} samples above its number were left out")
    return lines


def pair_roots(files: Sequence[Path], roots: Sequence[Path], default: Path | None) -> list[Against]:
    """Give every benchmark its folder: one for all, or one for each in their order."""
    if len(roots) not in (0, 1, len(files)):
        raise ValueError(
            f"--against-root is given once, or once per --against in the same order; "
            f"got {len(roots)} for {len(files)} benchmarks"
        )
    found = list(roots) if len(roots) == len(files) else [*roots, default][:1] * len(files)
    return [Against(file, root) for file, root in zip(files, found, strict=True)]


def main(
    file: Annotated[Path, typer.Argument(help="Parquet file of samples.")],
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.parquet of every part, and overlaps.json.")
    ],
    fractions: Annotated[
        str, typer.Option(help="Parts and their shares; a whole number: so many samples.")
    ] = DEFAULT_FRACTIONS,
    against: Annotated[
        list[Path] | None, typer.Option(help="Benchmark to keep out; may be repeated.")
    ] = None,
    video_root: VideoRoot = None,
    against_root: Annotated[
        list[Path] | None,
        typer.Option(help="That of the benchmarks, or of each in turn; default: the same."),
    ] = None,
    both_orders: Annotated[
        list[str] | None,
        typer.Option(help="Part that also gets every pair with its videos swapped; repeatable."),
    ] = None,
    by_path: Annotated[
        bool, typer.Option("--by-path", help="Compare two last parts of paths, not bytes: weaker.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same parts.")] = 0,
) -> None:
    """Split a file of samples without leaks."""
    console = Console()
    with explain_errors():
        report = split_file(
            file,
            out,
            parse_fractions(fractions),
            video_root=video_root,
            against=pair_roots(against or (), against_root or (), video_root),
            both_orders=both_orders or (),
            by_path=by_path,
            seed=seed,
        )
    for line in describe_split(report, by_path):
        say(line)
    console.print(make_table(report.parts, report.fractions))


if __name__ == "__main__":
    typer.run(main)
