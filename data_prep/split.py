"""Split a file of samples so that no two parts share a prompt or a video, and none overlaps a
benchmark.

    python -m data_prep.split train.parquet --video-root ~/data --out splits \\
        --fractions cold_start=.1,rft=.3,grpo=.5,validation=.1 --against genai.parquet --against mj.parquet

The one idea: samples that share a prompt or a video are one *group* (connected component), and a
group is never divided. A prompt is compared as its words, a video by its bytes. Groups go, largest
first, to the part that lacks their classes (source and overall label) most, so every part keeps the
balance of the whole. The same seed gives the same parts.

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
from verl_videosearch.sample import PreferenceSample, read_samples, swap_videos, write_samples

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
            f"no group is left for {empty}: {len(samples)} samples in {len(groups)} groups; ask for less"
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


def parse_fractions(text: str) -> dict[str, float]:
    """Read `name=fraction,...`; names are file names, fractions add up to 1.

    >>> parse_fractions("train=.9,validation=.1")
    {'train': 0.9, 'validation': 0.1}
    """
    fractions: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([\w-]+)\s*=\s*([0-9]*\.?[0-9]+)\s*", part)
        if match is None or float(match[2]) == 0 or match[1] in fractions:
            raise ValueError(
                f"--fractions must be name=fraction,... with names that differ, got {part!r}"
            )
        fractions[match[1]] = float(match[2])
    if abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(
            f"--fractions must add up to 1, got {sum(fractions.values()):g} from {text!r}"
        )
    return fractions


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


def main(
    file: Annotated[Path, typer.Argument(help="Parquet file of samples.")],
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.parquet of every part, and overlaps.json.")
    ],
    fractions: Annotated[str, typer.Option(help="Parts and their shares.")] = DEFAULT_FRACTIONS,
    against: Annotated[
        list[Path] | None, typer.Option(help="Benchmark to keep out; may be repeated.")
    ] = None,
    video_root: Annotated[Path | None, typer.Option(help="Folder of the videos.")] = None,
    against_root: Annotated[
        Path | None, typer.Option(help="That of the benchmarks; default: the same.")
    ] = None,
    both_orders: Annotated[
        list[str] | None,
        typer.Option(help="Part that also gets every pair with its videos swapped; repeatable."),
    ] = None,
    by_path: Annotated[
        bool, typer.Option("--by-path", help="Compare video names instead of bytes: weaker.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The same seed gives the same parts.")] = 0,
) -> None:
    """Split a file of samples without leaks."""
    console = Console()
    try:
        wanted = parse_fractions(fractions)
        if unknown := sorted(set(both_orders or ()) - set(wanted)):
            raise ValueError(
                f"--both-orders names no part: {', '.join(unknown)}; the parts are {', '.join(wanted)}"
            )
        samples = read_samples(file)
        benchmarks = {str(path): read_samples(path) for path in against or []}
        roots = [(each, against_root or video_root) for each in benchmarks.values()]
        keys, *benchmark_keys = make_keys([(samples, video_root), *roots], by_path)
        overlaps = [
            overlap
            for (name, others), other_keys in zip(benchmarks.items(), benchmark_keys, strict=True)
            for overlap in find_overlaps(samples, keys, name, others, other_keys)
        ]
        removed = {overlap.uid for overlap in overlaps}
        kept = [index for index, sample in enumerate(samples) if sample.uid not in removed]
        parts = split_samples(
            [samples[index] for index in kept], [keys[index] for index in kept], wanted, seed
        )
    except ValueError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    for name, part in parts.items():
        write_samples(
            out / f"{name}.parquet", add_swapped(part) if name in (both_orders or ()) else part
        )
    (out / "overlaps.json").write_text(
        json.dumps([asdict(overlap) for overlap in overlaps], indent=1), "utf-8"
    )
    for name in benchmarks:
        shared = Counter(
            " and ".join(overlap.shared) for overlap in overlaps if overlap.against == name
        )
        found = (
            ", ".join(f"{count:,} share {what}" for what, count in shared.items()) or "no overlap"
        )
        console.print(f"against {name}: {found}", markup=False, soft_wrap=True)
    method = "name only" if by_path else "content"
    console.print(
        f"{len(samples):,} samples read, {len(removed):,} removed as overlap; videos compared by {method}"
    )
    console.print(make_table(parts, wanted))


if __name__ == "__main__":
    typer.run(main)
